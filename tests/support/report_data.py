"""Fake but realistic report data: pictures drawn with numpy, similarities from known distributions, all seeded.

`run_folder` writes the tables that a finished run leaves behind, in countable numbers.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raysys.outcomes import Counts, error, kept, rejected
from raysys.replication import Background, ReplicationResult, stats
from raysys.replication.saved import save_result
from raysys.report.data import DuplicateCluster, StudyReport, TableOutcome
from raysys.report.folder import RECORD, RunFolder
from raysys.report.sections.captions import CaptionsReport, collect
from raysys.report.sections.data import DataFates
from raysys.report.sections.replication import Measured, ReplicationData
from raysys.report.sections.training import Training
from raysys.rows import CAPTIONS, DUPLICATES, FEATURES, GENERATIONS, LATENTS, SAMPLES, TEXT_STATES, RowType
from raysys.similarity.thresholds import EMBEDDED
from raysys.study.layout import SPLITS, Layout
from raysys.tables import InputPart, Store, commit_part, open_output

COLORS = {"red": (196, 62, 52), "blue": (52, 92, 190), "green": (64, 150, 84), "yellow": (226, 186, 60)}
JAPANESE = {"red": "赤い", "blue": "青い", "green": "緑の", "yellow": "黄色い"}


def result(mean: float, n: int = 128, seed: int = 0, n_training: int = 512, **changes: Any) -> ReplicationResult:
    """A result with similarities around `mean`: generation `p<i>-0` is nearest to training image `t<i mod 40>`."""
    rng = np.random.default_rng(seed)
    similarities = rng.beta(10 * mean, 10 * (1 - mean), n)
    ids = tuple(f"p{i:03}-0" for i in range(n))
    neighbors = [
        {
            "generated": ids[i],
            "generated_sample_id": f"{i:064x}",
            "rank": 0,
            "training": f"shard-000/t{i % 40:03}",
            "training_sample_id": f"{i % 40:064x}",
            "similarity": float(similarities[i]),
            "prompt": caption(i),
            "caption": caption(i % 40),
            "license": ("CC0-1.0", "CC-BY-4.0")[i % 2],
            "url": f"https://scenes.example/{i % 40}",
        }
        for i in range(n)
    ]
    interval, reason = stats.interval_of_r(similarities)
    figures = stats.summary(similarities, (*stats.THRESHOLDS, EMBEDDED.copy.similarity))
    del figures["n"]
    measured = ReplicationResult(
        R=stats.replication_score(similarities),
        R_ci=interval,
        R_ci_reason=reason,
        n_generated=n,
        n_training=n_training,
        descriptor="embedded",
        preset="embedded-v2",
        weights_sha256="0123456789abcdef" * 4,
        thresholds=EMBEDDED,
        similarities=similarities,
        generated_ids=ids,
        neighbors=neighbors,
        **figures,
    )
    return replace(measured, **changes)


def with_background(measured: ReplicationResult) -> ReplicationResult:
    """The result with a train-against-train background of mean 1/3."""
    values = np.random.default_rng(7).beta(3, 6, measured.n_training)
    background = Background(values, **stats.summary(values), histogram=stats.histogram(values))
    rank = stats.percentile_rank(measured.R, values)
    return replace(measured, background=background, R_background_percentile=rank)


def caption(i: int) -> str:
    names = list(COLORS)
    a, b = names[i % 4], names[(i // 4) % 4]
    if i % 5 == 3:
        return f"{JAPANESE[a]}円と{JAPANESE[b]}四角がある"
    return f"a small {a} circle above a large {b} square on a plain background"


def picture(i: int, noise: float = 0.0, side: int = 64) -> bytes:
    """A PNG: a square and a circle whose colors and places follow from `i`."""
    rng = np.random.default_rng(i)
    names = list(COLORS)
    image = np.full((side, side, 3), 225.0) - rng.uniform(0, 40, 3)
    y, x = np.mgrid[:side, :side] / side
    cx, cy = rng.uniform(0.25, 0.75, 2)
    image[(abs(x - cy) < 0.24) & (abs(y - cx) < 0.24)] = COLORS[names[(i // 4) % 4]]
    image[(x - cx) ** 2 + (y - cy) ** 2 < 0.03] = COLORS[names[i % 4]]
    image += np.random.default_rng(i + 1).normal(0, 255 * noise, image.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def generated_image(noise: float):
    return lambda gen_id: picture(int(gen_id[1:4]) % 40, noise)


def training_image(row_id: str) -> bytes:
    return picture(int(row_id.rsplit("t", 1)[1]))


def loss_records(seed: int, level: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    steps = np.arange(10, 1510, 10)
    losses = (level + 0.7 * np.exp(-steps / 150)) * rng.lognormal(0, 0.12, len(steps))
    return [{"step": int(s), "loss": float(v), "lr": 2e-4} for s, v in zip(steps, losses, strict=True)]


def counts(kept: int, rejected: dict[str, int] | None = None, error: dict[str, int] | None = None) -> Counts:
    return Counts(kept, Counter(rejected or {}), Counter(error or {}))


MODELS = {"baseline": 0.8, "mitigated": 0.5}
RECIPES = {"baseline": "the original captions, no fusion", "mitigated": "dual fusion (w_lat 0.1, w_emb 0.5)"}


def replication(
    models: dict[str, float] | None = None, held_out: float | None = 0.3, captions: dict[str, str] | None = None
) -> ReplicationData:
    """The measurements of models with these mean similarities; `held_out`: those of the reference."""
    measured = [
        Measured(
            name,
            with_background(result(mean, seed=3 + i)),
            generated_image(0.02 if i == 0 else 0.15),
            (captions or {}).get(name, "original"),
            i,
        )
        for i, (name, mean) in enumerate((MODELS if models is None else models).items())
    ]
    if held_out is not None:
        measured[0] = replace(measured[0], result=against_held_out(measured[0].result, held_out))
    return ReplicationData(measured, training_image)


def against_held_out(measured: ReplicationResult, mean: float, **changes: Any) -> ReplicationResult:
    """The measurement, with one of its generations against held-out images."""
    return replace(measured, own_held_out=result(mean, seed=5, **changes))


def fates() -> DataFates:
    ingest = {"too_large": 1, "truncated": 4, "license_not_allowed": 19, "license_unknown": 11, "empty_caption": 3}
    licenses = {"CC0-1.0": 301, "CC-BY-4.0": 285, "CC-BY-NC-4.0": 19, "unknown": 11}
    return DataFates(
        tables=[
            TableOutcome("samples", counts(586, ingest, {"decoder_timeout": 1}), 6.8, licenses),
            TableOutcome("duplicates", counts(512, {"duplicate_of": 74})),
            TableOutcome("latents", counts(512)),
            TableOutcome("text_states", counts(512), 8.0),
            TableOutcome("generations", counts(256), 33.9),
        ],
        training_image=training_image,
        duplicates=[
            DuplicateCluster(
                [f"t{i + 40 * k:03}" for k in range(5 - i % 3)], 5 - i % 3, ("near", "exact")[i % 2], "CC0-1.0"
            )
            for i in range(11)
        ],
    )


def study(
    models: dict[str, float] | None = None,
    held_out: float | None = 0.3,
    captions: CaptionsReport | None = None,
    learned: dict[str, str] | None = None,
    **changes: Any,
) -> StudyReport:
    """A whole study; the mean similarities of `models` and `held_out` decide what the headline must say."""
    models = MODELS if models is None else models
    losses = {name: loss_records(i + 1, 0.12 + 0.05 * i) for i, name in enumerate(models)}
    parts = {"data": fates(), "training": Training({name: RECIPES.get(name, name) for name in models}, losses)}
    if captions is not None:
        parts["captions"] = captions
    data = StudyReport(
        title="A small model with and without dual fusion",
        seed=0,
        command="raysys study --config demo seed=0",
        versions={"raysys": "0.1.0", "ray": "2.60.0", "torch": "2.13.0", "diffusers": "0.42.1", "python": "3.11.9"},
        seconds={
            "scenes": 3.2,
            "ingest": 6.8,
            "dedup": 4.1,
            "encode": 19.4,
            "train-diffusion": 151.3,
            "generate": 33.9,
            "replicate": 4.4,
        },
        models=list(models),
        missing={},
        evaluations={"replication": replication(models, held_out, learned)},
        parts={name: parts[name] for name in ("data", "captions", "training") if name in parts},
        stand_ins=[
            "The data are drawn scenes of 64 × 64 pixels, and the models are small ones of the real architectures "
            "trained on them: the direction of the effect is meaningful, its size is not that of Stable Diffusion.",
            "The descriptor is the embedded one; published values of R use SSCD weights, which a demo does not have.",
        ],
        full_command="raysys study --config full",
    )
    return replace(data, **changes)


# --- tables on disk ---

N_IMAGES = 12
LEVELS = ("general", "five_words")
NLP = "raysys-rules-1"


def row_id(i: int) -> str:
    return f"shard-000/t{i:03}"


def write_table(
    path: str, row_type: RowType, rows: list[dict], producer: str = "test", chunk_rows: int = 5, **fields: Any
) -> None:
    """A finished table of several parts."""
    part = InputPart("rows", "rows", len(rows), "signature")
    output = open_output(path, row_type, producer, fields, [part], chunk_rows)
    for chunk in output.chunks:
        commit_part(output.folder, chunk.file, row_type.table(rows[chunk.start : chunk.stop]))


def caption_row(i: int, captioner: str, prompt: str, text: str | None, fate: dict | None = None, **more: Any) -> dict:
    return {
        "caption_id": f"{row_id(i)}/{captioner}/{prompt}",
        "row_id": row_id(i),
        "text": text,
        "language": "en",
        "captioner": captioner,
        "model": f"zoo:{captioner}",
        "revision": f"{captioner}-0123456789abcdef",
        "prompt_name": prompt,
        "completion_tokens": 10 + i,
        **(fate or kept()),
        **more,
    }


def synthetic(i: int) -> list[dict]:
    """Two captions by `scenes` and a Japanese one by `nihongo`; image 3, 5 and 7 have one that was not kept.

    Every Japanese text of an even image has no kana: only its language column tells that it is Japanese.
    """
    loops = rejected("repetition", "a phrase of 1 units 9 times in a row") if i == 3 else None
    fate = {5: rejected("wrong_language"), 7: error("caption-nihongo", "TimeoutError")}.get(i)
    japanese = f"赤色三角形、青色四角形、第{i}番" if i % 2 == 0 else f"{i}番目の絵には赤い円と青い四角がある"
    return [
        caption_row(i, "scenes", "plain", "a red " * 9 if i == 3 else f"picture {i} shows a red circle", loops),
        caption_row(i, "scenes", "picture", f"a picture of a red circle, number {i}"),
        caption_row(i, "nihongo", "describe", None if i == 7 else japanese, fate, language="ja"),
    ]


def generalizations(source: dict) -> list[dict]:
    """Both levels of one caption: GS 4 + i/8 before, 1 and 2 more after; five_words of image 4 is too long."""
    i = int(source["row_id"][-3:])
    rows = []
    for step, level in enumerate(LEVELS, 1):
        same = i == 0 and level == "general"
        too_long = i == 4 and level == "five_words"
        measured = {"source_gs": 4 + i / 8, "gs": 4 + i / 8 + step, "similarity": 0.5 if step == 1 else None}
        row = caption_row(i, source["captioner"], level, source["text"] if same else f"{level} shape {i}")
        row |= {"caption_id": f"{source['caption_id']}/{level}", "source_caption_id": source["caption_id"]}
        row |= {"source_text": source["text"], "level": level, "model": "zoo:rewriter"}
        rows.append(row | (rejected("too_many_words", "6 words") if too_long else measured))
    return rows


def write_samples(at: Layout) -> None:
    rows = [
        {"row_id": row_id(i), "image": picture(i), "caption": caption(i), "license": "CC0-1.0"} | kept()
        for i in range(N_IMAGES)
    ]
    for split in SPLITS:
        write_table(at.samples(split), SAMPLES, rows)


def write_captions(at: Layout, chunk_rows: int = 5, captioned: bool = True, **changes: Any) -> list[dict]:
    """The captions and generalized tables; `changes` are columns of all rows. Without `captioned`, the original
    captions are generalized and there is no captions table. Returns the rows of both tables."""
    rows = [row | changes for i in range(N_IMAGES) for row in synthetic(i)] if captioned else []
    for name in ("scenes", "nihongo") if captioned else ():
        own = [row for row in rows if row["caption_id"].split("/")[2] == name]
        write_table(at.captions, CAPTIONS, own, f"caption-{name}", chunk_rows)
    sources = [row for row in rows if row["prompt_name"] == "plain" and row["outcome"] == "kept"]
    if not captioned:
        sources = [caption_row(i, "original", "x", caption(i)) for i in range(N_IMAGES)]
        sources = [row | {"caption_id": f"{row['row_id']}/original"} for row in sources]
    made = [row | changes for source in sources for row in generalizations(source)]
    write_table(at.generalized, CAPTIONS, made, "generalize", chunk_rows, generality=NLP)
    return rows + made


def captions(folder: Path) -> CaptionsReport:
    """What the report tells of the captions of `synthetic` and `generalizations`."""
    at = Layout(str(folder))
    write_samples(at)
    write_captions(at)
    report = captions_of(at, {"baseline": "original", "mitigated": "scenes/plain/general"})
    assert report is not None
    return report


def captions_of(at: Layout, learned: dict[str, str]) -> CaptionsReport | None:
    """The captions section of a folder that holds nothing else."""
    near = Layout("")
    record = {
        "samples": {split: near.samples(split) for split in SPLITS},
        "captions": near.captions,
        "generalized": near.generalized,
        "models": {name: {"recipe": {"captions": kind}} for name, kind in learned.items()},
    }
    return collect(RunFolder(Store(at.run), record))


def recipe(captions: str, fused: bool) -> dict[str, Any]:
    fusion = {"level": "embedding" if fused else "none", "w_lat": 0.1, "w_emb": 0.5, "set": None}
    return {"like": None, "captions": captions, "duplicates": "drop", "fusion": fusion, "training": {}, "generate": {}}


def run_folder(folder: Path, kind: str = "original", failed: str | None = None, **changes: Any) -> Layout:
    """Everything that a finished study leaves for its report but the captions: `kind` is what the mitigated model
    learned. `failed` names a model whose training failed; `changes` go into the record."""
    at, near = Layout(str(folder)), Layout("")
    ids = [{"row_id": row_id(i)} | kept() for i in range(N_IMAGES)]
    write_samples(at)
    write_table(at.features("train"), FEATURES, [{"image_id": row_id(i)} | kept() for i in range(N_IMAGES)])
    write_table(at.duplicates, DUPLICATES, ids)
    for split in ("train", "fusion"):
        write_table(at.latents(split), LATENTS, ids)
        write_table(at.text_states(split, "original"), TEXT_STATES, ids)
    done = {name: mean for name, mean in MODELS.items() if name != failed}
    for model, mean in done.items():
        _write_measurement(at.evaluation("replication", model), mean, kind if model == "mitigated" else "original")
        rows = [{"gen_id": f"p{i:03}-0", "prompt": caption(i), "image": picture(i, 0.1)} for i in range(N_IMAGES)]
        write_table(at.generations("own", model), GENERATIONS, [row | kept() for row in rows])
    record = {
        "title": "raysys demo",
        "seed": 0,
        "command": "raysys study",
        "full_command": "x",
        "drawn": True,
        "samples": {split: near.samples(split) for split in SPLITS},
        "duplicates": near.duplicates,
        "captions": near.captions,
        "generalized": near.generalized,
        "tables": [
            *(near.samples(split) for split in SPLITS),
            *(near.features("train"), near.duplicates, near.captions, near.generalized),
            *(near.latents("train"), near.text_states("train", "original")),
            *(near.latents("fusion"), near.text_states("fusion", "original")),
            *(near.generations("own", name) for name in MODELS),
        ],
        "models": {
            name: {
                "recipe": recipe(kind if name == "mitigated" else "original", name == "mitigated"),
                "training": near.model(name),
                "generations": {"own": near.generations("own", name)},
            }
            for name in MODELS
        },
        "evaluations": {
            "replication": {
                "prompts": "own",
                "models": {name: near.evaluation("replication", name) for name in MODELS},
            }
        },
        "seconds": {"train-diffusion": 2.0},
        "steps": {
            f"{what} {name}": {"job": what, "model": name, "state": "done", "seconds": 1.0}
            | {"evaluation": "replication" if what == "replicate" else None}
            for what in ("train", "generate", "replicate")
            for name in MODELS
        },
    }
    if failed is not None:
        record["steps"][f"train {failed}"] |= {"state": "failed", "reason": "InputError: start_from is not there"}
        for what in ("generate", "replicate"):
            record["steps"][f"{what} {failed}"] = {"job": what, "model": failed}
    Store(at.run).write_json(RECORD, record | changes)
    return at


def _write_measurement(folder: str, mean: float, captions: str) -> None:
    measured = against_held_out(result(mean, N_IMAGES, n_training=N_IMAGES), 0.3, n=N_IMAGES, n_training=N_IMAGES)
    for match in measured.neighbors if captions != "original" else ():
        match["prompt"] = f"a shape like {match['generated']}"
    save_result(Store(folder), measured)
