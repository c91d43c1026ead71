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

from raysys.jobs.layout import MODELS, SPLITS, Layout
from raysys.jobs.report_captions import captions_of
from raysys.outcomes import Counts, error, kept, rejected
from raysys.replication import Background, ReplicationResult, stats
from raysys.replication.inputs import open_images
from raysys.replication.saved import save_result
from raysys.report.data import CaptionsReport, DuplicateCluster, ModelReplication, PipelineReport, TableOutcome
from raysys.rows import CAPTIONS, DESCRIPTORS, DUPLICATES, GENERATIONS, LATENTS, SAMPLES, TEXT_STATES, RowType
from raysys.tables import InputPart, Store, commit_part, open_output

COLOURS = {"red": (196, 62, 52), "blue": (52, 92, 190), "green": (64, 150, 84), "yellow": (226, 186, 60)}
JAPANESE = {"red": "赤い", "blue": "青い", "green": "緑の", "yellow": "黄色い"}


def result(mean: float, n: int = 128, seed: int = 0, n_training: int = 512, **changes: Any) -> ReplicationResult:
    """A result with similarities around `mean`: generation `p<i>-0` is nearest to training image `t<i mod 40>`."""
    rng = np.random.default_rng(seed)
    similarities = rng.beta(10 * mean, 10 * (1 - mean), n)
    ids = tuple(f"p{i:03}-0" for i in range(n))
    neighbours = [
        {
            "generated": ids[i],
            "rank": 0,
            "training": f"shard-000/t{i % 40:03}",
            "similarity": float(similarities[i]),
            "prompt": caption(i),
            "caption": caption(i % 40),
            "licence": ("CC0-1.0", "CC-BY-4.0")[i % 2],
            "url": f"https://scenes.example/{i % 40}",
        }
        for i in range(n)
    ]
    interval, reason = stats.interval_of_r(similarities)
    figures = stats.summary(similarities)
    del figures["n"]
    measured = ReplicationResult(
        R=stats.replication_score(similarities),
        R_ci=interval,
        R_ci_reason=reason,
        n_generated=n,
        n_training=n_training,
        descriptor="embedded",
        preset="embedded-v1",
        weights_sha256="0123456789abcdef" * 4,
        similarities=similarities,
        generated_ids=ids,
        neighbours=neighbours,
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
    names = list(COLOURS)
    a, b = names[i % 4], names[(i // 4) % 4]
    if i % 5 == 3:
        return f"{JAPANESE[a]}円と{JAPANESE[b]}四角がある"
    return f"a small {a} circle above a large {b} square on a plain background"


def picture(i: int, noise: float = 0.0, side: int = 64) -> bytes:
    """A PNG: a square and a circle whose colours and places follow from `i`."""
    rng = np.random.default_rng(i)
    names = list(COLOURS)
    image = np.full((side, side, 3), 225.0) - rng.uniform(0, 40, 3)
    y, x = np.mgrid[:side, :side] / side
    cx, cy = rng.uniform(0.25, 0.75, 2)
    image[(abs(x - cy) < 0.24) & (abs(y - cx) < 0.24)] = COLOURS[names[(i // 4) % 4]]
    image[(x - cx) ** 2 + (y - cy) ** 2 < 0.03] = COLOURS[names[i % 4]]
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


def pipeline(baseline: float = 0.8, mitigated: float = 0.5, held_out: float = 0.3, **changes: Any) -> PipelineReport:
    """A whole run; the three means decide which way the headline must go."""
    ingest = {"too_large": 1, "truncated": 4, "licence_not_allowed": 19, "licence_unknown": 11, "empty_caption": 3}
    data = PipelineReport(
        title="A small model with and without dual fusion",
        seed=0,
        command="raysys demo --config raysys/jobs/configs/demo/demo.yaml seed=0",
        versions={"raysys": "0.1.0", "ray": "2.60.0", "torch": "2.13.0", "diffusers": "0.42.1", "python": "3.11.9"},
        seconds={
            "scenes": 3.2,
            "ingest": 6.8,
            "duplicates": 4.1,
            "latents": 11.4,
            "text states": 8.0,
            "training": 151.3,
            "generation": 33.9,
            "replication": 4.4,
        },
        tables=[
            TableOutcome(
                "samples",
                counts(586, ingest, {"decoder_timeout": 1}),
                6.8,
                {"CC0-1.0": 301, "CC-BY-4.0": 285, "CC-BY-NC-4.0": 19, "unknown": 11},
            ),
            TableOutcome("duplicates", counts(512, {"duplicate_of": 74})),
            TableOutcome("latents", counts(512)),
            TableOutcome("text_states", counts(512), 8.0),
            TableOutcome("generations", counts(256), 33.9),
        ],
        losses={"baseline": loss_records(1, 0.12), "mitigated": loss_records(2, 0.2)},
        baseline=ModelReplication(
            "Baseline", with_background(result(baseline, seed=3)), generated_image(0.02), "captions as they are"
        ),
        mitigated=ModelReplication(
            "mitigated",
            with_background(result(mitigated, seed=4)),
            generated_image(0.15),
            "dual fusion at embedding level, w_lat 0.1, w_emb 0.5",
        ),
        held_out=result(held_out, seed=5),
        training_image=training_image,
        stand_ins=[
            "The data are drawn scenes of 64 × 64 pixels, and the models are small ones of the real architectures "
            "trained on them: the direction of the effect is meaningful, its size is not that of Stable Diffusion.",
            "The descriptor is the embedded one; published values of R use SSCD weights, which a demo does not have.",
        ],
        full_command="raysys mitigate --config mitigate/full.yaml model=/models/stable-diffusion-2-1",
        duplicates=[
            DuplicateCluster(
                [f"t{i + 40 * k:03}" for k in range(5 - i % 3)], 5 - i % 3, ("near", "exact")[i % 2], "CC0-1.0"
            )
            for i in range(11)
        ],
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
        {"row_id": row_id(i), "image": picture(i), "caption": caption(i), "licence": "CC0-1.0"} | kept()
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
    report = captions_of(at, "general", open_images(at.samples("train")))
    assert report is not None
    return report


def run_folder(folder: Path, level: str | None, **config: Any) -> Layout:
    """Everything that a finished pipeline leaves for its report but the captions; `level` goes into its config."""
    at = Layout(str(folder))
    ids = [{"row_id": row_id(i)} | kept() for i in range(N_IMAGES)]
    write_samples(at)
    write_table(at.descriptors, DESCRIPTORS, ids)
    write_table(at.duplicates, DUPLICATES, ids)
    for split in ("train", "fusion"):
        write_table(at.latents(split), LATENTS, ids)
        write_table(at.text_states(split), TEXT_STATES, ids)
    for model, mean in zip((*MODELS, "held_out"), (0.8, 0.5, 0.3), strict=True):
        measured = result(mean, N_IMAGES, n_training=N_IMAGES)
        for match in measured.neighbours if model == "mitigated" and level is not None else ():
            match["prompt"] = f"a shape like {match['generated']}"
        save_result(Store(at.replication(model)), measured)
    for model in MODELS:
        rows = [{"gen_id": f"p{i:03}-0", "prompt": caption(i), "image": picture(i, 0.1)} for i in range(N_IMAGES)]
        write_table(at.generations(model), GENERATIONS, [row | kept() for row in rows])
    config = {"shards": None, "fusion_level": "embedding", "w_lat": 0.1, "w_emb": 0.5, "full_command": "x"} | config
    if level is not None:
        config["captions"] = {"level": level}
    record = {"seconds": {"train": 2.0}, "seed": 0, "command": "raysys pipeline", "config": config}
    Store(at.run).write_json("pipeline.json", record)
    return at
