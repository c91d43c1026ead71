"""Which model answers, and which engine runs it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raysys.config import Config

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
        raise ValueError(f"{taken[0]} is set by {instead}, not here")
    return kwargs


class VllmConfig(Config):
    """Settings of the vLLM engine."""

    max_num_seqs: int = Field(256, ge=1, description="requests that the engine decodes together")
    engine_kwargs: dict[str, Any] = Field(
        {},
        description="passed to vLLM's engine as they are: gpu_memory_utilization, tensor_parallel_size, quantization, "
        "enable_prefix_caching, limit_mm_per_prompt, mm_processor_kwargs …",
    )
    adapters: dict[str, str] = Field({}, description="LoRA adapters: name → local folder; rows name the one they want")
    prometheus: bool = Field(
        False, description="publish vLLM's own gauges through Ray's Prometheus endpoint; needs raysys[cluster]"
    )

    @field_validator("engine_kwargs")
    @classmethod
    def _engine_kwargs_are_free(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        return _not_ours(kwargs, _OWN_ENGINE_KWARGS, "the keys of the language model's section")


class TransformersConfig(Config):
    """Settings of the transformers engine."""

    device: str = Field("auto", description="torch device: cpu, cuda, cuda:0 …; auto = cuda where the worker sees one")
    batch_size: int = Field(16, ge=1, description="requests per call of generate()")
    generate_kwargs: dict[str, Any] = Field({}, description="passed to generate() as they are: num_beams …")
    adapters: dict[str, str] = Field({}, description="LoRA adapters: name → local folder; rows name the one they want")

    @field_validator("generate_kwargs")
    @classmethod
    def _generate_kwargs_are_free(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        return _not_ours(kwargs, _OWN_GENERATE_KWARGS, "the sampling of each request")


class EndpointConfig(Config):
    """An OpenAI-compatible server: vLLM's, another one, or a vendor's."""

    base_url: str = Field(description="for example http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(None, description="environment variable that holds the key; null = no key")
    requests_per_minute: float | None = Field(None, gt=0, description="limit of the whole job; null = none")
    max_in_flight: int = Field(64, ge=1, description="open requests of one worker")
    timeout_s: float = Field(120.0, gt=0, description="seconds until one request is given up and tried again")
    max_attempts: int = Field(6, ge=1, description="tries of one request before it becomes an error row")
    max_wait_s: float = Field(
        60.0, gt=0, description="longest pause between two tries where no Retry-After asks for more"
    )
    max_outage_s: float = Field(
        1800.0,
        gt=0,
        description="how long a run waits for a server that is away before it stops; no row fails by that; also the "
        "longest Retry-After that is kept",
    )


class LlmConfig(Config):
    """A language model, with or without image input."""

    operational = True
    """A job's identity holds `raysys.llm.build.identity` instead: weights and adapters by their contents."""

    engine: EngineName = Field(
        "auto", description="auto = openai with an endpoint, else vllm where it is installed, else transformers"
    )
    model: str = Field(description="zoo:<member>, a local model folder, or the model's name at the endpoint")
    revision: str | None = Field(
        None,
        description="recorded with every row; null = a hash of the model folder's contents, which counts in any case; "
        "of an endpoint the only sign that another model stands behind the name",
    )
    prompt_format: Literal["auto", "chat", "completion"] = Field(
        "auto", description="chat = the model's own chat template; auto = chat where the folder has a template"
    )
    template: str = Field(
        "{prompt}",
        pattern=r"\{prompt\}",
        description="text around each prompt, in a chat the user's message; {prompt} is replaced",
    )
    system: str | None = Field(None, description="system message of the chat format")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="precision of the weights")
    max_model_len: int | None = Field(None, ge=8, description="context in tokens, image and answer included")
    remote_code_commit: str | None = Field(
        None,
        pattern="^[0-9a-f]{40}$",
        description="commit of the model repository whose Python code may run; null = none may",
    )
    vllm: VllmConfig = Field(VllmConfig(), description="settings of the vLLM engine")
    transformers: TransformersConfig = Field(TransformersConfig(), description="settings of the transformers engine")
    endpoint: EndpointConfig | None = Field(None, description="a server that answers, instead of an engine of our own")

    @model_validator(mode="after")
    def _one_answers(self) -> LlmConfig:
        if self.engine == "openai" and self.endpoint is None:
            raise ValueError("engine = openai needs endpoint.base_url")
        if self.endpoint is not None and self.engine not in ("auto", "openai"):
            raise ValueError(f"engine = {self.engine} does not ask the endpoint: leave one of the two out")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether an endpoint answers: the model is a name there, and no folder."""
        return self.endpoint is not None
