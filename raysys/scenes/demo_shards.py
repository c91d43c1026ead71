"""The demo's input: WebDataset tars of scenes with planted duplicates, licenses and damage, and the ground truth.

Layout: <folder>/{train,held_out,fusion}/00000.tar … and <folder>/truth.json. Same config → same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from raysys.config import Config
from raysys.errors import InputError
from raysys.scenes.captions import caption
from raysys.scenes.drawing import draw
from raysys.scenes.patterns import FUSION_CLASSES, sample_class_scene
from raysys.scenes.planted import DAMAGE_REASONS, NEAR_KINDS, damage, encode, near_duplicate
from raysys.scenes.scene import Scene, sample_scene

TRUTH = "truth.json"
"""Written last: a folder without this file is incomplete."""

FIXED_MTIME = 1_700_000_000
"""Time in tar headers, fixed to make the shards reproducible."""

ALLOWED_LICENSES = {
    "CC0-1.0": ("CC0-1.0", "CC0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "CC-BY-4.0": ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/", "cc-by-4.0"),
    "CC-BY-2.0": ("CC BY 2.0", "http://creativecommons.org/licenses/by/2.0/deed.en"),
}
"""Normalized license id → spellings found in real data."""


class ScenesConfig(Config):
    """Numbers of scenes, and what to plant among the training scenes."""

    seed: int = Field(0, ge=0, description="Seed of everything: images, captions, order")
    image_size: int = Field(64, ge=16, le=2048, description="Side length of the square images in pixels")
    n_train: int = Field(192, ge=1, description="Distinct valid training scenes with an allowed license")
    n_held_out: int = Field(64, ge=0, description="Scenes that are not trained on, as a reference level for R")
    n_fusion_classes: int = Field(12, ge=0, le=len(FUSION_CLASSES), description="Classes of the fusion set")
    n_per_class: int = Field(8, ge=1, description="Fusion images per class")
    samples_per_shard: int = Field(100, ge=1, description="Samples per tar")
    exact_copies: tuple[int, ...] = Field(
        (7, 7, 3, 1, 1),
        description="Planted exact duplicates: the number of copies for each duplicated scene",
    )
    n_near: int = Field(
        8, ge=0, description="Planted near duplicates, each of a different scene, cycling through the kinds"
    )
    n_not_allowed: int = Field(6, ge=0, description="Valid scenes under CC BY-NC")
    n_unknown: int = Field(4, ge=0, description="Valid scenes without a usable license statement")
    n_damaged_each: int = Field(1, ge=0, description="Damaged samples of each kind (scenes/planted.py)")
    truncated_shard: bool = Field(False, description="Append a last training shard that ends in the middle of an image")

    def model_post_init(self, _context: Any) -> None:
        needed = len(self.exact_copies) + self.n_near
        if needed > self.n_train or any(n < 1 for n in self.exact_copies):
            raise ValueError(
                f"exact_copies = {self.exact_copies} (each ≥ 1) and n_near = {self.n_near} need "
                f"{needed} different scenes, n_train = {self.n_train}"
            )


@dataclass
class Sample:
    """One sample of a shard, and the expected result of reading it."""

    key: str
    members: dict[str, bytes]  # extension → bytes, in tar order
    outcome: str = "kept"
    reason: str | None = None
    license: str | None = None  # normalized id


@dataclass
class Group:
    """A planted duplicate cluster: `keys[0]` is the original."""

    kind: str  # exact | recompressed | resized | cropped | brighter
    keys: list[str] = field(default_factory=list)


def write_demo_shards(folder: str | Path, config: ScenesConfig) -> dict[str, Any]:
    """Draw and write all shards. Returns the expected results of reading them, which are also written as truth.json.

    truth = {"counts": {"train": {"in", "kept", "rejected", "error"}, …}, "items": {key: {shard, outcome, reason,
    license}}, "duplicate_groups": [{"kind", "keys"}], "n_unique": kept training scenes without duplicates, …}.
    Raises InputError if the folder contains shards of another configuration.
    """
    folder = Path(folder)
    _claim_folder(folder, config)
    rng = np.random.default_rng(config.seed)
    train, groups = _training_samples(rng, config)
    order = rng.permutation(len(train))
    splits = {
        "train": [train[i] for i in order],
        "held_out": [_scene_sample(rng, f"held{i:06d}", config) for i in range(config.n_held_out)],
        "fusion": list(_fusion_samples(rng, config)),
    }
    items: dict[str, dict[str, Any]] = {}
    counts: dict[str, dict[str, Any]] = {}
    for split, samples in splits.items():
        for name, part in _shard_names(split, samples, config.samples_per_shard):
            write_tar(folder / name, part)
            items |= {s.key: _item(s, name) for s in part}
        counts[split] = _counts(samples)
    if config.truncated_shard:
        items |= _write_truncated_shard(folder, rng, config, counts["train"])
    truth = {
        "config": config.model_dump(mode="json"),
        "counts": counts,
        "n_unique": counts["train"]["kept"] - sum(len(g.keys) - 1 for g in groups),
        "duplicate_groups": [asdict(g) for g in groups],
        "fusion_classes": list(FUSION_CLASSES[: config.n_fusion_classes]),
        "items": items,
    }
    (folder / TRUTH).write_text(json.dumps(truth, indent=1, ensure_ascii=False), encoding="utf-8")
    return truth


def write_tar(path: Path, samples: Sequence[Sample]) -> None:
    """Write a WebDataset tar with reproducible bytes. The members of a sample are consecutive and share its key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            for extension, data in sample.members.items():
                info = tarfile.TarInfo(f"{sample.key}.{extension}")
                info.size, info.mtime, info.mode = len(data), FIXED_MTIME, 0o644
                tar.addfile(info, io.BytesIO(data))


