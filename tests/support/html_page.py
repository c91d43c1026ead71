"""An HTML page as tests ask about it: its tags, headings and table cells; unbalanced tags fail at once."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The parts of a page that tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.stack, self.headings, self.cells = html, [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in {"h1", "h2", "h3"}:
            self.headings.append((self.stack[-1], data))
        if {"td", "th"} & set(self.stack):
            self.cells[-1] += data

    def all(self, tag: str, css_class: str | None = None) -> list[dict[str, str | None]]:
        found = [attrs for name, attrs in self.tags if name == tag]
        return [a for a in found if css_class is None or css_class in (a.get("class") or "").split()]

    def row(self, name: str, nth: int = 0) -> list[str]:
        """The cells that follow the `nth` row header `name`."""
        cells = [c.strip() for c in self.cells]
        start = [i for i, cell in enumerate(cells) if cell == name][nth]
        return cells[start + 1 : start + 6]
