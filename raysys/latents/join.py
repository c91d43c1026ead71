"""SAMPLES ⋈ DUPLICATES ⋈ LATENTS ⋈ TEXT_STATES → TRAINING_SET rows, by SAMPLES part and without a shuffle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysys.errors import InputError
from raysys.outcomes import KEPT, rejected
from raysys.rows import TRAINING_SET
from raysys.tables import TableView
from raysys.tables.join import AlignedTable
from raysys.tables.representatives import LEFT_OUT, NOT_DEDUPLICATED, Representatives

FROM_SAMPLES = ("row_id", "sample_id", "license", "url")
FROM_LATENTS = ("latents", "latents_shape")
HASHES = ("vae_hash", "text_encoder_hash", "tokenizer_hash")


@dataclass(frozen=True)
class SetTables:
    """The tables from which a training set is joined.

    duplicates: None = every kept sample is its own representative.
    text_states: one table or several; an image may have several captions, in one table or over all.
    required: an image must also have a caption kept in each, for sets of the same images with other captions.
    """

    samples: TableView
    duplicates: TableView | None
    latents: TableView
    text_states: tuple[TableView, ...]
    required: tuple[TableView, ...] = ()


def encoders_of(tables: SetTables) -> dict[str, Any]:
    """{"vae_hash", "text_encoder_hash", "tokenizer_hash", "places": {"vae", "text_encoder", "tokenizer"}}.

    The models that made latents and text states, as recorded by their tables; None if not recorded.
    Raises InputError if the tables of text states were not made by the same encoder and tokenizer.
    """
    recorded = [_fields(view) for view in (tables.latents, *tables.text_states)]
    found: dict[str, Any] = {}
    for name in HASHES:
        values = sorted({fields[name] for fields in recorded if name in fields})
        if len(values) > 1:
            raise InputError(
                f"the tables to join differ in {name}: {', '.join(v[:12] for v in values)}",
                "encode all of them with the same models",
            )
        found[name] = values[0] if values else None
    images, text = (_config(view) for view in (tables.latents, tables.text_states[0]))
    found["places"] = {
        "vae": images.get("images", {}).get("vae"),
        "text_encoder": text.get("text", {}).get("text_encoder"),
        "tokenizer": text.get("text", {}).get("tokenizer"),
    }
    return found


def training_rows(tables: SetTables, which: Sequence[str] | None, keep_duplicates: bool) -> Iterator[pa.Table]:
    """TRAINING_SET rows, one table per SAMPLES part.

    which: the captions to use, by the part of caption_id after the row_id; a row has those that were kept, in this
    order. None = the image's only caption. Raises InputError if `which` is None and an image has several.
    """
    join = _Join(tables, which, keep_duplicates)
    for part in tables.samples.parts:
        yield TRAINING_SET.table(join.rows_of(part))


class _Join:
    def __init__(self, tables: SetTables, which: Sequence[str] | None, keep_duplicates: bool) -> None:
        self.which, self.keep_duplicates = which, keep_duplicates
        self.samples = Representatives(tables.samples, tables.duplicates)
        self.latents = AlignedTable(tables.latents)
        self.text_states = [AlignedTable(view) for view in tables.text_states]
        self.required = [AlignedTable(view) for view in tables.required]

    def rows_of(self, part: Any) -> list[dict[str, Any]]:
        latents = self.latents.rows_of(part)
        captions: dict[str, list[dict[str, Any]]] = {}
        for table in self.text_states:
            for row_id, rows in table.all_rows_of(part).items():
                captions.setdefault(row_id, []).extend(rows)
        required = [table.all_rows_of(part, ["outcome", "reason"]) for table in self.required]
        found = []
        for base, copies in self._representatives(part):
            row_id = base["row_id"]
            if "outcome" not in base:
                base |= self._arrays(latents.get(row_id), captions.get(row_id, []))
            for others in required:
                if base["outcome"] == KEPT:
                    base = _without_arrays(base, _fate_of("required_text_states", others.get(row_id, [])))
            found += [{**base, "copy": i} for i in range(copies if base["outcome"] == KEPT else 1)]
        return found

    def _representatives(self, part: Any) -> Iterator[tuple[dict[str, Any], int]]:
        """(columns of SAMPLES, number of copies) for each kept sample that represents its cluster."""
        for sample in self.samples.with_left_out(part, [*FROM_SAMPLES, "cluster_size"]).to_pylist():
            cluster_size, left_out = sample.pop("cluster_size"), sample.pop(LEFT_OUT)
            if left_out is None:
                yield sample, cluster_size if self.keep_duplicates else 1
            elif left_out == NOT_DEDUPLICATED:
                yield sample | rejected(NOT_DEDUPLICATED), 1

    def _arrays(self, latents: dict[str, Any] | None, captions: list[dict[str, Any]]) -> dict[str, Any]:
        """The columns of latents and captions, and the row's fate."""
        fate = _fate_of("latents", [] if latents is None else [latents])
        if fate["outcome"] != KEPT:
            return fate
        chosen = self._chosen(captions)
        fate = _fate_of("text_states", chosen)
        if fate["outcome"] != KEPT:
            return fate
        kept = [row for row in chosen if row["outcome"] == KEPT]
        if self.which is None and len(kept) > 1:
            names = ", ".join(_way(row) for row in kept)
            raise InputError(
                f"{kept[0]['row_id']} has {len(kept)} captions: {names}", "give one or several of them in `which`"
            )
        height, width = latents["latents_shape"][-2:]
        return {
            **{name: latents[name] for name in FROM_LATENTS},
            "bucket": f"{height}x{width}",
            "captions": [row["caption"] for row in kept],
            "caption_ids": [row["caption_id"] for row in kept],
            "n_tokens": [row["n_tokens"] for row in kept],
            "text_states": b"".join(row["text_states"] for row in kept),
            "text_states_shapes": [row["text_states_shape"] for row in kept],
            "text_states_dtype": _one_dtype(kept),
            **fate,
        }

    def _chosen(self, captions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.which is None:
            return captions
        by_way = {_way(row): row for row in captions}
        return [by_way[way] for way in self.which if way in by_way]


def _way(row: dict[str, Any]) -> str:
    """The kind of a caption: its caption_id without the row_id, e.g. "original", "blip2/photo"."""
    return row["caption_id"].removeprefix(row["row_id"] + "/")


def _one_dtype(rows: list[dict[str, Any]]) -> str:
    dtypes = sorted({row["text_states_dtype"] for row in rows})
    if len(dtypes) != 1:
        what = f"captions of {rows[0]['row_id']} have text states of {dtypes}"
        raise InputError(what, "encode them with one encoder")
    return dtypes[0]


def _fate_of(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Kept if one of `rows` is kept; else rejected as `no_<name>`, with the reason of the first row."""
    if any(row["outcome"] == KEPT for row in rows):
        return {"outcome": KEPT}
    return rejected(f"no_{name}", rows[0]["reason"] if rows else None)


def _without_arrays(row: dict[str, Any], fate: dict[str, Any]) -> dict[str, Any]:
    return row | fate if fate["outcome"] == KEPT else {name: row[name] for name in FROM_SAMPLES} | fate


def _fields(view: TableView) -> dict[str, Any]:
    """The identity fields of the table's outputs, merged."""
    merged: dict[str, Any] = {}
    for output in view.outputs:
        merged |= output.fields()
    return merged


def _config(view: TableView) -> dict[str, Any]:
    """The configuration recorded by the table's last run."""
    return (view.outputs[-1].folder.read_json("_run/job.json") or {}).get("config", {})
