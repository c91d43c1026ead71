"""A measurement on disk: replication.json for people and programs, similarities.npz for the plots of a later report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from raysys.errors import InputError
from raysys.replication.features import Unreadable
from raysys.replication.score import Background, ReplicationResult
from raysys.tables import Store

RESULT, SIMILARITIES = "replication.json", "similarities.npz"


def save_result(store: Store, result: ReplicationResult) -> None:
    """Write both files; the JSON, which readers look for, comes last."""
    arrays = {"generated": result.similarities, "ids": np.array(result.generated_ids, dtype=np.str_)}
    if result.background is not None:
        arrays["background"] = result.background.similarities
    if result.held_out is not None:
        arrays |= {"held_out": result.held_out.similarities, "held_out_ids": np.array(result.held_out.generated_ids)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    store.write(SIMILARITIES, buffer.getvalue())
    store.write_json(RESULT, result.to_dict())


def load_result(folder: str) -> ReplicationResult:
    """The measurement in `folder`, as `score` returned it (`neighbours`: the nearest of each generated image only)."""
    store = Store(folder)
    data = store.read_json(RESULT)
    if data is None:
        raise InputError(f"{folder} holds no {RESULT}", "run `raysys replicate` first")
    with np.load(io.BytesIO(store.read(SIMILARITIES)), allow_pickle=False) as arrays:
        background = data["background"]
        if background is not None:
            background = Background(similarities=arrays["background"], **background)
        held_out = data["held_out"]
        if held_out is not None:
            held_out = _result(held_out, arrays["held_out"], arrays["held_out_ids"])
        return _result(data, arrays["generated"], arrays["ids"], background, held_out)


def _result(
    data: dict[str, Any],
    similarities: np.ndarray,
    ids: np.ndarray,
    background: Background | None = None,
    held_out: ReplicationResult | None = None,
) -> ReplicationResult:
    plain = ("R", "R_ci_reason", "mean", "percentiles", "fraction_above", "n_generated", "n_training", "descriptor")
    return ReplicationResult(
        **{name: data[name] for name in plain},
        R_ci=None if data["R_ci"] is None else tuple(data["R_ci"]),
        preset=data["preset"],
        weights_sha256=data["weights_sha256"],
        similarities=similarities,
        generated_ids=tuple(ids.tolist()),
        neighbours=[{**match, "rank": 0} for match in data["matches"]],
        background=background,
        held_out=held_out,
        R_background_percentile=data["R_background_percentile"],
        unreadable=[Unreadable(**u) for u in data["unreadable"]],
        seconds=data["seconds"],
    )
