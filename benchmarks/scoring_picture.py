"""Picture of results/scoring.json: the share of the matmul rate that each way reaches, and the engine's aim."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from el_assets.plots.drawing import BLUE, INK, ORANGE, panels, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"maps": "entropy maps", "verify": "verification"}
# Share of the matmul rate that the engine is to reach, by table and shape.
AIMS = {("maps", "1b"): 0.65, ("maps", "8b"): 0.75, ("verify", "8b"): 0.65}
INCHES_WIDE, INCHES_A_LINE, INCHES_AROUND = 9.0, 0.21, 0.9


def picture(sections: Mapping[str, Any]) -> bytes:
    """Draw maps and verification side by side, with a group of bars for each section, and return the PNG."""
    with panels(len(TITLES)) as (figure, axes):
        lines = max(_draw(one, what, sections) for one, what in zip(axes, TITLES, strict=True))
        for one in axes:
            one.set_ylim(lines - 0.4, -0.6)  # bars of both panels are of one height
        figure.set_size_inches(INCHES_WIDE, INCHES_AROUND + INCHES_A_LINE * lines)
        handles = {
            label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
        return png(figure)


def _draw(axes: "Axes", what: str, sections: Mapping[str, Any]) -> int:
    """Draw one table of all sections, from top to bottom, and return the number of lines that it takes."""
    labels: list[str] = []
    for name, section in sections.items():
        rows = section["tables"].get(what, [])
        if not rows:
            continue
        # Label the section.
        labels.append(name)
        first = len(labels)
        for row in rows:
            _bar(axes, len(labels), row["way"], 100 * row["matmul_share"])
            labels.append(row["way"])
        # Mark the aim.
        if aim := AIMS.get((what, section["shape"])):
            edges = first - 0.5, len(labels) - 0.5
            axes.plot([100 * aim] * 2, edges, color=INK, linestyle="--", linewidth=1.4, label="aim of the engine")
    axes.set(title=TITLES[what], xlabel="share of the matmul rate, %", xlim=(0, 100))
    axes.set_yticks(range(len(labels)), labels)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        if label in sections:
            tick.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    return len(labels)


def _bar(axes: "Axes", line: int, way: str, per_cent: float) -> None:
    """Draw a way's bar with its number."""
    plain = way.startswith("plain")
    look: dict[str, Any] = {"color": ORANGE, "hatch": "///", "edgecolor": "white"} if plain else {"color": BLUE}
    axes.barh(line, per_cent, height=0.72, linewidth=0, label="plain transformers" if plain else "engine", **look)
    axes.text(102, line, f"{per_cent:.0f} %", va="center", fontsize=8)  # right of the panel, clear of all lines
