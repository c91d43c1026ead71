"""The interface of text-to-image models: Conditioning, TextEncoder, Autoencoder, Denoiser, Pipeline, Family.

captions ─ TextEncoder.encode ─▶ Conditioning ─┐
pixels ─ Autoencoder.encode ─▶ latents ─────────┴▶ Denoiser.predict ─▶ latents ─ Autoencoder.decode ─▶ pixels

Code outside the folder of a family (`models/sd/`, …) uses only these types, so that another architecture (another
denoiser, or a decoder-only language model as text encoder) needs only another folder with the same file names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from raysys.models.schedule import NoiseScheduleConfig
from raysys.rows import StatesDtype

if TYPE_CHECKING:  # takes seconds, and checking a configuration does not need it
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Precision in configurations → torch dtype."""


@dataclass(frozen=True)
class Conditioning:
    """The text condition of a denoiser for B captions.

    states: float [B, T, D], the text encoder's hidden states.
    mask: bool [B, T], True where a state belongs to the caption; None = the denoiser attends to all T (Stable
        Diffusion, which was trained on padded captions without a mask).
    extra: further per-sample tensors [B, …] of a family (pooled states, original sizes …).
    """

    states: torch.Tensor
    mask: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.states.shape[0]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Conditioning:
        """Apply `function` to every tensor."""
        mask = None if self.mask is None else function(self.mask)
        return Conditioning(function(self.states), mask, {name: function(x) for name, x in self.extra.items()})

    def __getitem__(self, index: slice | Sequence[int] | torch.Tensor) -> Conditioning:
        return self.map(lambda x: x[index])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """Move to `device`, and convert floating-point tensors to `dtype`."""
        return self.map(lambda x: x.to(device, dtype) if x.is_floating_point() else x.to(device))

    def expand(self, batch: int) -> Conditioning:
        """Expand the conditioning of one caption to `batch` samples."""
        return self.map(lambda x: x.expand(batch, *x.shape[1:]))

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate along the batch dimension. Shorter parts are padded to the longest T and masked there."""
        length = max(part.states.shape[1] for part in parts)
        parts = [part.padded(length) for part in parts]
        masked = any(part.mask is not None for part in parts)
        masks = [p.mask if p.mask is not None else torch.ones_like(p.states[..., 0], dtype=torch.bool) for p in parts]
        return Conditioning(
            torch.cat([part.states for part in parts]),
            torch.cat(masks) if masked else None,
            {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra},
        )

    @staticmethod
    def stack(states: Sequence[np.ndarray]) -> Conditioning:
        """Stack one array [T, D] per caption, as float32. Shorter ones are padded to the longest T and masked there."""
        tensors = [torch.from_numpy(array.astype(np.float32)) for array in states]
        if len({len(x) for x in tensors}) == 1:
            return Conditioning(torch.stack(tensors))
        return Conditioning.cat([Conditioning(x[None]) for x in tensors])

    def padded(self, length: int) -> Conditioning:
        """Pad with zero states to T = `length`. The padding is masked, so a padded result always has a mask."""
        missing = length - self.states.shape[1]
        if missing == 0:
            return self
        mask = self.mask if self.mask is not None else torch.ones_like(self.states[..., 0], dtype=torch.bool)
        pad = torch.nn.functional.pad
        return Conditioning(pad(self.states, (0, 0, 0, missing)), pad(mask, (0, missing)), self.extra)

    @staticmethod
    def where(condition: torch.Tensor, a: Conditioning, b: Conditioning) -> Conditioning:
        """For each sample, `a` if `condition` (bool [B]) is True, else `b`; a single sample is expanded to B."""
        batch = len(condition)
        both = Conditioning.cat([a.expand(batch), b.expand(batch)])
        index = torch.arange(batch, device=condition.device) + torch.where(condition, 0, batch)
        return both[index.to(both.states.device)]


@dataclass(frozen=True)
class EncodedCaptions:
    """The output of a text encoder for N captions, on the CPU."""

    conditioning: Conditioning
    n_tokens: list[int]
    """Per caption, with special tokens, before padding and truncation. Captions above max_length were truncated."""


class TextEncoder(Protocol):
    """A frozen text encoder and its tokenizer."""

    tokenizer: Any
    max_length: int
    """T: the number of tokens to which captions are truncated."""
    states_dtype: StatesDtype
    """The type in which states are stored: float16 if their range allows it, else bfloat16 or float32."""

    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """Hidden states float32 [N, T, D], on the CPU. The mask is None if the denoiser attends to the padding, too."""


class Autoencoder(Protocol):
    """A frozen autoencoder between pixels and scaled latents."""

    latent_channels: int
    downscale: int
    """f: image pixels per latent pixel along one side."""

    def encode(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """[N, 3, H, W] in [−1, 1] → scaled latents float32 [N, C, H/f, W/f]; `noise` samples the posterior."""

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Scaled latents [N, C, h, w] → uint8 images [N, h·f, w·f, 3]. The caller must check for NaN latents."""


