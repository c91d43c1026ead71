"""vLLM's engine for one worker: several chunks in flight, one reply per request. The only module that imports vllm.

vLLM's `AsyncLLM` runs on an event loop in its own thread. `generate` may be called by several threads, whose requests
are batched together by the engine's scheduler, in the engine's process.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import importlib.util
import itertools
import logging
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from raysys.errors import InputError
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Completion, EngineDied, Failure, Reply, Request, SamplingConfig
from raysys.llm.engine_log import last_error, own_logs
from raysys.llm.folder import may_run_code, model_folder, saved_dtype
from raysys.llm.render import Renderer, redacted, too_long, unknown_adapter
from raysys.llm.seeds import draw_seed
from raysys.models import places

T = TypeVar("T")

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM has kernels."""

_CPU_KV_BYTES = 2**30
"""KV cache on CPUs; by default, vLLM takes a large fraction of the machine's memory."""

_SHUTDOWN_S = 20.0
"""Seconds after which processes that have not ended are killed."""

_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout belongs to the command's results
    # By default, vLLM binds threads to fixed cores: two engines on one machine would share the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Defaults of vLLM's environment variables; existing values are kept."""

_NOT_STARTED = "Engine core initialization failed"
"""vLLM's message if only the engine's processes know the cause."""

_starting = threading.Lock()


