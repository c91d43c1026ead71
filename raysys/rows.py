"""The row types: one Arrow schema per table, the interface between stages. Read this first.

    shards → SAMPLES → FEATURES → DUPLICATES ┐
                ├────→ CAPTIONS (captioned, translated, generalized) ┐
                └────→ LATENTS, TEXT_STATES ─────────────────────────┴→ TRAINING_SET → (model) → GENERATIONS → MATCHES

There are two ids. `row_id` (shard + key in it) identifies an input row; `sample_id` (SHA-256 of the original image
bytes) identifies an image. Every table ends with the four fate columns of `raysys.outcomes`.
Arrays are stored as little-endian bytes with a shape column: `array_to_bytes` / `bytes_to_array`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

StatesDtype = Literal["float16", "bfloat16", "float32"]
"""dtypes of stored text states. States of language models can exceed float16; bfloat16 has the range of float32."""

FATE = [
    pa.field("outcome", pa.string(), nullable=False),
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
]


@dataclass(frozen=True)
class RowType:
    """A table's name, schema (fate columns last) and key, i.e. the columns whose values are unique in the table.

    many_producers: whether several producers (captioners) may write into one table, each under its own name.
    meters: columns whose sums per second are shown during a run.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    many_producers: bool = False
    meters: tuple[str, ...] = ()

    def table(self, rows: Sequence[dict]) -> pa.Table:
        """Rows (dicts; missing columns become null) as an Arrow table of exactly this schema.

        Raises ValueError for a column that is not in the schema.
        """
        names = set(self.schema.names)
        for row in rows:
            if extra := set(row) - names:
                raise ValueError(f"rows of {self.name} have no column {sorted(extra)}; columns: {self.schema.names}")
        columns = [pa.array([row.get(f.name) for row in rows], f.type) for f in self.schema]
        return pa.Table.from_arrays(columns, schema=self.schema)


def _row_type(name: str, key: tuple[str, ...], *fields: tuple[str, pa.DataType], **more: Any) -> RowType:
    return RowType(name, pa.schema([pa.field(n, t) for n, t in fields] + FATE), key, **more)


SAMPLES = _row_type(
    "samples",
    ("row_id",),
    ("row_id", pa.string()),  # "<shard relative to the input root>/<key>"
    ("sample_id", pa.string()),  # SHA-256 (hex) of the original image bytes; null if there were none
    ("source_key", pa.string()),  # the key in the shard, as written by its author
    ("shard", pa.string()),  # absolute path or URL of the tar, Parquet file or image file
    ("member", pa.string()),  # tar member, file relative to the folder, or column if not found by name
    ("offset", pa.int64()),  # first byte of the image in `shard`; for Parquet the row index in the file
    ("length", pa.int64()),  # bytes of the image
    ("image", pa.binary()),  # the original bytes, only if materialized
    ("format", pa.string()),  # JPEG, PNG, WEBP …
    ("width", pa.int32()),  # after EXIF orientation
    ("height", pa.int32()),
    ("caption", pa.string()),
    ("url", pa.string()),
    ("license", pa.string()),  # normalized id (shards/licenses.py) or "unknown"
    ("license_evidence", pa.string()),  # "<field>=<value>" as found in the source
    ("metadata", pa.string()),  # the source's own JSON, unchanged
)

DUPLICATES = _row_type(
    "duplicates",
    ("row_id",),
    ("row_id", pa.string()),
    ("sample_id", pa.string()),
    ("cluster_id", pa.string()),  # row_id of the first member in reading order
    ("cluster_size", pa.int32()),
    ("representative", pa.string()),  # row_id of the member that is kept
    ("kind", pa.string()),  # unique | exact | near
    ("similarity", pa.float32()),  # cosine to the representative
    ("license", pa.string()),  # the strictest license in the cluster
    ("sources", pa.list_(pa.struct([("row_id", pa.string()), ("url", pa.string()), ("license", pa.string())]))),
)

FEATURES = _row_type(
    "features",
    ("image_id",),
    ("image_id", pa.string()),  # row_id of SAMPLES, gen_id of GENERATIONS, or the file's name in a folder
    ("sample_id", pa.string()),  # sha256 hex of the encoded bytes
    ("features", pa.binary()),  # float32, L2-normalized
    many_producers=True,
)

CAPTIONS = _row_type(
    "captions",
    ("caption_id",),
    ("caption_id", pa.string()),  # "<row_id>/<captioner>/<prompt>"; made from another caption: "<its id>/<step>"
    ("row_id", pa.string()),
    ("sample_id", pa.string()),
    ("text", pa.string()),  # NFKC; the last attempt if rejected; null in an error row
    ("language", pa.string()),  # en, ja …
    ("captioner", pa.string()),  # name in the configuration
    ("level", pa.string()),  # generalization: general | five_words; null = not generalized
    ("source_caption_id", pa.string()),  # the caption it was translated or generalized from
    ("source_text", pa.string()),
    ("model", pa.string()),  # as configured
    ("revision", pa.string()),  # content hash of the model folder, or the revision that was configured
    ("adapter", pa.string()),  # LoRA adapter that was used; null = none
    ("prompt_name", pa.string()),  # as in caption_id, or the spare prompt that was asked instead
    ("prompt_hash", pa.string()),  # 12 hex digits of prompt, template and system message
    ("sampling", pa.string()),  # JSON of the sampling that gave this text
    ("seed", pa.int64()),
    ("attempts", pa.int32()),  # times the model was asked; more than 1 = a check has failed
    ("finish_reason", pa.string()),
    ("prompt_tokens", pa.int64()),  # of all attempts
    ("completion_tokens", pa.int64()),
    ("gs", pa.float32()),  # generality score, English only
    ("source_gs", pa.float32()),
    ("similarity", pa.float32()),  # cosine to the source caption, if it was measured
    many_producers=True,
    meters=("prompt_tokens", "completion_tokens"),
)

