"""A JSON document that several processes change: every change is a new file, which exactly one of them creates."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from raysys.tables.store import Store


class History:
    """The versions of one document: `<name>.json` is the first, `<name>/2.json`, `<name>/3.json` … replace it.

    No version is ever changed or deleted, so a change that was computed from an outdated version finds its file taken
    and is computed again. Files on object stores cannot be locked, but they can be created conditionally.
    """

    def __init__(self, store: Store, file: str) -> None:
        """file: the name of the first version, such as "_plan.json"."""
        self._store, self._file, self._folder = store, file, file.removesuffix(".json")

    def read(self) -> Any:
        """The newest version; None if there is no document. Raises InputError if it is damaged."""
        return self._newest()[1]

    def update(self, change: Callable[[Any], Any]) -> Any:
        """Replace the newest version (None if there is none) by `change` of it, and return the result.

        `change` runs again whenever another process was faster. Nothing is written if it returns an equal document, or
        raises.
        """
        while True:
            number, document = self._newest()
            changed = change(document)
            if changed == document or self._store.create(self._name(number + 1), _encode(changed)):
                return changed

    def _newest(self) -> tuple[int, Any]:
        later = [int(name.removesuffix(".json")) for name in self._store.sub(self._folder).names(".json")]
        number = max(later, default=1)
        document = self._store.read_json(self._name(number))
        return (0 if document is None else number), document

    def _name(self, number: int) -> str:
        return self._file if number == 1 else f"{self._folder}/{number}.json"


def _encode(document: Any) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
