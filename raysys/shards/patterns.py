"""Paths and URLs with wildcards (`data/*.tar`, `**/*.parquet`) and braces (`{00000..00099}.tar`, `{train,val}`)."""

from __future__ import annotations

import glob
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from braceexpand import UnbalancedBracesError, braceexpand

from raysys.errors import InputError
from raysys.shards.files import is_url, join

_WILDCARD = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")
_THREADS = 8


def is_pattern(path: str) -> bool:
    return bool(_WILDCARD.search(path) or _BRACES.search(path))


def split(pattern: str) -> tuple[str, str]:
    """(folder, rest): the components before the first one with a wildcard or braces, and the others."""
    parts = pattern.split("/")
    n_fixed = next(i for i in range(1, len(parts) + 1) if is_pattern("/".join(parts[:i]))) - 1
    return "/".join(parts[:n_fixed]) or "/", "/".join(parts[n_fixed:])


def matches(folder: str, rest: str) -> dict[str, bool]:
    """{path relative to `folder`: whether it is a folder} of everything that matches, sorted.

    Raises InputError if a wildcard matches nothing, or a path that braces spell out does not exist.
    """
    pattern = join(folder, rest)
    try:
        spelled = list(dict.fromkeys(braceexpand(rest, escape=False))) if _BRACES.search(rest) else [rest]
    except UnbalancedBracesError:
        raise InputError(f"input {pattern}: its braces are not balanced", "close every {") from None
    place = _Place(folder)
    found: dict[str, bool] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        looked_up = dict(zip(spelled, pool.map(place.look_up, spelled), strict=True))
    for hits in looked_up.values():
        found |= hits
    if missing := [path for path, hits in looked_up.items() if not hits]:
        what = f"nothing matches {pattern}" if len(spelled) == 1 else f"{missing[0]} does not exist"
        more = f" ({len(missing)} of the {len(spelled)} paths of {pattern})" if len(spelled) > 1 else ""
        raise InputError(f"input: {what}{more}", f"look into {folder}, and correct the pattern")
    return dict(sorted(found.items()))


class _Place:
    """Looks up paths below one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._fs: Any = None
        if is_url(folder):
            self._fs, self._inner = fsspec.core.url_to_fs(folder)

    def look_up(self, path: str) -> dict[str, bool]:
        """{path: whether it is a folder} of a path or a path with wildcards; {} if there is none."""
        if self._fs is None:
            hits = glob.glob(path, root_dir=self._folder, recursive=True) if _WILDCARD.search(path) else [path]
            full = {hit: os.path.join(self._folder, hit) for hit in hits}
            return {hit.rstrip("/"): os.path.isdir(place) for hit, place in full.items() if os.path.exists(place)}
        inner = f"{self._inner.rstrip('/')}/{path}"
        if _WILDCARD.search(path):
            infos = self._fs.glob(inner, detail=True).values()
        else:
            try:
                infos = [self._fs.info(inner)]
            except FileNotFoundError:
                return {}
        start = len(self._fs._strip_protocol(self._inner).rstrip("/")) + 1
        return {info["name"].rstrip("/")[start:]: info["type"] == "directory" for info in infos}