def _training_samples(rng: np.random.Generator, config: ScenesConfig) -> tuple[list[Sample], list[Group]]:
    """Valid scenes, their planted copies, scenes with bad licenses, and damaged samples; not shuffled."""
    scenes = [sample_scene(rng) for _ in range(config.n_train)]
    samples = [_scene_sample(rng, f"scene{i:06d}", config, scene) for i, scene in enumerate(scenes)]
    groups: list[Group] = []
    for i, n_copies in enumerate(config.exact_copies):
        group = Group("exact", [samples[i].key])
        for copy in range(n_copies):
            samples.append(_exact_copy(rng, samples[i], f"exact{i:04d}x{copy:03d}"))
            group.keys.append(samples[-1].key)
        groups.append(group)
    for j in range(config.n_near):
        i, kind = len(config.exact_copies) + j, NEAR_KINDS[j % len(NEAR_KINDS)]
        pixels = near_duplicate(draw(scenes[i], config.image_size), kind)
        copy = _scene_sample(rng, f"near{j:06d}", config, scenes[i], pixels=pixels)
        samples.append(copy)
        groups.append(Group(kind, [samples[i].key, copy.key]))
    bad = [("not_allowed", "CC BY-NC 4.0")] * config.n_not_allowed + [("unknown", None)] * config.n_unknown
    for j, (why, spelling) in enumerate(bad):
        sample = _scene_sample(rng, f"{why}{j:06d}", config, license=(why, spelling))
        sample.outcome, sample.reason = "rejected", f"license_{why}"
        samples.append(sample)
    for reason in DAMAGE_REASONS:
        for j in range(config.n_damaged_each):
            good = _scene_sample(rng, f"bad-{reason.replace('_', '-')}{j:04d}", config, extension="jpg")
            samples.append(Sample(good.key, damage(reason, good.members), "rejected", reason, good.license))
    return samples, groups


def _scene_sample(
    rng: np.random.Generator,
    key: str,
    config: ScenesConfig,
    scene: Scene | None = None,
    pixels: np.ndarray | None = None,
    extension: str | None = None,
    license: tuple[str, str | None] | None = None,
) -> Sample:
    """A valid sample: image (jpg, png or webp), caption in a random wording, metadata with url and license."""
    scene = scene if scene is not None else sample_scene(rng)
    pixels = pixels if pixels is not None else draw(scene, config.image_size)
    extension = extension or str(rng.choice(["jpg", "png", "webp"], p=[0.6, 0.3, 0.1]))
    license_id, spelling = license or _random_license(rng)
    text = caption(scene, "en", phrasing=int(rng.integers(1000)))
    facts = [{"shape": o.shape, "color": o.color, "size": o.size, "texture": o.texture} for o in scene.objects]
    metadata = {
        "key": key,
        "url": f"https://scenes.example.org/{key}.{extension}",
        "caption": text,
        "caption_ja": caption(scene, "ja"),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "objects": facts,
    }
    if spelling is not None:
        metadata["license"] = spelling
    members = {extension: encode(pixels, extension), "txt": text.encode(), "json": _json_bytes(metadata)}
    return Sample(key, members, license=license_id)


