"""WordNet without a table: a reader that walks the files for every word, the reference of tests and benchmarks.

It knows nothing of `raysys.captions`: formats from wndb(5WN) and morphy(7WN).
"""

from __future__ import annotations

from pathlib import Path

WORDNET = Path("/usr/share/wordnet")
"""Where Debian's `wordnet-base` puts the files; the full comparisons run where it is installed."""

PLURALS = "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y"


class ParsedWordNet:
    """Looks a noun up by walking over synsets in memory; no answer is kept."""

    def __init__(self, folder: Path) -> None:
        self.index = {}
        for line in (folder / "index.noun").read_text(encoding="latin-1").splitlines():
            if not line.startswith(" "):
                fields = line.split()
                self.index[fields[0]] = fields[-int(fields[2]) :]
        self.exceptions = {}
        for line in (folder / "noun.exc").read_text().splitlines():
            form, *bases = line.split()
            self.exceptions[form] = bases
        self._rules = [rule.split(":") for rule in PLURALS.split()]
        self._pointers_of = self._parse(folder / "data.noun")

    def noun(self, word: str) -> tuple[int, int] | None:
        """(direct hyponyms, minimum depth) of the word's first noun synset; None when there is none."""
        forms = self._forms(word.lower())
        if not forms:
            return None
        offset = self.index[forms[0]][0]
        return len(self._pointers(offset, "~")), self._min_depth(offset)

    def _parse(self, path: Path) -> dict[str, list[tuple[str, str]]]:
        lines = path.read_text(encoding="latin-1").splitlines()
        return {line[:8]: pointers_in(line) for line in lines if not line.startswith(" ")}

    def _forms(self, word: str) -> list[str]:
        if word in self.exceptions:
            return [f for f in [word, *self.exceptions[word]] if f in self.index]
        forms = self._shorter([word])
        found = [f for f in [word, *forms] if f in self.index]
        while forms and not found:
            forms = self._shorter(forms)
            found = [f for f in forms if f in self.index]
        return found

    def _shorter(self, forms: list[str]) -> list[str]:
        return [f[: len(f) - len(old)] + new for f in forms for old, new in self._rules if f.endswith(old)]

    def _min_depth(self, offset: str) -> int:
        up = self._pointers(offset, "@", "@i")
        return 1 + min(self._min_depth(o) for o in up) if up else 0

    def _pointers(self, offset: str, *symbols: str) -> list[str]:
        """Targets of the synset's pointers of these kinds."""
        return [target for symbol, target in self._pointers_of[offset] if symbol in symbols]


class WordNetFiles(ParsedWordNet):
    """The same, but synsets are read from data.noun each time."""

    def _parse(self, path: Path) -> dict[str, list[tuple[str, str]]]:
        self._data = path.open("rb")
        return {}

    def _pointers(self, offset: str, *symbols: str) -> list[str]:
        self._data.seek(int(offset))
        line = self._data.readline().decode("latin-1")
        return [target for symbol, target in pointers_in(line) if symbol in symbols]


def pointers_in(line: str) -> list[tuple[str, str]]:
    """(symbol, target) of every pointer of a line of data.noun."""
    fields = line.split(" | ")[0].split()
    start = 5 + 2 * int(fields[3], 16)
    return [(fields[i], fields[i + 1]) for i in range(start, len(fields), 4)]
