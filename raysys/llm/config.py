"""Configuration of a language model and of the engine that runs it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raysys.config import Config
from raysys.models.device import AUTO, DEVICE_HELP, Device

EngineName = Literal["auto", "vllm", "transformers", "openai"]

_OWN_ENGINE_KWARGS = (
    "model",
    "tokenizer",
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "trust_remote_code",
    "enable_lora",
)
_OWN_GENERATE_KWARGS = (
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "num_return_sequences",
    "eos_token_id",
    "pad_token_id",
    "stop_strings",
    "logits_processor",
    "stopping_criteria",
)


def _not_ours(kwargs: dict[str, Any], own: tuple[str, ...], instead: str) -> dict[str, Any]:
    if taken := sorted(set(kwargs) & set(own)):
        raise ValueError(f"{taken[0]} cannot be set here, it is set by {instead}")
    return kwargs


class VllmConfig(Config):
    """Settings of the vLLM engine."""

    max_num_seqs: int = Field(256, ge=1, description="maximum number of requests decoded together")
    engine_kwargs: dict[str, Any] = Field(
        {},
        description="passed unchanged to vLLM's engine: gpu_memory_utilization, tensor_parallel_size, quantization, "
        "enable_prefix_caching, limit_mm_per_prompt, mm_processor_kwargs …",
    )
    adapters: dict[str, str] = Field({}, description="LoRA adapters: name → local folder; rows name the one they want")
    prometheus: bool = Field(
        False, description="publish vLLM's gauges through Ray's Prometheus endpoint; needs raysys[cluster]"
    )

    @field_validator("engine_kwargs")
    @classmethod
    def _engine_kwargs_are_free(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        return _not_ours(kwargs, _OWN_ENGINE_KWARGS, "the keys of the language model's section")


class TransformersConfig(Config):
    """Settings of the transformers engine."""

    device: Device = Field(AUTO, description=DEVICE_HELP)
    batch_size: int = Field(16, ge=1, description="requests per call of generate()")
    generate_kwargs: dict[str, Any] = Field({}, description="passed unchanged to generate(): num_beams …")
    adapters: dict[str, str] = Field({}, description="LoRA adapters: name → local folder; rows name the one they want")

    @field_validator("generate_kwargs")
    @classmethod
    def _generate_kwargs_are_free(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        return _not_ours(kwargs, _OWN_GENERATE_KWARGS, "the sampling of each request")


class EndpointConfig(Config):
    """An OpenAI-compatible server: vLLM's, another one, or a vendor's."""

    base_url: str = Field(description="for example http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(None, description="environment variable that holds the key; null = no key")
    requests_per_minute: float | None = Field(None, gt=0, description="rate limit of the whole job; null = none")
    max_in_flight: int = Field(64, ge=1, description="maximum number of open requests per worker")
    timeout_s: float = Field(120.0, gt=0, description="seconds after which a request is canceled and tried again")
    max_attempts: int = Field(6, ge=1, description="attempts of one request before its row becomes an error")
    max_wait_s: float = Field(
        60.0, gt=0, description="maximum pause between two attempts, unless a Retry-After header asks for more"
    )
    max_outage_s: float = Field(
        1800.0,
        gt=0,
        description="seconds that a run waits for an unavailable server before it stops, without failed rows; also "
        "the maximum Retry-After that is respected",
    )


class LlmConfig(Config):
    """A language model, with or without image input."""

    operational = True
    """A job's identity uses `raysys.llm.build.identity` instead, with weights and adapters by content."""

    engine: EngineName = Field(
        "auto", description="auto = openai with an endpoint, else vllm if it is installed, else transformers"
    )
    model: str = Field(description="zoo:<member>, a local model folder, or the model's name at the endpoint")
    revision: str | None = Field(
        None,
        description="recorded with every row; null = a hash of the model folder's contents, which is always part of "
        "the identity; for an endpoint, the only way to tell apart different models with the same name",
    )
    prompt_format: Literal["auto", "chat", "completion"] = Field(
        "auto", description="chat = the model's chat template; auto = chat if the folder has a template"
    )
    template: str = Field(
        "{prompt}",
        pattern=r"\{prompt\}",
        description="text around each prompt (in a chat, the user's message); {prompt} is replaced",
    )
    system: str | None = Field(None, description="system message of the chat format")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="precision of the weights")
    max_model_len: int | None = Field(None, ge=8, description="context length in tokens, including image and answer")
    remote_code_commit: str | None = Field(
        None,
        pattern="^[0-9a-f]{40}$",
        description="commit of the model repository whose Python code may be run; null = no code",
    )
    vllm: VllmConfig = Field(VllmConfig(), description="settings of the vLLM engine")
    transformers: TransformersConfig = Field(TransformersConfig(), description="settings of the transformers engine")
    endpoint: EndpointConfig | None = Field(None, description="a server to use instead of a local engine")

    @model_validator(mode="after")
    def _one_answers(self) -> LlmConfig:
        if self.engine == "openai" and self.endpoint is None:
            raise ValueError("engine = openai needs endpoint.base_url")
        if self.endpoint is not None and self.engine not in ("auto", "openai"):
            raise ValueError(f"engine = {self.engine} does not use the endpoint: omit one of the two")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether an endpoint is used; then `model` is a name there and not a folder."""
        return self.endpoint is not None