class VllmGenerator:
    """A `Generator` on vLLM. Its processes end with the process that created it, however that ends."""

    def __init__(self, config: LlmConfig) -> None:
        """Start the engine: tens of seconds. Raises InputError without vLLM, or for a wrong model or setting."""
        if importlib.util.find_spec("vllm") is None:
            raise InputError(
                f"vllm is not installed on {platform.node()}, where a worker has to run it",
                "pip install 'raysys[gpu]' on every node with workers, or set llm.engine: transformers",
            )
        folder = model_folder(config.model)
        trust = may_run_code(config, folder)
        self._renderer = Renderer(config, folder, trust)
        arguments = engine_arguments(config, folder, trust, sees=self._renderer.processor is not None)
        self._numbers = itertools.count()
        self._closed = False
        self._logs = own_logs()
        self._running = _Running(arguments, config)
        self._context = self._running.llm.model_config.max_model_len
        # Ended with this object, with a multiprocessing child (where atexit does not run), and at exit, before vLLM
        # itself is told.
        self._end = Finalize(self, self._running.end, exitpriority=10)
        atexit.register(self._end)
        self._probe()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order. Requests of several threads share the engine's batches."""
        if self._closed:
            raise EngineDied("the engine was closed")
        prepared = [self._prepare(request) for request in requests]
        try:
            return self._running.call(self._answer_all(requests, prepared))
        except CancelledError:
            raise EngineDied("the engine was closed while it answered") from None

    def _probe(self) -> None:
        """Ask one question. Raises InputError if the engine dies of it: it would die of every row, one after the other.

        vLLM starts models that its kernels cannot run, for example attention heads of 16 on CPUs.
        """
        image = None if self._renderer.processor is None else np.full((64, 64, 3), 128, np.uint8)
        request = Request("probe", "a", SamplingConfig(max_tokens=2), image=image)
        try:
            self.generate([request])  # a Failure concerns only this question
        except EngineDied as exc:
            self.close()
            raise InputError(
                f"vLLM's engine starts, but ends at its first request: {exc}",
                f"set llm.engine: transformers, or change llm.dtype or llm.vllm.engine_kwargs; {_all_in(self._logs)}",
            ) from exc

    def close(self) -> None:
        """Stop the engine's processes; pending `generate` calls raise EngineDied."""
        self._closed = True
        atexit.unregister(self._end)
        self._end()

    def _prepare(self, request: Request) -> list[int] | Failure:
        """The prompt's token ids (with at most one placeholder for an image), or a failure."""
        if request.adapter is not None and request.adapter not in self._running.adapters:
            return unknown_adapter(request, self._running.adapters)
        try:
            token_ids = self._renderer.token_ids([self._renderer.prompt(request)])[0]
        except Exception as exc:
            return Failure("prompt_refused", redacted(exc, request), bad_input=True)
        return token_ids if len(token_ids) < self._context else too_long(len(token_ids), self._context)

    async def _answer_all(self, requests: Sequence[Request], prepared: Sequence[list[int] | Failure]) -> list[Reply]:
        self._running.waiting.add(task := asyncio.current_task())
        task.add_done_callback(self._running.waiting.discard)
        answers = [self._answer(request, ids) for request, ids in zip(requests, prepared, strict=True)]
        replies = await asyncio.gather(*answers, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies  # type: ignore[return-value] - no exception is left

    async def _answer(self, request: Request, prepared: list[int] | Failure) -> Reply:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        if isinstance(prepared, Failure):
            return prepared
        prompt: dict[str, Any] = {"prompt_token_ids": prepared}
        try:
            if request.image is not None:
                prompt["multi_modal_data"] = {"image": Image.fromarray(request.image)}
            (rendered,) = await self._running.llm.renderer.render_cmpl_async([prompt])
        except Exception as exc:
            return Failure("prompt_refused", redacted(exc, request), bad_input=True)
        n_tokens = len(rendered["prompt_token_ids"])
        if n_tokens >= self._context:
            return too_long(n_tokens, self._context)
        try:
            return await self._complete(request, rendered)
        except EngineDeadError as exc:
            found = last_error(self._logs)
            raise EngineDied(f"vLLM's engine process ended: {found[0] if found else 'without an error'}") from exc
        except VLLMClientError as exc:
            return Failure("prompt_refused", redacted(exc, request), bad_input=True)
        except Exception as exc:
            cause = exc.__cause__ or exc
            return Failure(type(cause).__name__, redacted(cause, request))

    async def _complete(self, request: Request, rendered: Any) -> Reply:
        answers = self._running.llm.generate(
            rendered,
            _sampling_params(request),
            request_id=str(next(self._numbers)),
            lora_request=self._running.adapters[request.adapter] if request.adapter is not None else None,
        )
        async for output in answers:  # one, FINAL_ONLY
            outputs = sorted(output.outputs, key=lambda o: o.index)
            n_prompt = len(output.prompt_token_ids)
        if broken := next((o.finish_reason for o in outputs if o.finish_reason in ("abort", "error")), None):
            return Failure(f"engine_{broken}", "vLLM gave this request up")
        found = [Completion(o.text.strip(), str(o.finish_reason), n_prompt, len(o.token_ids)) for o in outputs]
        return found if len(found) == request.n else found * request.n


class _Running:
    """vLLM's `AsyncLLM` with its loop and thread; a separate object, because it is stopped after its owner is gone."""

    def __init__(self, arguments: dict[str, Any], config: LlmConfig) -> None:
        self.waiting: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-requests", daemon=True)
        self._thread.start()
        try:
            self.llm, self.adapters = self.call(_start(arguments, config))
        except BaseException:
            self._stop()
            raise

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def end(self) -> None:
        """Cancel pending requests, stop the engine's processes, then the loop and its thread."""
        self.call(self._shut_down())
        self.llm = None  # vLLM's finalizer must not run during interpreter shutdown
        self._stop()

    async def _shut_down(self) -> None:
        # First the pending requests, then vLLM's output handler, which would treat the engine's end as a crash.
        for tasks in (self.waiting.copy(), {self.llm.output_handler} - {None}):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.llm.shutdown(timeout=_SHUTDOWN_S)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def engine_arguments(config: LlmConfig, folder: Path, trust_remote_code: bool, sees: bool) -> dict[str, Any]:
    """The arguments of vLLM's engine: ours and the defaults for CPUs, overridden by the user's `engine_kwargs`.

    sees: whether the model takes images.
    """
    check_engine_kwargs(config)
    # The engine's processes are started by a process with threads, where forking could deadlock.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.vllm.max_num_seqs,
        "trust_remote_code": trust_remote_code,
        "use_tqdm_on_load": False,
    }
    if sees:
        # One image per request. Images are rarely used twice, and caching them would cost gigabytes.
        arguments |= {"limit_mm_per_prompt": {"image": 1, "video": 0, "audio": 0}, "mm_processor_cache_gb": 0}
    if config.vllm.adapters:
        arguments |= {"enable_lora": True, "max_loras": len(config.vllm.adapters), "max_lora_rank": lora_rank(config)}
    if config.vllm.engine_kwargs.get("tensor_parallel_size", 1) > 1:
        # Under Ray vLLM would start its workers as Ray actors, out of reach of this worker's reservation.
        arguments["distributed_executor_backend"] = "mp"
    if current_platform.is_cpu():
        arguments["enforce_eager"] = True
        if config.dtype == "auto" and saved_dtype(folder) == "float32":
            arguments["dtype"] = "float32"  # vLLM's own choice is half precision, which CPUs gain nothing from
        if config.vllm.adapters:
            # On CPUs vLLM 0.29 gives rows without adapter, when they share a batch with others, the weights of the last
            # slot. This keeps that slot empty.
            arguments["max_loras"] += 1
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            arguments["kv_cache_memory_bytes"] = _CPU_KV_BYTES
    limits = arguments.get("limit_mm_per_prompt", {}) | config.vllm.engine_kwargs.get("limit_mm_per_prompt", {})
    return arguments | config.vllm.engine_kwargs | ({"limit_mm_per_prompt": limits} if limits else {})


