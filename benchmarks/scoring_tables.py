"""Results of benchmarks/scoring.py as numbers (JSON) and as sections of results/scoring.md.

A section is one run of one shape on one device: its circumstances and, under `tables`, the measured rows.
"""

import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results_file import replace_section

HEADING = "## Tables"
# Keys of a table's rows, with the headings of their columns.
TABLES = {
    "maps": {
        "way": "entropy maps",
        "tokens_per_second": "tokens/s",
        "matmul_share": "of the matmul rate",
        "busy_share": "device busy",
        "gib_above_weights": "GiB above the weights",
    },
    "verify": {
        "way": "verification",
        "units": "units",
        "pairs": "pairs",
        "pairs_per_second": "pairs/s",
        "times_plain": "× plain",
        "tokens_per_second": "tokens/s",
        "matmul_share": "of the matmul rate",
        "gib_above_weights": "GiB above the weights",
    },
    "long": {
        "way": "one document",
        "tokens_per_second": "tokens/s",
        "matmul_share": "of the matmul rate, attention counted",
        "gib_above_weights": "GiB above the weights",
    },
    "cam": {
        "way": "awareness",
        "seconds": "seconds",
        "forwards": "× forward",
        "gib_above_weights": "GiB above the weights",
    },
}
FORMATS: dict[str, Callable[[Any], str]] = {
    "way": str,
    "units": "{:,}".format,
    "pairs": "{:,}".format,
    "tokens_per_second": "{:,.0f}".format,
    "pairs_per_second": "{:,.1f}".format,
    "times_plain": "{:.1f}".format,
    "matmul_share": lambda share: f"{100 * share:.0f} %",
    "busy_share": lambda share: f"{100 * share:.0f} %",
    "seconds": "{:.2f}".format,
    "forwards": "{:.2f}".format,
    "gib_above_weights": "{:.1f}".format,
}

Row = Mapping[str, Any]


def table_head(what: str) -> str:
    """Return a table's first two lines."""
    return f"| {' | '.join(TABLES[what].values())} |\n{'|---' * len(TABLES[what])}|"


def table_row(what: str, row: Row) -> str:
    """Return a row's line; a cell is empty if nothing was measured for it."""
    values = {key: row.get(key) for key in TABLES[what]}
    return f"| {' | '.join('' if value is None else FORMATS[key](value) for key, value in values.items())} |"


def section_head(name: str, section: Mapping[str, Any]) -> str:
    """Return a section's heading and the recorded circumstances of its run."""
    versions = [f"{package} {version}" for package, version in section["versions"].items()]
    rates = f"matrix products at {_tera(section['flops_per_second'])} TFLOP/s in a burst"
    if section["sustained_flops_per_second"]:
        rates += f", {_tera(section['sustained_flops_per_second'])} sustained"
    batches = f"batches of {section['max_batch_tokens']:,} inputs"
    roots = f"{section['roots']} roots in verification"
    machine = [section["machine"]] if section["machine"] else []
    parts = [section["date"], *machine, *versions, section["dtype"], rates, batches, f"scale {section['scale']:g}"]
    return f"### {name}\n\n{textwrap.fill(', '.join([*parts, roots]), 100)}."


def section_text(name: str, section: Mapping[str, Any]) -> str:
    """Return a section's text."""
    tables = [
        "\n".join([table_head(what), *(table_row(what, row) for row in rows)])
        for what, rows in section["tables"].items()
    ]
    return "\n\n".join([section_head(name, section), *tables])


def write_section(results: Path, name: str, section: Mapping[str, Any]) -> None:
    """Write a section into the page and into scoring.json next to it, in place of its older version."""
    sections = {**read_numbers(results.with_name("scoring.json")), name: section}
    numbers = json.dumps(sections, indent=1, ensure_ascii=False)
    results.with_name("scoring.json").write_text(numbers + "\n")
    text = results.read_text() if results.exists() else f"{HEADING}\n"
    results.write_text(replace_section(text, f"scoring: {name}", section_text(name, section), HEADING))


def read_numbers(path: Path) -> dict[str, Any]:
    """Return all sections by name; none if there is no file yet."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.3g}"
