"""What can be known about a language model before it is loaded, checked in the driver, where mistakes cost nothing."""

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

GAUGES_NEED = ("opencensus", "grpc_reflection")
"""What publishes vLLM's gauges: Ray's agent with all its parts (ray[default]), and Ray Serve, which vLLM asks for the
name of a replica (ray[serve]). One package of each that nothing else brings."""


def preflight(
    config: LlmConfig, texts: Sequence[str], max_tokens: int, image_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Check folder, tokenizer, prompt format, images, context length and adapters, without reading weights.

    texts: instructions as rows will send them, the longest ones. max_tokens: of an answer. image_size: (width, height)
    in pixels of the largest picture; None = text only.

    Returns {"engine", "format": chat | completion, "prompt_tokens" of the longest with its image, "context"}, and of an
    endpoint "note": what its owner should know or None; numbers
    are None where an endpoint does not tell. Raises InputError or MissingExtra with what to change.
    """
    engine = resolve_engine(config)
    if engine == "openai":
        from raysys.llm.endpoint_http import is_chat  # aiohttp is not wanted where no endpoint is
        from raysys.llm.endpoint_session import check_endpoint

        asked = "chat" if is_chat(config) else "completion"
        note = check_endpoint(config)
        return {"engine": engine, "format": asked, "prompt_tokens": None, "context": None, "note": note}
    folder = model_folder(config.model)
    if engine == "vllm":
        _check_vllm(config, folder)
    trust = may_run_code(config, folder)
    model_config = load_config(folder, trust)
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"model folder {folder} holds no .safetensors file", "save the model with safetensors")
    settings = config.vllm if engine == "vllm" else config.transformers
    _check_adapters(settings.adapters)
    renderer = Renderer(config, folder, trust)
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
    return {
        "engine": engine,
        "format": "chat" if renderer.chat else "completion",
        "prompt_tokens": n_tokens,
        "context": context,
    }


def _needed(n_prompt: int, max_tokens: int, is_encoder_decoder: bool) -> int:
    """An encoder and a decoder have a context each."""
    return max(n_prompt, max_tokens) if is_encoder_decoder else n_prompt + max_tokens


def _count(renderer: Renderer, text: str, image_size: tuple[int, int] | None) -> int:
    image = None if image_size is None else np.zeros((image_size[1], image_size[0], 3), np.uint8)
    try:
        return renderer.count(Request("preflight", text, SamplingConfig(), image=image))
    except (ValueError, TypeError, KeyError, RuntimeError) as exc:
        raise InputError(
            f"the model's processor refuses the prompt: {type(exc).__name__}: {exc}",
            "give the prompt as the model was trained to see it: template, prompt_format, image placeholder",
        ) from exc


def _check_vllm(config: LlmConfig, folder: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtra("vllm", "gpu")
    if config.vllm.prometheus and not all(map(importlib.util.find_spec, GAUGES_NEED)):
        raise MissingExtra("what publishes vLLM's gauges (llm.vllm.prometheus), ray[default,serve],", "cluster")
    if unserved := NOT_ON_VLLM & set(read_config(folder).get("architectures") or []):
        raise InputError(f"vLLM does not serve {min(unserved)}", "set engine: transformers")


def _check_adapters(adapters: Mapping[str, str]) -> None:
    for name, place in adapters.items():
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (Path(place) / file).is_file():
                raise InputError(f"adapter {name}: {place} has no {file}", "give the folder of a saved LoRA adapter")
