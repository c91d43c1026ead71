"""Checks of a language model in the driver, before it is loaded, so that mistakes are found before any work."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raysys.errors import InputError, MissingExtra
from raysys.llm.build import NOT_ON_VLLM, resolve_engine
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig
from raysys.llm.folder import context_length, load_config, may_run_code, model_folder, read_config
from raysys.llm.render import Renderer

BYTES_PER_TOKEN = 6
"""Upper bound for UTF-8 bytes per token of a prompt, for endpoints, whose tokenizer is unknown: a valid prompt is never
refused."""

GAUGES_NEED = ("opencensus", "grpc_reflection")
"""What publishes vLLM's gauges: Ray's agent with all its parts (ray[default]), and Ray Serve, which vLLM asks for the
name of a replica (ray[serve]). One package of each that no other extra installs."""


def preflight(
    config: LlmConfig,
    texts: Sequence[str],
    max_tokens: int,
    image_size: tuple[int, int] | None = None,
    adapters: Sequence[str] = (),
    sample: Sequence[str] = (),
) -> dict[str, Any]:
    """Check folder, tokenizer, prompt format, images, context length, adapters and settings, without reading weights.

    texts: instructions that must fit into the context. max_tokens: of an answer. image_size: (width, height) in pixels
    of the largest image; None = text only. adapters: names that requests will use. sample: some of the rows' prompts;
    those that do not fit are noted, because their rows will be rejected.

    Returns {"engine", "format": chat | completion, "prompt_tokens" of the longest prompt with its image, "context",
    "notes"}. Numbers are None if an endpoint does not report them; notes say what could not be checked. Raises
    InputError with the necessary change.
    """
    engine = resolve_engine(config)
    if engine == "openai":
        return _of_endpoint(config, texts, max_tokens, image_size is not None, adapters)
    folder = model_folder(config.model)
    settings = config.vllm if engine == "vllm" else config.transformers
    _check_adapters(settings.adapters, adapters, f"llm.{engine}.adapters")
    notes = _check_vllm(config, folder) if engine == "vllm" else []
    trust = may_run_code(config, folder)
    model_config = load_config(folder, trust)
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"model folder {folder} holds no .safetensors file", "save the model with safetensors")
    renderer = Renderer(config, folder, trust, _processor_kwargs(config) if engine == "vllm" else None)
    if image_size is not None and renderer.processor is None:
        raise InputError(f"model {folder} takes no images", "use an image-text model: BLIP-2, Qwen2-VL, LLaVA …")
    own = context_length(model_config)
    if config.max_model_len is not None and own is not None and config.max_model_len > own:
        raise InputError(f"max_model_len = {config.max_model_len} is beyond the model's {own} positions", f"use {own}")
    n_tokens = max((_count(renderer, text, image_size) for text in texts), default=0)
    context = context_length(model_config, config.max_model_len)
    if context is not None and _needed(n_tokens, max_tokens, model_config.is_encoder_decoder) > context:
        raise InputError(
            f"a prompt of {n_tokens} tokens{' (image included)' if image_size else ''} and an answer of up to "
            f"{max_tokens} do not fit into the context of {context}",
            "shorten the prompt, lower max_tokens, use smaller images, or raise max_model_len",
        )
    if context is not None:
        needed = [_needed(_count(renderer, t, None), max_tokens, model_config.is_encoder_decoder) for t in sample]
        notes += _too_long(sum(n > context for n in needed), len(sample), context)
    return {
        "engine": engine,
        "format": "chat" if renderer.chat else "completion",
        "prompt_tokens": n_tokens,
        "context": context,
        "notes": notes,
    }


def _too_long(n_long: int, n: int, context: int) -> list[str]:
    if not n_long:
        return []
    said = f"{n_long} of {n} prompts tried are too long for the context of {context}"
    if n_long == n:
        raise InputError(said, "raise max_model_len, or use a model with a longer context")
    return [f"{said}: such rows are rejected as prompt_too_long"]


def _of_endpoint(
    config: LlmConfig, texts: Sequence[str], max_tokens: int, sees: bool, adapters: Sequence[str]
) -> dict[str, Any]:
    from raysys.llm.endpoint_http import is_chat  # aiohttp is not wanted where no endpoint is
    from raysys.llm.endpoint_session import check_endpoint

    if sees and not is_chat(config):
        raise InputError(
            "prompt_format = completion cannot send images to an endpoint",
            "omit prompt_format and template; the server has the model's chat template",
        )
    longest = max((len(config.template.replace("{prompt}", text).encode()) for text in texts), default=0)
    note = check_endpoint(config, longest // BYTES_PER_TOKEN + max_tokens, adapters)
    notes = [note] if note else []
    if config.revision is None:
        notes.append(
            f"{config.model!r} at the endpoint is identified only by this name: if the server's weights may change, "
            "set llm.revision and change it with them"
        )
    asked = "chat" if is_chat(config) else "completion"
    return {"engine": "openai", "format": asked, "prompt_tokens": None, "context": None, "notes": notes}


def _needed(n_prompt: int, max_tokens: int, is_encoder_decoder: bool) -> int:
    """The context length that is needed; encoder and decoder have separate contexts."""
    return max(n_prompt, max_tokens) if is_encoder_decoder else n_prompt + max_tokens


def _count(renderer: Renderer, text: str, image_size: tuple[int, int] | None) -> int:
    from jinja2 import TemplateError

    image = None if image_size is None else np.zeros((image_size[1], image_size[0], 3), np.uint8)
    try:
        return renderer.count(Request("preflight", text, SamplingConfig(), image=image))
    except TemplateError as exc:  # what a template raises itself, too: Gemma's knows no system message
        raise InputError(
            f"the model's chat template refuses the prompt: {exc}",
            "leave llm.system out and put its words into llm.template"
            if renderer.config.system is not None
            else "set prompt_format: completion, or repair the template in the model's folder",
        ) from exc
    except (ValueError, TypeError, KeyError, RuntimeError) as exc:
        raise InputError(
            f"the model's processor refuses the prompt: {type(exc).__name__}: {exc}",
            "give the prompt as the model was trained to see it: template, prompt_format, image placeholder",
        ) from exc


def _processor_kwargs(config: LlmConfig) -> dict[str, Any]:
    """The arguments that vLLM passes to the model's processor; they can change the number of tokens of an image."""
    kwargs = config.vllm.engine_kwargs.get("mm_processor_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise InputError(
            f"llm.vllm.engine_kwargs: mm_processor_kwargs = {kwargs!r} is not a mapping", "give names: values"
        )
    return {name: value for name, value in kwargs.items() if name != "device"}  # the driver may not have it


