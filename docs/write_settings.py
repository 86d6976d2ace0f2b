"""Write all that lists the settings, from the settings themselves: `make settings`.

- docs/settings.md: a setting is listed under the first table, in the graph's order, whose recipe names it; the others
  decide where data come from, which models read them, or how runs are cut.
- .env.example: every setting with its description and default.
- deploy/dagster.yaml: the variables that a run of the cluster gets from the daemon's environment.
"""

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from el_assets.catalogue import RECIPES, SETTINGS_WITHOUT_RECIPE
from el_assets.tables.description import ROLE_SETTINGS
from el_assets.tables.recipes import OPERATIONAL
from el_resources.configuration.environment import variable_of
from el_resources.configuration.profiles import PROFILES
from el_resources.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE, EXAMPLE, DEPLOYED = ROOT / "docs" / "settings.md", ROOT / ".env.example", ROOT / "deploy" / "dagster.yaml"
HEAD = """# Settings

Made by `docs/write_settings.py` from the settings themselves. Each is a variable of the shell or of `.env` in
the working directory, a field of the launchpad, and, for the most common ones, a flag; [the guide](guide.md#settings)
says which wins. `[?]` marks what the paper does not state. A table is made again when a setting that it depends on
changes; `python -m el_assets settings` shows every value in force.
"""
EXAMPLE_HEAD = """\
# Every setting of the workspace, with its default in the `reference` profile. Copy what you change to `.env`, which
# every command and Dagster read (it wins over the shell's variables), or export it. A flag or a launchpad's value wins
# over both, for its command or run. `python -m el_assets settings` shows every value and where it comes from.
"""
# Variables of a run that are no settings.
OTHERS_OF_A_RUN = ("OMP_NUM_THREADS", "RAY_JOBS_ADDRESS", "EL_RUNS_AT_ONCE")
SOURCES, MODELS, RUNS = "Sources and store", "Models", "Runs"


def main() -> None:
    """Write the three files."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for path, text in files().items():
        path.write_text(text)


def files() -> dict[Path, str]:
    """Return the three files with their content."""
    return {PAGE: page(), EXAMPLE: example(), DEPLOYED: deployed(DEPLOYED.read_text())}


def page() -> str:
    """Return the page's Markdown: a section a table, a row a setting."""
    sections: dict[str, list[str]] = {
        SOURCES: [],
        MODELS: [],
        **{f"`{name}`": [] for name in (*SETTINGS_WITHOUT_RECIPE, *RECIPES)},
        RUNS: [],
    }
    for name in Settings.model_fields:
        sections[_section(name)].append(_row(name))
    return HEAD + "".join(_written(title, rows) for title, rows in sections.items() if rows)


def example() -> str:
    """Return the example of `.env`: a paragraph a setting."""
    return EXAMPLE_HEAD + "".join(map(_paragraph, Settings.model_fields))


def _paragraph(name: str) -> str:
    field = Settings.model_fields[name]
    choices = f" One of: {', '.join(_choices(name))}." if _choices(name) else ""
    comment = textwrap.fill(
        f"{field.description}{choices}",
        118,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    value = _text(field.default)
    quoted = f'"{value}"'.replace("\n", "\\n") if "\n" in value else value
    return f"\n{comment}\n# {variable_of(name)}={quoted}\n"


def deployed(text: str) -> str:
    """Return the text of deploy/dagster.yaml with the list of a run's variables."""
    names = ", ".join([*OTHERS_OF_A_RUN, *map(variable_of, Settings.model_fields)])
    lines = textwrap.fill(names, 112, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False)
    return re.sub(r"(?<=      env_vars: \[\n).*?(?=\n      \])", lambda _: f"{lines},", text, flags=re.DOTALL)


def _choices(name: str) -> tuple[str, ...]:
    annotation = Settings.model_fields[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _section(name: str) -> str:
    if name in {*(s for used in ROLE_SETTINGS.values() for s in used), "device", "trust_remote_code"} - {"hmg_form"}:
        return MODELS
    of_sources = {name for recipe in RECIPES.values() for name in recipe.source_settings}
    if name in {"profile", "store", "hub_endpoint", *of_sources}:
        return SOURCES
    used = {table: (*recipe.settings, *recipe.seen_too) for table, recipe in RECIPES.items()}
    tables = [table for table, names in {**SETTINGS_WITHOUT_RECIPE, **used}.items() if name in names]
    return f"`{tables[0]}`" if tables and name not in OPERATIONAL else RUNS


def _written(title: str, rows: list[str]) -> str:
    return f"\n## {title}\n\n| variable | default | allowed | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    description, bounds = _without_bounds(str(field.description))
    paper = PROFILES["paper"].get(name, field.default)
    default = _shown(field.default) + (f"<br>paper: {_shown(paper)}" if paper != field.default else "")
    allowed = ", ".join(map(_shown, _choices(name))) or bounds or _type(field.annotation)
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
    text = _text(value)
    return f"`{text}`".replace("\n", "\\n") if text else "empty"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
