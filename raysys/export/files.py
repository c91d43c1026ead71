"""The captioned set as files that other tools open: WebDataset tars, or a folder for Hugging Face `datasets`.

    webdataset   00000.tar …                          <key>.jpg (original bytes), <key>.txt (main caption), <key>.json
    datasets     data/train-00000-of-00012.parquet …  one row per sample, the image as struct<bytes, path>

Both contain the same fields, README.md (a dataset card) and manifest.json, which is written last. Images are never
re-encoded. Keys, times and owners in the tars are fixed, so the same rows give the same bytes. Only one sample or one
row group of a Parquet file is in memory at a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from raysys.config import Config
from raysys.outcomes import KEPT
from raysys.tables.folder_output import naming_the_disk

Layout = Literal["webdataset", "datasets"]
Level = Literal["none", "general", "five_words"]

README, MANIFEST = "README.md", "manifest.json"
# fmt: off
EXTENSIONS = {
    "JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif",
    "AVIF": "avif", "HEIF": "heic",
}
# fmt: on
"""SAMPLES.format → file extension."""

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 1000, 32 << 20
"""Limits of a row group, which readers and this writer hold in memory as a whole."""

_TAR_BLOCK, _TAR_RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE

_CAPTION = pa.struct(
    [(name, pa.string()) for name in ("caption_id", "text", "language", "level", "captioner", "model", "revision")]
    + [(name, pa.string()) for name in ("prompt_name", "prompt_hash", "source_caption_id")]
    + [("gs", pa.float32())]
)
CAPTION_FIELDS = tuple(f.name for f in _CAPTION)
"""The exported columns of a CAPTIONS row."""

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.string()),  # the text of the main caption
        ("caption_id", pa.string()),
        ("captions", pa.list_(_CAPTION)),
        ("original_caption", pa.string()),  # the caption of the source
        ("sample_id", pa.string()),  # sha256 of the image bytes
        ("row_id", pa.string()),
        ("url", pa.string()),
        ("license", pa.string()),
        ("license_evidence", pa.string()),
        # All rows with copies of the image; empty without a duplicates table.
        ("sources", pa.list_(pa.struct([("row_id", pa.string()), ("url", pa.string()), ("license", pa.string())]))),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("metadata", pa.string()),  # the JSON of the source, with the credit lines that a license requires
    ],
    # `datasets` derives all other features from the Arrow types, but would not read the struct as an image.
    metadata={"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})},
)


class CaptionChoice(Config):
    """A kind of caption. Fields that are not set match all captions."""

    captioner: str | None = Field(None, description="name of the captioner")
    level: Level | None = Field(None, description="generalization level; none = not generalized")
    language: str | None = Field(None, description="en, ja …")

    def matches(self, caption: Mapping[str, Any]) -> bool:
        return (
            self.captioner in (None, caption["captioner"])
            and self.level in (None, caption["level"] or "none")
            and self.language in (None, caption["language"])
        )


class CaptionSelection(Config):
    """Which captions are exported, and which of them is the main one."""

    captioners: tuple[str, ...] | None = Field(
        None, min_length=1, description="export only captions of these captioners; null = all"
    )
    levels: tuple[Level, ...] | None = Field(
        None, min_length=1, description="export only these generalization levels (none = not generalized); null = all"
    )
    languages: tuple[str, ...] | None = Field(
        None, min_length=1, description="export only captions in these languages; null = all"
    )
    min_captions: int = Field(1, ge=1, description="samples with fewer selected captions are not exported")
    main: tuple[CaptionChoice, ...] = Field(
        (),
        description="kinds of captions to use as the main caption, the best first; without a match, the caption of "
        "the first table with the smallest caption_id",
    )

    def captions_of(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The kept and selected captions of CAPTIONS rows, with the fields CAPTION_FIELDS, in the given order."""
        return [{name: row[name] for name in CAPTION_FIELDS} for row in rows if self._wants(row)]

    def main_of(self, captions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The main caption of `captions`, which must not be empty."""
        for choice in self.main:
            for caption in captions:
                if choice.matches(caption):
                    return caption
        return captions[0]

    def _wants(self, row: Mapping[str, Any]) -> bool:
        return (
            row["outcome"] == KEPT
            and (self.captioners is None or row["captioner"] in self.captioners)
            and (self.levels is None or (row["level"] or "none") in self.levels)
            and (self.languages is None or row["language"] in self.languages)
        )


@dataclass
class Contents:
    """The contents of an export, counted while it is written."""

    samples: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    licenses: Counter[str] = field(default_factory=Counter)
    captions: Counter[tuple[str | None, ...]] = field(default_factory=Counter)
    """Number of captions by captioner, model, revision, language and level."""

    def add(self, row: Mapping[str, Any]) -> None:
        self.samples += 1
        self.licenses[row["license"]] += 1
        for caption in row["captions"]:
            self.captions[tuple(caption[name] for name in _COUNTED)] += 1

    def as_dict(self) -> dict[str, Any]:
        captioners = sorted(self.captions.items(), key=lambda item: tuple(v or "" for v in item[0]))
        return {
            "samples": self.samples,
            "captions": self.captions.total(),
            "licenses": dict(sorted(self.licenses.items())),
            "captioners": [dict(zip(_COUNTED, key, strict=True)) | {"captions": n} for key, n in captioners],
            "shards": self.shards,
        }


_COUNTED = ("captioner", "model", "revision", "language", "level")


def write_shards(
    rows: Iterable[dict[str, Any]],
    folder: Path,
    layout: Layout,
    *,
    rows_per_shard: int = 10_000,
    max_shard_bytes: int = 500_000_000,
) -> Contents:
    """Write `rows` (fields of SCHEMA; `image.bytes` as read, `image.path` = "<key>.<extension>") in order.

    A shard contains at most `rows_per_shard` samples and at most `max_shard_bytes` (tars: size of the finished file;
    Parquet: before compression), except that a larger sample gets its own shard. Raises InputError if the disk is full.
    """
    kind = _TarShard if layout == "webdataset" else _ParquetShard
    contents, shard = Contents(), None
    try:
        for row in rows:
            with naming_the_disk(folder):
                item, n_bytes = kind.encode(row)
                if shard is not None and (shard.rows >= rows_per_shard or shard.size_with(n_bytes) > max_shard_bytes):
                    contents.shards.append(shard.close())
                    shard = None
                shard = shard or kind(folder, len(contents.shards))
                shard.add(item, n_bytes)
            contents.add(row)
        with naming_the_disk(folder):
            if shard is not None:
                contents.shards.append(shard.close())
            return kind.finish(folder, contents)
    except BaseException:
        if shard is not None:
            shard.abandon()
        raise


def description(row: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON next to an image: all fields except the image and the text of the main caption."""
    fields = {name: row[name] for name in SCHEMA.names if name not in ("image", "caption")}
    # The shortest decimal number that gives this float32: 5.2 instead of 5.199999809265137.
    captions = [c | {"gs": None if c["gs"] is None else float(str(np.float32(c["gs"])))} for c in row["captions"]]
    return fields | {"captions": captions}


def _json_bytes(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


class _TarShard:
    """A WebDataset tar."""

    def __init__(self, folder: Path, number: int) -> None:
        self._path = folder / f"{number:05d}.tar"
        self._file = open(self._path, "xb")  # noqa: SIM115 - lives as long as the shard
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self.rows, self._bytes = 0, 0

    @staticmethod
    def encode(row: Mapping[str, Any]) -> tuple[list[tuple[str, bytes]], int]:
        """The members of a sample, and their size in the tar in bytes."""
        key = row["image"]["path"].partition(".")[0]
        members = [
            (row["image"]["path"], row["image"]["bytes"]),
            (f"{key}.txt", row["caption"].encode()),
            (f"{key}.json", _json_bytes(description(row))),
        ]
        return members, sum(_TAR_BLOCK + -(-len(data) // _TAR_BLOCK) * _TAR_BLOCK for _, data in members)

    def size_with(self, n_bytes: int) -> int:
        """The size of the finished file with `n_bytes` more, including two end blocks and padding to a whole record."""
        return -(-(self._bytes + n_bytes + 2 * _TAR_BLOCK) // _TAR_RECORD) * _TAR_RECORD

    def add(self, members: Sequence[tuple[str, bytes]], n_bytes: int) -> None:
        for name, data in members:
            info = tarfile.TarInfo(name)  # owner 0, time 0, mode 644: independent of the machine
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        self.rows, self._bytes = self.rows + 1, self._bytes + n_bytes

    def close(self) -> dict[str, Any]:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"name": self._path.name, "rows": self.rows, "bytes": self._path.stat().st_size}

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which is already being reported
            self._file.close()

    @staticmethod
    def finish(_folder: Path, contents: Contents) -> Contents:
        return contents


class _ParquetShard:
    """A Parquet file with the feature metadata of `datasets`."""

    def __init__(self, folder: Path, number: int) -> None:
        self._path = folder / "data" / f"train-{number:05d}.parquet"
        self._path.parent.mkdir(exist_ok=True)
        self._writer = pq.ParquetWriter(self._path, SCHEMA, compression="zstd")
        self._group: list[Mapping[str, Any]] = []
        self._group_bytes = 0
        self.rows, self._bytes = 0, 0

    @staticmethod
    def encode(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
        """The row, and its approximate size in bytes before compression."""
        return row, len(row["image"]["bytes"]) + len(row["caption"].encode()) + len(_json_bytes(description(row)))

    def size_with(self, n_bytes: int) -> int:
        return self._bytes + n_bytes

    def add(self, row: Mapping[str, Any], n_bytes: int) -> None:
        self._group.append(row)
        self.rows, self._bytes, self._group_bytes = self.rows + 1, self._bytes + n_bytes, self._group_bytes + n_bytes
        if len(self._group) >= ROW_GROUP_ROWS or self._group_bytes >= ROW_GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._group, SCHEMA))
        self._group, self._group_bytes = [], 0

    def close(self) -> dict[str, Any]:
        if self._group:
            self._write_group()
        self._writer.close()
        with open(self._path, "rb+") as file:
            os.fsync(file.fileno())
        name = f"{self._path.parent.name}/{self._path.name}"
        return {"name": name, "rows": self.rows, "bytes": self._path.stat().st_size, "raw_bytes": self._bytes}

    def abandon(self) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):  # a full disk, which is already being reported
            self._writer.close()

    @staticmethod
    def finish(folder: Path, contents: Contents) -> Contents:
        """Rename the files: their final names contain the number of files."""
        for shard in contents.shards:
            name = shard["name"].replace(".parquet", f"-of-{len(contents.shards):05d}.parquet")
            (folder / shard["name"]).rename(folder / name)
            shard["name"] = name
        return contents


def finish(folder: Path, readme: str, manifest: Mapping[str, Any]) -> None:
    """Write the last two files of an export: the dataset card, then the manifest."""
    text = json.dumps(dict(manifest), indent=1, ensure_ascii=False)
    with naming_the_disk(folder):
        for name, content in ((README, readme), (MANIFEST, text)):
            with open(folder / name, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
