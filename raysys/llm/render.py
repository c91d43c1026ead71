"""Requests → prompt strings and token ids, the same for every local engine.

Chat: the model's own template, with an image part where the model takes images. Completion: `template` around the
prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raysys.errors import InputError
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Failure, Request
from raysys.models.places import naming_damaged_files

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json")
"""Vocabulary files; a tokenizer has at least one of them."""

EXCERPT = 12
"""An error message must not contain this many consecutive characters of a prompt."""

_PROBE = "probe7"
"""A placeholder that no template contains."""


class Renderer:
    """The tokenizer and, for models with image input, the processor of a model folder. Thread-safe."""

    def __init__(
        self,
        config: LlmConfig,
        folder: Path,
        trust_remote_code: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Load tokenizer and processor. Raises InputError if they are missing or the format does not fit the model.

        processor_kwargs: overrides of the processor's settings, for counting the tokens of images.
        """
        self.config = config
        with naming_damaged_files(folder):
            loaded = _load_processor(folder, trust_remote_code, processor_kwargs or {})
        self.processor = loaded if hasattr(loaded, "image_processor") else None
        self.tokenizer = loaded.tokenizer if self.processor is not None else loaded
        self._lock = threading.Lock()  # fast tokenizers are not thread-safe
        self._chat_template = _chat_template(self.processor, self.tokenizer)
        if config.prompt_format == "chat" and self._chat_template is None:
            raise InputError(
                f"model {folder} has no chat template", "set prompt_format: completion, or use a chat model"
            )
        self.chat = self._chat_template is not None and config.prompt_format != "completion"
        self._takes_parts = self.chat and self._renders_parts()

    def prompt(self, request: Request) -> str:
        """The string that the model continues, with one placeholder for an image if the model's format has one.

        Raises ValueError if the image is not valid or the model does not take images, and the chat template's errors.
        """
        if request.image is not None:
            self._check_image(request.image)
        text = self.config.template.replace("{prompt}", request.text)
        if not self.chat:
            return text
        content: Any = text
        if self._takes_parts:
            content = [{"type": "text", "text": text}]
            if request.image is not None:
                content.insert(0, {"type": "image"})
        elif request.image is not None and (mark := getattr(self.processor, "image_token", None)):
            content = text if str(mark) in text else f"{mark}\n{text}"
        return self._apply([*self._system(), {"role": "user", "content": content}])

    def adds_special_tokens(self, prompt: str) -> bool:
        """Whether the tokenizer must add its start token, or the chat template has already added it.

        As in transformers: templates of tokenizers are always complete; templates of processors are complete if they
        begin with the start token.
        """
        if not self.chat:
            return True
        start = self.tokenizer.bos_token
        return self.processor is not None and not (start and prompt.startswith(start))

    def token_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt, before image placeholders are expanded to the image's tokens."""
        with self._lock:
            return [
                self.tokenizer(prompt, add_special_tokens=self.adds_special_tokens(prompt), verbose=False)["input_ids"]
                for prompt in prompts
            ]

    def inputs(self, prompts: Sequence[str], images: Sequence[np.ndarray | None]) -> Any:
        """The padded input tensors of a transformers model; either all of `images` must be images, or none."""
        common = {"padding": True, "return_tensors": "pt"}
        if not all(self.adds_special_tokens(prompt) for prompt in prompts):
            common["add_special_tokens"] = False
        with self._lock:
            if images[0] is None:
                return self.tokenizer(list(prompts), verbose=False, **common)
            # A single prompt as a string, because some models' own processors (Phi-3-vision's) do not take a list.
            text = prompts[0] if len(prompts) == 1 else list(prompts)
            return self.processor(images=[Image.fromarray(image) for image in images], text=text, **common)

    def count(self, request: Request) -> int:
        """The number of tokens of the prompt, including the image's."""
        prompt = self.prompt(request)
        if request.image is None:
            return len(self.token_ids([prompt])[0])
        return int(self.inputs([prompt], [request.image])["attention_mask"].sum())

    def _check_image(self, image: np.ndarray) -> None:
        if self.processor is None:
            raise ValueError("the model takes no images")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"the image is {image.dtype} {list(image.shape)}, not uint8 [H, W, 3]")

    def _system(self) -> list[dict[str, Any]]:
        if self.config.system is None:
            return []
        text: Any = self.config.system
        return [{"role": "system", "content": [{"type": "text", "text": text}] if self._takes_parts else text}]

    def _apply(self, messages: list[dict[str, Any]]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self._chat_template, tokenize=False, add_generation_prompt=True
        )

    def _renders_parts(self) -> bool:
        """Whether the template supports a list of parts as content; others print the list, raise or drop the text."""
        from jinja2 import TemplateError

        try:
            rendered = self._apply([{"role": "user", "content": [{"type": "text", "text": _PROBE}]}])
        except (TemplateError, TypeError, ValueError):
            return False
        return _PROBE in rendered and "'type'" not in rendered and '"type"' not in rendered


