"""Sections of a page of results that a script writes, between hand-written text that it leaves alone.

A section is the text between a line `<!-- NAME -->` and a line `<!-- end -->`. Every comment on a line of its own is
taken for such a marker.
"""

import re

_MARKER = re.compile(r"<!-- (.+) -->")
_HEADING = re.compile(r"(#+) ")
_END = "end"


def replace_section(text: str, name: str, body: str, heading: str) -> str:
    """Return the text with this body as the section of that name; the text outside the section stays as it was.

    Args:
        heading: a whole line, such as `### Tables`. A new section is added at the end of this heading's part, before
            the next heading of its rank or above.

    Raises:
        ValueError: markers do not pair, a name occurs twice, or the section is new and the heading is missing.
    """
    lines = text.splitlines()
    section = [f"<!-- {name} -->", "", *body.strip().splitlines(), "", f"<!-- {_END} -->"]
    spans = _sections(lines)
    if name in spans:
        start, end = spans[name]
        return "\n".join([*lines[:start], *section, *lines[end + 1 :], ""])
    before, after = _split_behind(lines, heading)
    return "\n".join([*before, "", *section, "", *after]).rstrip("\n") + "\n"


def _sections(lines: list[str]) -> dict[str, tuple[int, int]]:
    """Return the line numbers of each section's two markers, by the section's name."""
    found: dict[str, tuple[int, int]] = {}
    opened: tuple[str, int] | None = None
    for number, line in enumerate(lines):
        marker = _MARKER.fullmatch(line)
        if marker is None:
            continue
        name = marker[1]
        # Close a section.
        if name == _END:
            if opened is None:
                raise ValueError(f"line {number + 1}: {line} ends no section; remove it or add the marker that begins")
            found[opened[0]] = (opened[1], number)
            opened = None
        # Open a section.
        elif opened is not None:
            raise ValueError(f"<!-- {opened[0]} --> has no end before {line}; add <!-- {_END} --> between them")
        elif name in found:
            raise ValueError(f"{line} is there twice; remove one of the sections")
        else:
            opened = (name, number)
    if opened is not None:
        raise ValueError(f"<!-- {opened[0]} --> has no end; add <!-- {_END} --> after its section")
    return found


def _split_behind(lines: list[str], heading: str) -> tuple[list[str], list[str]]:
    """Return (the lines up to the end of a heading's part, without blank ones at the end; the lines after them)."""
    if heading not in lines:
        raise ValueError(f"there is no heading {heading!r} to add the section under; add it")
    start = lines.index(heading)
    end = next((n for n in range(start + 1, len(lines)) if 0 < _rank(lines[n]) <= _rank(heading)), len(lines))
    before = lines[:end]
    while not before[-1].strip():
        before.pop()
    return before, lines[end:]


def _rank(line: str) -> int:
    """Return the heading's rank, 1 for the highest; 0 for a line that is no heading."""
    match = _HEADING.match(line)
    return len(match[1]) if match else 0
