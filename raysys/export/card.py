"""The dataset card of an export: README.md with the YAML header that Hugging Face `datasets` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from raysys.export.files import SCHEMA, Layout

_HUB_LICENSES = frozenset(
    {
        *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
        *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    }
)
"""Licenses that the header may name; all others are `other`, because the Hub does not know them."""

_COLUMNS = {
    "image": "the original bytes of the image file, never re-encoded",
    "caption": "the main caption",
    "caption_id": "id of the main caption",
    "captions": "all captions, each with captioner, model, revision, prompt, language, level, the caption it was made "
    "from (`source_caption_id`) and generality score (`gs`)",
    "original_caption": "the caption of the source",
    "sample_id": "SHA-256 of the image bytes",
    "row_id": "input file and key inside it",
    "url": "URL of the image",
    "license": "license of the image; if it has copies, the strictest license of them",
    "license_evidence": "the statement from which the license was determined",
    "sources": "all rows with copies of the image, with their URLs and licenses",
    "width": "pixels, after EXIF rotation",
    "height": "pixels, after EXIF rotation",
    "metadata": "the unchanged JSON of the source, with credit lines",
}


def card(contents: Mapping[str, Any], rows: Mapping[str, Any], layout: Layout) -> str:
    """README.md of an export. contents: `Contents.as_dict()`; rows: `Counts.as_dict()` of the processed samples."""
    header = yaml.safe_dump(_header(contents, layout), sort_keys=False, allow_unicode=True)
    left_out = rows["rejected"] | rows["error"]
    sections = [
        f"---\n{header}---\n\n# Captioned images",
        f"{contents['samples']:,} images with {contents['captions']:,} captions, in {len(contents['shards'])} files.",
        _HOW_TO_READ[layout],
        "## Licenses\n\n" + _table(("license", "images"), contents["licenses"].items()),
        "Each sample has its license, the statement from which it was determined, and its URL.",
        "## Captions\n\n" + _captioners(contents["captioners"]),
        "## Columns\n\n" + _table(("name", "meaning"), _COLUMNS.items()),
        *([f"## Left out\n\n{_table(('reason', 'samples'), sorted(left_out.items()))}"] if left_out else []),
    ]
    return "\n\n".join(sections) + "\n"


_HOW_TO_READ: dict[Layout, str] = {
    "datasets": """```python
from datasets import load_dataset

samples = load_dataset("path/to/this/folder", split="train")
```""",
    "webdataset": """```python
import webdataset

samples = webdataset.WebDataset("00000.tar", shardshuffle=False).decode("pil")
```

The tars contain `<key>.<image format>`, `<key>.txt` (the main caption) and `<key>.json` (the other columns).
`datasets.load_dataset` can read such tars only if all images have the same format.""",
}


def _captioners(captioners: Sequence[Mapping[str, Any]]) -> str:
    names = ("captioner", "model", "revision", "language", "level", "captions")
    return _table(names, ([c[name] for name in names] for c in captioners))


def _header(contents: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    licenses = sorted({name.lower() if name.lower() in _HUB_LICENSES else "other" for name in contents["licenses"]})
    languages = sorted({c["language"] for c in contents["captioners"] if c["language"]})
    header: dict[str, Any] = {"license": licenses, "language": languages, "task_categories": ["text-to-image"]}
    pattern = "*.tar"
    if layout == "datasets":
        pattern = "data/train-*"
        raw = sum(shard["raw_bytes"] for shard in contents["shards"])
        header["dataset_info"] = {
            "features": features(SCHEMA),
            "splits": [{"name": "train", "num_bytes": raw, "num_examples": contents["samples"]}],
            "download_size": sum(shard["bytes"] for shard in contents["shards"]),
            "dataset_size": raw,
        }
    header["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}]
    return header


def features(fields: pa.Schema | pa.StructType) -> list[dict[str, Any]]:
    """Convert an Arrow schema to the notation of the YAML header of `datasets`."""
    return [{"name": f.name, **({"dtype": "image"} if f.name == "image" else _feature(f.type))} for f in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"list": features(kind.value_type)}
    return {"dtype": "float32" if kind == pa.float32() else str(kind)}


def _table(head: Sequence[str], rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")