def _exact_copy(rng: np.random.Generator, original: Sample, key: str) -> Sample:
    """A re-upload: the same image bytes and caption with another key, url and (allowed) license."""
    license_id, spelling = _random_license(rng)
    members = dict(original.members)
    metadata = json.loads(members["json"])
    metadata |= {"key": key, "url": f"https://copies.example.net/{key}", "license": spelling}
    members["json"] = _json_bytes(metadata)
    return Sample(key, members, license=license_id)


def _fusion_samples(rng: np.random.Generator, config: ScenesConfig) -> Iterator[Sample]:
    for index in range(config.n_fusion_classes):
        for j in range(config.n_per_class):
            scene = sample_class_scene(rng, index)
            key = f"class{index:02d}x{j:05d}"
            metadata = {"key": key, "url": f"https://patterns.example.org/{key}.png", "license": "CC0-1.0"}
            metadata |= {"caption": caption(scene), "class_index": index, "class_name": scene.pattern}
            pixels = draw(scene, config.image_size)
            members = {
                "png": encode(pixels, "png"),
                "txt": caption(scene).encode(),
                "json": _json_bytes(metadata),
            }
            yield Sample(key, members, license="CC0-1.0")


def _random_license(rng: np.random.Generator) -> tuple[str, str]:
    license_id = str(rng.choice(list(ALLOWED_LICENSES)))
    return license_id, str(rng.choice(ALLOWED_LICENSES[license_id]))


def _write_truncated_shard(
    folder: Path, rng: np.random.Generator, config: ScenesConfig, counts: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """A last shard that ends in the middle of its third image: two valid samples, one error item. Updates `counts`."""
    samples = [_scene_sample(rng, f"cut{i:06d}", config, extension="png") for i in range(4)]
    name = f"train/{-(-counts['in'] // config.samples_per_shard):05d}.tar"
    write_tar(folder / name, samples)
    with tarfile.open(folder / name) as tar:
        third = next(m for m in tar if m.name == f"{samples[2].key}.png")
    with (folder / name).open("r+b") as file:
        file.truncate(third.offset_data + third.size // 2)
    counts["in"] += 3
    counts["kept"] += 2
    counts["error"] = {"truncated_shard": 1}
    cut = Sample(samples[2].key, {}, "error", "truncated_shard", None)
    return {s.key: _item(s, name) for s in [*samples[:2], cut]}


def _shard_names(split: str, samples: Sequence[Sample], per_shard: int) -> Iterator[tuple[str, Sequence[Sample]]]:
    for k, start in enumerate(range(0, len(samples), per_shard)):
        yield f"{split}/{k:05d}.tar", samples[start : start + per_shard]


def _counts(samples: Sequence[Sample]) -> dict[str, Any]:
    """Counts in the format of `outcomes.Counts.as_dict`."""
    rejected = Counter(s.reason for s in samples if s.outcome == "rejected")
    kept = sum(s.outcome == "kept" for s in samples)
    return {"in": len(samples), "kept": kept, "rejected": dict(sorted(rejected.items())), "error": {}}


def _item(sample: Sample, shard: str) -> dict[str, Any]:
    return {"shard": shard, "outcome": sample.outcome, "reason": sample.reason, "license": sample.license}


def _json_bytes(metadata: dict[str, Any]) -> bytes:
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode()


def _claim_folder(folder: Path, config: ScenesConfig) -> None:
    """Raise InputError if the folder contains shards of another configuration, which would be mixed with the new ones.

    The configuration is written first and truth.json last, so an interrupted run can be repeated.
    """
    path = folder / "scenes_config.json"
    ours = json.dumps(config.model_dump(mode="json"), indent=1)
    fix = "remove the folder or write to another one"
    if path.is_file():
        if path.read_text(encoding="utf-8") != ours:
            raise InputError(f"{folder} holds demo shards of another configuration", fix)
    elif any(folder.glob("*/*.tar")):
        raise InputError(f"{folder} holds tars that write_demo_shards did not write", fix)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(ours, encoding="utf-8")
