"""The typed rows: one Arrow schema per table, the contract between stages. Read this first.

    shards → SAMPLES → DESCRIPTORS → DUPLICATES ┐
                ├────→ CAPTIONS (captioned, translated, generalized) ┐
                └────→ LATENTS, TEXT_STATES ─────────────────────────┴→ TRAINING_SET → (model) → GENERATIONS → MATCHES

Two ids, on purpose: `row_id` (shard + key inside it) names an input row; `sample_id` (sha256 of the original image
bytes) names an image. Every table ends with the four fate columns of `raysys.outcomes`.
Arrays travel as little-endian bytes with a shape column: `array_to_bytes` / `bytes_to_array`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

FATE = [
    pa.field("outcome", pa.string(), nullable=False),
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
]


@dataclass(frozen=True)
class RowType:
    """A table's name, schema (fate columns last) and key: the columns whose values are unique in the table.

    many_producers: several producers (captioners) write into one table, each under its own name.
    meters: columns that are summed while a run goes on and shown per second.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    many_producers: bool = False
    meters: tuple[str, ...] = ()

    def table(self, rows: Sequence[dict]) -> pa.Table:
        """Rows (dicts; missing columns become null) as an Arrow table of exactly this schema.

        Raises ValueError on a column that the schema does not have: a typo must not vanish.
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
    ("sample_id", pa.string()),  # sha256 hex of the original image bytes; null when there were none
    ("source_key", pa.string()),  # the key inside the shard, as its author wrote it
    ("shard", pa.string()),  # absolute path or URL of the tar, Parquet file or image file
    ("member", pa.string()),  # tar member, or image file relative to the folder; null in Parquet
    ("offset", pa.int64()),  # first byte of the image in `shard`; for Parquet the row index in the file
    ("length", pa.int64()),  # bytes of the image
    ("image", pa.binary()),  # the original bytes, only when materialised
    ("format", pa.string()),  # JPEG, PNG, WEBP …
    ("width", pa.int32()),  # after EXIF orientation
    ("height", pa.int32()),
    ("caption", pa.string()),
    ("url", pa.string()),
    ("licence", pa.string()),  # normalised id (shards/licences.py) or "unknown"
    ("licence_evidence", pa.string()),  # "<field>=<value>" as found in the source
    ("metadata", pa.string()),  # the source's own JSON, unchanged
)

DUPLICATES = _row_type(
    "duplicates",
    ("row_id",),
    ("row_id", pa.string()),
    ("sample_id", pa.string()),
    ("cluster_id", pa.string()),  # row_id of the first member in reading order
    ("cluster_size", pa.int32()),
    ("representative", pa.string()),  # row_id of the member that stays
    ("kind", pa.string()),  # unique | exact | near
    ("similarity", pa.float32()),  # cosine to the representative
    ("licence", pa.string()),  # the strictest licence in the cluster
    ("sources", pa.list_(pa.struct([("row_id", pa.string()), ("url", pa.string()), ("licence", pa.string())]))),
)

DESCRIPTORS = _row_type(
    "descriptors",
    ("row_id",),
    ("row_id", pa.string()),
    ("sample_id", pa.string()),
    ("descriptor", pa.binary()),  # float32, L2-normalised
)

CAPTIONS = _row_type(
    "captions",
    ("caption_id",),
    ("caption_id", pa.string()),  # "<row_id>/<captioner>/<prompt>"; made from another caption: "<its id>/<step>"
    ("row_id", pa.string()),
    ("sample_id", pa.string()),
    ("text", pa.string()),  # NFKC; of a rejected caption the last try, of an error null
    ("language", pa.string()),  # en, ja …
    ("captioner", pa.string()),  # name in the configuration
    ("level", pa.string()),  # generalization: general | five_words; null = not generalized
    ("source_caption_id", pa.string()),  # the caption it was translated or generalized from
    ("source_text", pa.string()),
    ("model", pa.string()),  # as configured
    ("revision", pa.string()),  # content hash of the model folder, or the revision that was configured
    ("adapter", pa.string()),  # LoRA adapter that answered; null = the model alone
    ("prompt_name", pa.string()),  # as in caption_id, or the spare prompt that was asked in its place
    ("prompt_hash", pa.string()),  # 12 hex digits of prompt, template and system message
    ("sampling", pa.string()),  # JSON of the sampling that gave this text
    ("seed", pa.int64()),
    ("attempts", pa.int32()),  # times the model was asked; above 1 = a check failed before
    ("finish_reason", pa.string()),
    ("prompt_tokens", pa.int64()),  # of all attempts
    ("completion_tokens", pa.int64()),
    ("gs", pa.float32()),  # generality score, English only
    ("source_gs", pa.float32()),
    ("similarity", pa.float32()),  # cosine to the source caption, where it was measured
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
    ("row_id",),
    ("row_id", pa.string()),
    ("caption", pa.string()),
    ("n_tokens", pa.int32()),  # before padding, special tokens included
    ("prompt_embeds", pa.binary()),  # float16 hidden states
    ("prompt_embeds_shape", pa.list_(pa.int32())),  # [T, D]
)

TRAINING_SET = _row_type(
    "training_set",
    ("row_id", "copy"),
    ("row_id", pa.string()),
    ("copy", pa.int32()),  # 0; 1, 2 … for the planted or kept duplicates of a cluster
    ("sample_id", pa.string()),
    ("caption", pa.string()),
    ("licence", pa.string()),
    ("url", pa.string()),
    ("bucket", pa.string()),  # "<height>x<width>" of the latents; a part holds one bucket
    ("latents", pa.binary()),
    ("latents_shape", pa.list_(pa.int32())),
    ("prompt_embeds", pa.binary()),
    ("prompt_embeds_shape", pa.list_(pa.int32())),
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
    ("rank", pa.int32()),  # 0 = nearest
    ("training", pa.string()),  # row_id, or the file's name
    ("similarity", pa.float32()),
    ("prompt", pa.string()),
    ("caption", pa.string()),
    ("licence", pa.string()),
    ("url", pa.string()),
)

ROW_TYPES = {
    t.name: t
    for t in (SAMPLES, DESCRIPTORS, DUPLICATES, CAPTIONS, LATENTS, TEXT_STATES, TRAINING_SET, GENERATIONS, MATCHES)
}


def array_to_bytes(array: np.ndarray, dtype: str = "<f2") -> tuple[bytes, list[int]]:
    """A numeric array as (little-endian bytes, shape)."""
    return np.ascontiguousarray(array, dtype=dtype).tobytes(), list(array.shape)


def bytes_to_array(data: bytes, shape: Sequence[int], dtype: str = "<f2") -> np.ndarray:
    """The inverse of `array_to_bytes`; read-only view."""
    return np.frombuffer(data, dtype=dtype).reshape(shape)
