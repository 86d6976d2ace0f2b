"""Reads a report's page as a browser would: its elements, its policy, and the data that its scripts see."""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """The content of a page.

    Attributes:
        elements: every start tag with its attributes, in order.
        scripts: text of every script element, with its type.
        unbalanced: end tags that close nothing, and elements that are never closed.
    """

    html: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[tuple[str | None, str]] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)

    @property
    def data(self) -> dict[str, Any]:
        """Return the data that the scripts parse."""
        ((_, text),) = [script for script in self.scripts if script[0] == "application/json"]
        return dict(json.loads(text))

    @property
    def policy(self) -> str:
        (meta,) = [a for tag, a in self.elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
        return meta["content"] or ""

    def outside_the_data(self) -> str:
        """The page without its data."""
        return re.sub(r'(<script type="application/json"[^>]*>).*?(</script>)', r"\1\2", self.html, flags=re.DOTALL)
