"""A recipe without diffusion: CLIP's contrastive loss on drawn scenes and their captions, with in-batch negatives.

The shipped CLIP's image tower goes on beside a new text tower: it learns to retrieve within some fifty small steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.distributed import group
from torch.distributed._functional_collectives import all_gather_single_autograd
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from raysys.errors import InputError
from raysys.models import places
from raysys.models.loading import model_hash
from raysys.models.pixels import images_to_pixel_values
from raysys.scenes import caption, draw, sample_scene
from raysys.training.draws import sample_rng
from raysys.training.recipe import Built, Modules, Share
from raysys.zoo.clip import MAX_LENGTH, new_clip
from raysys.zoo.data import IMAGE_SIZE, held_out

START = "zoo:clip"
TOWERS = "towers"
"""The name of the trained module."""
MAX_LOGIT_SCALE = math.log(100.0)


class Towers(torch.nn.Module):
    """A CLIP whose forward gives all that the loss needs, because FSDP2 gathers weights for the forward only."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        # FSDP2 shards along the first dimension, which a scalar does not have.
        clip.logit_scale = torch.nn.Parameter(clip.logit_scale.detach()[None])
        self.clip = clip

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(unit embeddings [n, 2, D]: image and caption of each pair, the factor of their cosines [1])"""
        out = self.clip(pixel_values=pixel_values, input_ids=input_ids)
        scale = self.clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        return torch.stack([out.image_embeds, out.text_embeds], dim=1), scale

    def blocks(self) -> list[torch.nn.Module]:
        return [*self.clip.vision_model.encoder.layers, *self.clip.text_model.encoder.layers]


@dataclass(frozen=True)
class Pairs:
    """n images with a caption each."""

    pixel_values: torch.Tensor  # [n, 3, 64, 64]
    input_ids: torch.Tensor  # [n, T], all batches padded to one T

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: slice) -> Pairs:
        return Pairs(self.pixel_values[index], self.input_ids[index])


@dataclass
class PairLoader:
    """Pair i of the sequence is a pure function of i; the position is the number of batches given out."""

    share: Share
    pairs: Callable[[Iterable[int]], Pairs]
    batches: int = 0

    def __iter__(self) -> PairLoader:
        return self

    def __next__(self) -> Pairs:
        positions = self.share.positions(self.batches)
        self.batches += 1
        return self.pairs(positions)

    def state(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def close(self) -> None:
        pass


@dataclass
class ContrastiveRecipe:
    """Symmetric InfoNCE (Radford et al. 2021) over the pairs of the whole global batch, for any number of workers.

    captions: "own", or those of "other" images, from which nothing can be learned.
    """

    seed: int = 0
    captions: Literal["own", "other"] = "own"
    tokenizer: CLIPTokenizer = field(default_factory=lambda: CLIPTokenizer.from_pretrained(places.path(START)))

    def identity(self) -> dict[str, Any]:
        return {"captions": self.captions, "seed": self.seed, "start": model_hash(START)}

    def build(self) -> Built:
        shipped = CLIPModel.from_pretrained(places.path(START), dtype=torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            clip = new_clip(self.tokenizer)
        clip.vision_model.load_state_dict(shipped.vision_model.state_dict())
        clip.visual_projection.load_state_dict(shipped.visual_projection.state_dict())
        towers = Towers(clip)
        return Built({TOWERS: towers}, blocks=towers.blocks())

    def loader(self, share: Share, state: dict[str, Any] | None) -> PairLoader:
        self._share = share
        return PairLoader(share, self._pairs, 0 if state is None else state["batches"])

    def loss(
        self, modules: Modules, batch: Pairs, positions: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """InputError for a part of a batch: with fewer negatives it would be another loss."""
        if len(batch) != len(self._share):
            raise InputError("in-batch negatives need whole batches", "set gradient_accumulation_steps to 1")
        own, scale = modules[TOWERS](batch.pixel_values, batch.input_ids)
        loss = info_nce(own, gathered(own, self._share), self._share.start, scale)
        return loss, {"logit_scale": scale.mean()}

    def validate(self, modules: Modules, share: Share, n_samples: int) -> dict[str, float]:
        """Image-to-text retrieval@1 among held-out scenes; an equal caption of another image counts as right."""
        n_batches = -(-n_samples // share.batch_size)
        images, captions = held_out(n_batches * share.batch_size, scenes_only=True)
        own, everyone = [], []
        for k in range(n_batches):
            rows = slice(share.positions(k).start, share.positions(k).stop)
            pairs = self._tokenized(images[rows], captions[rows])
            embeddings, _ = modules[TOWERS](pairs.pixel_values, pairs.input_ids)
            own.append(embeddings[:, 0])
            everyone.append(gathered(embeddings, share)[:, 1])
        found = (torch.cat(own) @ torch.cat(everyone).T).argmax(1).tolist()
        positions = [p for k in range(n_batches) for p in share.positions(k)]
        right = [captions[p] == captions[q] for p, q in zip(positions, found, strict=True)]
        return {"retrieval_at_1": float(np.mean(right))}

    def export(self, weights: Callable[[Modules], None], folder: Path) -> Path:
        """A CLIP folder as transformers loads it."""
        built = self.build()
        weights(built.trainable)
        clip = built.trainable[TOWERS].clip
        clip.logit_scale = torch.nn.Parameter(clip.logit_scale.detach()[0])
        clip.save_pretrained(folder)
        return folder

    def _pairs(self, positions: Iterable[int]) -> Pairs:
        scenes = [sample_scene(sample_rng(self.seed, "pairs", p)) for p in positions]
        told = scenes
        if self.captions == "other":
            told = [sample_scene(sample_rng(self.seed, "others", p)) for p in positions]
        images = np.stack([draw(scene, IMAGE_SIZE) for scene in scenes])
        return self._tokenized(images, [caption(scene, "en") for scene in told])

    def _tokenized(self, images: np.ndarray, captions: list[str]) -> Pairs:
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        return Pairs(images_to_pixel_values(images), tokens.input_ids)


def info_nce(own: torch.Tensor, everyone: torch.Tensor, start: int, scale: torch.Tensor) -> torch.Tensor:
    """−½ · mean over own pairs i of log softmax_j(s·xᵢ·yⱼ)ᵢ + log softmax_j(s·yᵢ·xⱼ)ᵢ, j over everyone's pairs.

    own [n, 2, D], everyone [B, 2, D]: x, y of each pair; pair 0 of `own` is pair `start` of `everyone`.
    The mean of the workers' losses by their n, with gradients through everyone's pairs, is the whole batch's loss.
    """
    target = torch.arange(start, start + len(own))
    to_text = scale * own[:, 0] @ everyone[:, 1].T
    to_image = scale * own[:, 1] @ everyone[:, 0].T
    return (functional.cross_entropy(to_text, target) + functional.cross_entropy(to_image, target)) / 2


def gathered(own: torch.Tensor, share: Share) -> torch.Tensor:
    """Everyone's rows in the order of the global batch, from each worker's share of them. Gradients flow back to the
    worker whose row it is, summed over the workers that used it."""
    if share.world_size == 1:
        return own
    counts = [len(Share(rank, share.world_size, share.batch_size)) for rank in range(share.world_size)]
    longest = max(counts)
    filled = torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
    rows = all_gather_single_autograd(filled, 0, group.WORLD).view(share.world_size, longest, *own.shape[1:])
    return torch.cat([rows[rank, :count] for rank, count in enumerate(counts)])