def check_engine_kwargs(config: LlmConfig) -> None:
    """Raise InputError for an unknown argument of vLLM's engine. Imports vllm, which takes seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    if unknown := sorted(set(config.vllm.engine_kwargs) - known):
        raise InputError(
            f"vllm.engine_kwargs.{unknown[0]} is not an argument of vLLM's engine", "see `vllm serve --help`"
        )


async def _start(arguments: dict[str, Any], config: LlmConfig) -> tuple[Any, dict[str, Any]]:
    """(AsyncLLM, LoRARequest by name). Adapters are loaded now, so that a bad one is found before the run."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    loggers = None
    if config.vllm.prometheus:
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        loggers = [RayPrometheusStatLogger]
    try:
        settings = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
    except ValueError as exc:
        reason = next((line for line in str(exc).splitlines()[1:] if line.strip()), str(exc)).strip()
        raise InputError(f"vLLM refuses {arguments['model']}: {reason}", "correct the settings of llm.vllm") from exc
    with _starting, _engine_ends_with_this_process(), _cause_is_told():
        engine = AsyncLLM.from_vllm_config(settings, stat_loggers=loggers, disable_log_stats=True)
    adapters = {
        name: LoRARequest(name, number, str(Path(folder).resolve()))
        for number, (name, folder) in enumerate(config.vllm.adapters.items(), start=1)
    }
    try:
        for adapter in adapters.values():
            await engine.add_lora(adapter)
    except BaseException:
        engine.shutdown()
        raise
    return engine, adapters


def _sampling_params(request: Request) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    sampling = request.sampling
    greedy = sampling.temperature == 0
    return SamplingParams(
        n=1 if greedy else request.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        seed=None if greedy else draw_seed(request.seed),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def lora_rank(config: LlmConfig) -> int:
    """The smallest supported rank that fits all adapters. Raises InputError if it exceeds vLLM's or max_lora_rank."""
    largest = config.vllm.engine_kwargs.get("max_lora_rank", _LORA_RANKS[-1])
    needed = 0
    for name, folder in config.vllm.adapters.items():
        rank = places.read_json(Path(folder) / "adapter_config.json").get("r")
        if not isinstance(rank, int) or not 0 < rank <= largest:
            raise InputError(f"adapter {name}: {folder} has rank {rank!r}", f"vLLM takes 1 to {largest} here")
        needed = max(needed, rank)
    return next(rank for rank in _LORA_RANKS if rank >= needed)


@contextmanager
def _cause_is_told() -> Iterator[None]:
    """If the engine core fails to start, raise its error from the log; vLLM only reports that it has ended."""
    logs = own_logs()
    try:
        yield
    except RuntimeError as exc:
        if _NOT_STARTED not in str(exc):
            raise
        found = last_error(logs)
        raise InputError(
            f"vLLM's engine does not start: {found[0] if found else exc}",
            f"change llm.vllm.engine_kwargs, llm.max_model_len or llm.dtype, or take a larger GPU; {_all_in(logs)}",
        ) from exc


def _all_in(logs: Mapping[Path, int]) -> str:
    found = last_error(logs)
    place = found[1] if found else "the output of this process"
    return f"all that vLLM said is in {place} on {platform.node()}"


@contextmanager
def _engine_ends_with_this_process() -> Iterator[None]:
    """An engine core started inside the block ends with this process, even after SIGKILL.

    vLLM's engine core would wait for requests forever and keep the GPU's memory. vLLM's workers do watch the core.
    """
    from vllm.v1.engine.core import EngineCoreProc

    original = EngineCoreProc.run_engine_core
    EngineCoreProc.run_engine_core = staticmethod(_run_engine_core)
    try:
        yield
    finally:
        EngineCoreProc.run_engine_core = staticmethod(original)


def _run_engine_core(*args: Any, **kwargs: Any) -> None:
    """In the engine core's process: run vLLM's loop, and a thread that waits for the owner's end."""
    from vllm.v1.engine.core import EngineCoreProc

    owner = multiprocessing.parent_process()

    def watch() -> None:
        owner.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="owner-watch", daemon=True).start()
    EngineCoreProc.run_engine_core(*args, **kwargs)
