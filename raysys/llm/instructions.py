"""Instructions for language models, sent by the stages; the zoo's rewriter is trained on them."""

from __future__ import annotations

GENERALIZE = {
    "general": "Convert this caption of an image to a more general caption: {caption}",
    "five_words": "Make this caption of an image extremely general (result in less than 5 words): {caption}",
}
"""The two levels of caption generalization, worded as in the paper (Li et al. 2023, arXiv 2309.07254, §3.1)."""

TRANSLATE = "Translate this caption of an image from {source} to {target}: {caption}"

LANGUAGE_NAMES = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hi": "Hindi",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nb": "Norwegian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
"""Language code → the name that a prompt uses."""


def generalize_prompt(level: str, caption: str) -> str:
    """The instruction for one caption. Raises KeyError for an unknown level."""
    return GENERALIZE[level].replace("{caption}", caption)


def translate_prompt(caption: str, source: str, target: str) -> str:
    """The instruction for one caption; `source` and `target` are language codes of `LANGUAGE_NAMES`."""
    names = TRANSLATE.replace("{source}", LANGUAGE_NAMES[source]).replace("{target}", LANGUAGE_NAMES[target])
    return names.replace("{caption}", caption)