class Denoiser(torch.nn.Module):
    """The trained part. The prediction is `forward`, because DDP and FSDP2 hook this call.

    Subclasses wrap the module of the architecture; `state_dict` has the keys of that module with a prefix.
    """

    noise_scheduler: SchedulerMixin
    """The training schedule: alphas_cumprod, prediction_type."""

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Predict ε or v [B, C, h, w] from noisy latents [B, C, h, w] at `timesteps` (int64 [B])."""
        raise NotImplementedError

    @property
    def latents_shape(self) -> tuple[int, int, int]:
        """(C, h, w) at which the model was trained; other sizes work if the architecture allows them."""
        raise NotImplementedError

    @property
    def latents_multiple(self) -> int:
        """h and w must be multiples of this."""
        raise NotImplementedError

    def blocks(self) -> list[torch.nn.Module]:
        """The modules that FSDP2 shards one by one, in the order of the forward pass."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype


@dataclass(frozen=True)
class Pipeline:
    """A complete text-to-image model; the parts are in the order in which they are applied."""

    text_encoder: TextEncoder
    denoiser: Denoiser
    autoencoder: Autoencoder


class Family(Protocol):
    """The loaders of one architecture.

    A place is `zoo:<member>`, a pipeline folder or the folder of one part. Loaded parts are frozen and in eval mode;
    trainers must enable gradients. Hashes depend only on contents, so copies have the same hash.
    All methods raise InputError, which names the folder, if a part is missing or damaged.
    """

    name: str

    def load_text_encoder(
        self,
        place: str | Path,
        tokenizer: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> TextEncoder:
        """Load a text encoder. `tokenizer`: a tokenizer folder; None = the one next to the text encoder."""

    def text_encoder_hashes(self, place: str | Path, tokenizer: str | Path | None = None) -> dict[str, str]:
        """{"text_encoder_hash", "tokenizer_hash"} of what `load_text_encoder` loads."""

    def load_autoencoder(
        self, place: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> Autoencoder: ...

    def autoencoder_hash(self, place: str | Path) -> str:
        """The hash of what `load_autoencoder` loads."""

    def build_denoiser(self, config: Any, noise_schedule: NoiseScheduleConfig, seed: int) -> Denoiser:
        """Build a new trainable denoiser. The same seed gives the same weights."""

    def load_denoiser(
        self,
        place: str | Path,
        noise_schedule: NoiseScheduleConfig | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> Denoiser:
        """Load a saved denoiser. `noise_schedule`: used instead of the saved schedule; needed if none is saved."""

    def denoiser_hash(self, place: str | Path) -> str:
        """The hash of the weights that `load_denoiser` loads."""

    def save_pipeline(self, folder: str | Path, pipeline: Pipeline) -> Path:
        """Write a folder that diffusers can load, in one step: complete or not at all. Returns its path."""

    def load_pipeline(self, folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Pipeline:
        """Load the parts of a saved pipeline."""