def _check_vllm(config: LlmConfig, folder: Path) -> list[str]:
    """Check vLLM's settings; return notes on what could not be checked. Workers may have vLLM if the driver has not."""
    from raysys.llm.vllm import check_engine_kwargs, lora_rank

    if unserved := NOT_ON_VLLM & set(read_config(folder).get("architectures") or []):
        raise InputError(f"vLLM does not serve {min(unserved)}", "set engine: transformers")
    lora_rank(config)
    if importlib.util.find_spec("vllm") is None:
        return ["vllm is not installed here, the workers need it; llm.vllm.engine_kwargs are checked there only"]
    if config.vllm.prometheus and not all(map(importlib.util.find_spec, GAUGES_NEED)):
        raise MissingExtra("what publishes vLLM's gauges (llm.vllm.prometheus), ray[default,serve],", "cluster")
    if config.vllm.engine_kwargs:
        check_engine_kwargs(config)
    return []


def _check_adapters(adapters: Mapping[str, str], used: Sequence[str], where: str) -> None:
    for name in used:
        if name not in adapters:
            raise InputError(
                f"adapter = {name!r} is not among {where}: {', '.join(adapters) or 'none'}", "add it there"
            )
    for name, place in adapters.items():
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (Path(place) / file).is_file():
                raise InputError(f"adapter {name}: {place} has no {file}", "give the folder of a saved LoRA adapter")
