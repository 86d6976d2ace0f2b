"""Write docs/settings.md from the settings themselves: `PYTHONPATH=. python docs/make_settings.py`.

A setting is listed under the first table, in the graph's order, whose recipe names it; the others decide where data
come from, which models read them, or how runs are cut.
"""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from el_assets.tables.recipes import OPERATIONAL, RECIPES, ROLE_SETTINGS, SOURCE_SETTINGS
from el_resources.configuration.environment import variable_of
from el_resources.configuration.profiles import PROFILES
from el_resources.settings import Settings

PAGE = Path(__file__).parent / "settings.md"
HEAD = """# Settings

Made by `docs/make_settings.py` from the settings themselves. Each is a variable of the shell or of `.env` in
the working directory, a field of the launchpad, and, for the most common ones, a flag; [the guide](guide.md#settings)
says which wins. `[?]` marks what the paper does not state. A table is made again when a setting that it depends on
changes; `python -m el_assets settings` shows every value in force.
"""
SOURCES, MODELS, RUNS = "Sources and store", "Models", "Runs"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """Return the page's Markdown: a section a table, a row a setting."""
    sections: dict[str, list[str]] = {SOURCES: [], MODELS: [], **{f"`{name}`": [] for name in RECIPES}, RUNS: []}
    for name in Settings.model_fields:
        sections[_section(name)].append(_row(name))
    return HEAD + "".join(_written(title, rows) for title, rows in sections.items() if rows)


def _section(name: str) -> str:
    if name in {"profile", "store", "hub_endpoint", *(s for used in SOURCE_SETTINGS.values() for s in used[:2])}:
        return SOURCES
    if name in {*(s for used in ROLE_SETTINGS.values() for s in used), "device", "trust_remote_code"} - {"hmg_form"}:
        return MODELS
    tables = [table for table, recipe in RECIPES.items() if name in recipe.settings]
    return f"`{tables[0]}`" if tables and name not in OPERATIONAL else RUNS


def _written(title: str, rows: list[str]) -> str:
    return f"\n## {title}\n\n| variable | default | allowed | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    description, bounds = _without_bounds(str(field.description))
    paper = PROFILES["paper"].get(name, field.default)
    default = _shown(field.default) + (f"<br>paper: {_shown(paper)}" if paper != field.default else "")
    allowed = ", ".join(map(_shown, choices)) or bounds or _type(field.annotation)
    cells = [f"`{variable_of(name)}`", default, allowed, description]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _without_bounds(description: str) -> tuple[str, str]:
    """Return a description, and the bounds that el_resources.bounds wrote after it."""
    found = re.fullmatch(r"(.+?\.)(?: ((?:At|Above|Below|Length) [^.]*[\d,.]+)\.)?", description, re.DOTALL)
    assert found, description
    return found[1], found[2] or ""


def _type(annotation: Any) -> str:
    return {bool: "true, false", str: "text"}.get(annotation, "number")


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return f"`{text}`".replace("\n", "\\n") if text else "empty"


if __name__ == "__main__":
    main()
