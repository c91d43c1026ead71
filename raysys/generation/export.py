"""A table of GENERATIONS as a folder of PNG files with metadata.jsonl: diffusers' imagefolder."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from raysys.rows import GENERATIONS
from raysys.tables import open_table


def export_images(table: str, folder: Path) -> int:
    """Write every kept generation as `<gen_id>.png`, and metadata.jsonl. Returns the number of images.

    Can be repeated. Characters that file names cannot contain are percent-encoded, so that every id has its own file.
    PNG files of an earlier export that are not in this table are removed, so that they are not measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, names = [], set()
    for rows in open_table(table, GENERATIONS).rows():
        for row in rows.to_pylist():
            name = quote(row["gen_id"], safe=" ") + ".png"
            names.add(name)
            (folder / name).write_bytes(row.pop("image"))
            lines.append(json.dumps({"file_name": name, **row}, ensure_ascii=False))
    metadata = folder / "metadata.jsonl"
    earlier = metadata.read_text(encoding="utf-8").splitlines() if metadata.exists() else []
    for stale in {json.loads(line)["file_name"] for line in earlier} - names:
        (folder / stale).unlink(missing_ok=True)
    metadata.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)