def redacted(exc: BaseException, request: Request) -> str:
    """Type and first line of an exception, or only its type if the line quotes from the prompt."""
    message = str(exc)
    quotes = any(_excerpt_in(message, form) for form in (request.text, repr(request.text)[1:-1]))
    first_line = message.strip().splitlines()[0] if message.strip() and not quotes else ""
    return f"{type(exc).__name__}: {first_line}" if first_line else type(exc).__name__


def _excerpt_in(message: str, text: str) -> bool:
    """Whether `message` contains EXCERPT consecutive characters of `text`, or all of it."""
    starts = range(max(1, len(text) - EXCERPT + 1)) if text else ()
    return any(text[i : i + EXCERPT] in message for i in starts)


def _load_processor(folder: Path, trust_remote_code: bool, kwargs: Mapping[str, Any]) -> Any:
    from transformers import AutoProcessor

    fix = "copy tokenizer.json, tokenizer_config.json and processor_config.json beside the weights"
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        # Without this check, transformers may create an empty tokenizer of the model's type.
        raise InputError(f"model folder {folder} has no tokenizer", fix)
    try:
        loaded = AutoProcessor.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True, **kwargs
        )
    except ImportError as exc:
        raise _lacks_package(folder, exc) from exc
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
        reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
        if kwargs:
            fix = "correct llm.vllm.engine_kwargs.mm_processor_kwargs; where they are left out as well: " + fix
        raise InputError(f"tokenizer or processor of model folder {folder} cannot be loaded: {reason}", fix) from exc
    tokenizer = getattr(loaded, "tokenizer", loaded)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded


def _lacks_package(folder: Path, exc: ImportError) -> InputError:
    """The InputError for a processor that needs a package which raysys does not require."""
    said = str(exc).strip().partition("\n")[0].partition(". ")[0]
    fix = "install what it names in this environment, and on every node with workers"
    if "torchvision" in said.lower():
        fix = (
            "pip install torchvision, the build of your torch (beside a CPU build of torch with "
            "--index-url https://download.pytorch.org/whl/cpu); on a cluster on every node"
        )
    return InputError(f"the processor of model folder {folder} lacks a package: {said}", fix)


def _chat_template(processor: Any, tokenizer: Any) -> str | None:
    for owner in (processor, tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return template
    return None


def too_long(n_tokens: int, context: int) -> Failure:
    """The failure for a prompt that leaves no room for an answer."""
    return Failure("prompt_too_long", f"{n_tokens} tokens, the context holds {context}", bad_input=True)


def unknown_adapter(request: Request, known: Iterable[str]) -> Failure:
    """The failure for a LoRA adapter that is not configured."""
    names = ", ".join(sorted(known)) or "none"
    return Failure("unknown_adapter", f"{request.adapter!r} is not configured; known: {names}", bad_input=True)
