"""A measurement on disk: replication.json for people and programs, similarities.npz for the plots of a report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from raysys.errors import InputError
from raysys.replication.result import FIGURES, Background, LeftOut, ReplicationResult, Unreadable
from raysys.rows import MATCHES
from raysys.similarity.thresholds import Threshold, Thresholds
from raysys.tables import InputPart, Store, commit_part, open_output

RESULT, SIMILARITIES = "replication.json", "similarities.npz"


LEVELS = ("held_out", "own_held_out")


def save_result(store: Store, result: ReplicationResult) -> None:
    """Write both files. The JSON, whose presence readers check, is written last."""
    arrays = {"generated": result.similarities, "ids": np.array(result.generated_ids, dtype=np.str_)}
    if result.background is not None:
        arrays["background"] = result.background.similarities
    for name in LEVELS:
        if (level := getattr(result, name)) is not None:
            arrays |= {name: level.similarities, f"{name}_ids": np.array(level.generated_ids, dtype=np.str_)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    store.write(SIMILARITIES, buffer.getvalue())
    store.write_json(RESULT, result.to_dict())


def write_result(folder: str, result: ReplicationResult) -> None:
    """Write the measurement and its `matches`, a table of MATCHES rows, to an empty folder."""
    rows = MATCHES.table(result.neighbors)
    part = InputPart("matches", folder, len(rows), "")
    output = open_output(f"{folder}/matches", MATCHES, "replicate", {"R": result.R}, [part], max(len(rows), 1))
    commit_part(output.folder, output.chunks[0].file, rows)
    save_result(Store(folder), result)


def load_result(folder: str) -> ReplicationResult:
    """The measurement in `folder`, as returned by `score`, but with only the nearest image in `neighbors`.

    Raises InputError if there is none.
    """
    store = Store(folder)
    data = store.read_json(RESULT)
    if data is None:
        raise InputError(f"{folder} has no {RESULT}", "run `raysys replicate` first")
    with np.load(io.BytesIO(store.read(SIMILARITIES)), allow_pickle=False) as arrays:
        more: dict[str, Any] = {
            name: None if data[name] is None else _result(data[name], arrays[name], arrays[f"{name}_ids"])
            for name in LEVELS
        }
        if data["background"] is not None:
            more["background"] = Background(similarities=arrays["background"], **data["background"])
        if (left_out := data["held_out_left_out"]) is not None:
            more["held_out_left_out"] = LeftOut(left_out["n_held_out"], left_out["threshold"], left_out["images"])
        return _result(data, arrays["generated"], arrays["ids"], **more)


def _result(data: dict[str, Any], similarities: np.ndarray, ids: np.ndarray, **more: Any) -> ReplicationResult:
    stated = {name: None if t is None else Threshold(**t) for name, t in data["thresholds"].items()}
    figures = {name: data[name] for name in FIGURES}
    figures["R_ci"] = None if data["R_ci"] is None else tuple(data["R_ci"])
    return ReplicationResult(
        **figures,
        thresholds=Thresholds(**stated),
        similarities=similarities,
        generated_ids=tuple(ids.tolist()),
        neighbors=[{**match, "rank": 0} for match in data["matches"]],
        R_background_percentile=data["R_background_percentile"],
        unreadable=[Unreadable(**u) for u in data["unreadable"]],
        seconds=data["seconds"],
        **more,
    )