LATENTS = _row_type(
    "latents",
    ("row_id",),
    ("row_id", pa.string()),
    ("sample_id", pa.string()),
    ("latents", pa.binary()),  # float16, scaled by the VAE's scaling_factor
    ("latents_shape", pa.list_(pa.int32())),  # [C, H, W]
)

TEXT_STATES = _row_type(
    "text_states",
    ("caption_id",),
    ("caption_id", pa.string()),  # as in CAPTIONS; the sample's own caption: "<row_id>/original"
    ("row_id", pa.string()),
    ("caption", pa.string()),
    ("n_tokens", pa.int32()),  # with special tokens, before padding and truncation
    ("text_states", pa.binary()),  # hidden states, with padding only if the family attends to it
    ("text_states_shape", pa.list_(pa.int32())),  # [T, D]
    ("text_states_dtype", pa.string()),  # float16 | bfloat16 | float32
)

TRAINING_SET = _row_type(
    "training_set",
    ("row_id", "copy"),
    ("row_id", pa.string()),
    ("copy", pa.int32()),  # 0; 1, 2 … for the planted or kept duplicates of a cluster
    ("sample_id", pa.string()),
    ("captions", pa.list_(pa.string())),  # one, or several, of which each training step draws one
    ("caption_ids", pa.list_(pa.string())),
    ("n_tokens", pa.list_(pa.int32())),
    ("license", pa.string()),
    ("url", pa.string()),
    ("bucket", pa.string()),  # "<height>x<width>" of the latents; a part holds one bucket
    ("latents", pa.binary()),  # float16
    ("latents_shape", pa.list_(pa.int32())),
    ("text_states", pa.binary()),  # of all captions, concatenated; read by `text_states_of`
    ("text_states_shapes", pa.list_(pa.list_(pa.int32()))),  # [T, D] of each caption
    ("text_states_dtype", pa.string()),
)

GENERATIONS = _row_type(
    "generations",
    ("gen_id",),
    ("gen_id", pa.string()),  # "<prompt_id>-<index>"
    ("prompt_id", pa.string()),
    ("index", pa.int32()),  # 0 … num_images_per_prompt - 1
    ("prompt", pa.string()),
    ("seed", pa.int64()),  # the run's seed; the image's noise comes from (seed, prompt_id, index)
    ("guidance_scale", pa.float32()),
    ("num_inference_steps", pa.int32()),
    ("model_hash", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("image", pa.binary()),  # PNG
)

MATCHES = _row_type(
    "matches",
    ("generated", "rank"),
    ("generated", pa.string()),  # gen_id, or the file's name
    ("generated_sample_id", pa.string()),  # sha256 hex of its encoded bytes
    ("rank", pa.int32()),  # 0 = nearest
    ("training", pa.string()),  # row_id, or the file's name
    ("training_sample_id", pa.string()),
    ("similarity", pa.float32()),
    ("prompt", pa.string()),
    ("caption", pa.string()),
    ("license", pa.string()),
    ("url", pa.string()),
)

ROW_TYPES = {
    t.name: t
    for t in (SAMPLES, FEATURES, DUPLICATES, CAPTIONS, LATENTS, TEXT_STATES, TRAINING_SET, GENERATIONS, MATCHES)
}


ITEM_SIZES: dict[StatesDtype, int] = {"float16": 2, "bfloat16": 2, "float32": 4}
LARGEST: dict[StatesDtype, float] = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028235e38}


def array_to_bytes(array: np.ndarray, dtype: StatesDtype = "float16") -> tuple[bytes, list[int]]:
    """A numeric array as (little-endian bytes of `dtype`, shape)."""
    if dtype == "bfloat16":
        # bfloat16 is the upper half of a float32, rounded to nearest, ties to even; NumPy has no such type.
        bits = np.ascontiguousarray(array, dtype="<f4").view("<u4").astype(np.uint64)
        array, stored = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, "<u2"
    else:
        stored = {"float16": "<f2", "float32": "<f4"}[dtype]
    return np.ascontiguousarray(array, dtype=stored).tobytes(), list(array.shape)


def bytes_to_array(data: bytes, shape: Sequence[int], dtype: StatesDtype = "float16") -> np.ndarray:
    """The inverse of `array_to_bytes`: a read-only view as float16 or float32; bfloat16 as float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(data, dtype={"float16": "<f2", "float32": "<f4"}[dtype]).reshape(shape)


def fits(array: np.ndarray, dtype: StatesDtype = "float16") -> bool:
    """Whether all values of an array are finite and stay finite when stored as `dtype`."""
    return bool(np.isfinite(array).all()) and float(np.abs(array).max(initial=0.0)) <= LARGEST[dtype]


def text_states_of(row: Mapping[str, Any]) -> list[np.ndarray]:
    """The text states [T, D] of each caption of a TRAINING_SET row; float16 or float32."""
    dtype, start, found = row["text_states_dtype"], 0, []
    for shape in row["text_states_shapes"]:
        stop = start + ITEM_SIZES[dtype] * math.prod(shape)
        found.append(bytes_to_array(row["text_states"][start:stop], shape, dtype))
        start = stop
    return found
