"""Recipes for published captioners: prompts, formats and image sizes.

A recipe fills in values that the configuration does not set; all can be overridden. Weights are never downloaded; get a
pinned revision with `hf download <repository> --revision <commit> --local-dir <folder>`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from raysys.llm.config import LlmConfig
from raysys.llm.contract import SamplingConfig


@dataclass(frozen=True)
class Recipe:
    """Defaults of one kind of captioner.

    repository: source of the weights, for the message about a missing folder; None = there are several.
    prompts: name → text; each gives one caption per image.
    spare_prompts: name → text, alternative wordings for images with a rejected caption.
    image_size: longest side in pixels to which images are shrunk before they are sent to workers.
    """

    repository: str | None
    prompts: dict[str, str]
    image_size: int
    max_tokens: int
    spare_prompts: dict[str, str] = field(default_factory=dict)
    language: str = "en"
    engine: str = "auto"
    prompt_format: Literal["auto", "chat", "completion"] = "chat"
    template: str = "{prompt}"
    max_model_len: int | None = None
    needs_remote_code: bool = False
    engine_kwargs: dict[str, Any] = field(default_factory=dict)
    generate_kwargs: dict[str, Any] = field(default_factory=dict)


_DESCRIBE = "Describe this image in one or two plain sentences."
_SHOWS = {"shows": "What does this image show? Answer in one plain sentence."}

RECIPES: dict[str, Recipe] = {
    "chat": Recipe(
        repository=None,
        prompts={"describe": _DESCRIBE},
        spare_prompts=_SHOWS,
        image_size=512,
        max_tokens=128,
    ),
    # Image captioning with OPT as the language model: no prompt, or a prefix that the model continues (Li et al. 2023).
    "blip2": Recipe(
        repository="Salesforce/blip2-opt-2.7b",
        prompts={"plain": "", "photo": "a photo of"},
        spare_prompts={"picture": "a picture of"},
        image_size=364,
        max_tokens=40,
        prompt_format="completion",
    ),
    # Task tokens instead of sentences; beam search of 3 as in the model card. vLLM does not serve it.
    "florence2": Recipe(
        repository="florence-community/Florence-2-large",
        prompts={"caption": "<CAPTION>", "detailed": "<DETAILED_CAPTION>"},
        spare_prompts={"more_detailed": "<MORE_DETAILED_CAPTION>"},
        image_size=768,
        max_tokens=256,
        engine="transformers",
        prompt_format="completion",
        generate_kwargs={"num_beams": 3},
    ),
    "phi3_vision": Recipe(
        repository="microsoft/Phi-3-vision-128k-instruct",
        prompts={"describe": _DESCRIBE},
        spare_prompts=_SHOWS,
        image_size=672,
        max_tokens=128,
        engine="vllm",  # its processor in transformers takes one prompt at a time
        prompt_format="completion",
        template="<|user|>\n<|image_1|>\n{prompt}<|end|>\n<|assistant|>\n",
        max_model_len=4096,
        needs_remote_code=True,
        engine_kwargs={"mm_processor_kwargs": {"num_crops": 4}},
    ),
    "qwen2_vl": Recipe(
        repository="Qwen/Qwen2-VL-2B-Instruct",
        prompts={"describe": _DESCRIBE},
        spare_prompts=_SHOWS,
        image_size=512,
        max_tokens=128,
        max_model_len=2048,
    ),
    # The model card's conversation format. For other Japanese LLaVAs, which differ in white space and names, set
    # `template`.
    "llava_ja": Recipe(
        repository="cyberagent/llava-calm2-siglip",
        prompts={"describe": "この画像を一、二文で簡潔に説明してください。"},
        spare_prompts={"shows": "この画像には何が写っていますか。一文で答えてください。"},
        image_size=384,
        max_tokens=128,
        language="ja",
        prompt_format="completion",
        template="USER: <image>\n{prompt}\nASSISTANT: ",
        max_model_len=2048,
    ),
    # The embedded captioner for scenes of 64 px, with the two prompts with which it was trained.
    "scenes": Recipe(
        repository=None,
        prompts={"photo": "a photo of", "picture": "a picture of"},
        image_size=64,
        max_tokens=48,
        prompt_format="completion",
    ),
}


def with_recipe(llm: LlmConfig, recipe: Recipe) -> LlmConfig:
    """`llm` with the recipe's values for fields that are not set. Idempotent.

    Not applied to endpoints, whose server has its own chat template and engine settings.
    """
    if llm.is_remote:
        return llm
    unsaid = {"engine", "prompt_format", "template", "max_model_len"} - llm.model_fields_set
    engine_kwargs = recipe.engine_kwargs | llm.vllm.engine_kwargs
    generate_kwargs = recipe.generate_kwargs | llm.transformers.generate_kwargs
    return llm.model_copy(
        update={name: getattr(recipe, name) for name in unsaid}
        | {
            "vllm": llm.vllm.model_copy(update={"engine_kwargs": engine_kwargs}),
            "transformers": llm.transformers.model_copy(update={"generate_kwargs": generate_kwargs}),
        }
    )


def sampling_with_recipe(sampling: SamplingConfig, recipe: Recipe) -> SamplingConfig:
    """`sampling`, with the recipe's max_tokens if it is not set."""
    if "max_tokens" in sampling.model_fields_set:
        return sampling
    return sampling.model_copy(update={"max_tokens": recipe.max_tokens})
