"""The common style of all pictures, and their two formats: PNG for materializations, SVG for reports.

Each figure is drawn by a pure function of a table. The colours (Okabe and Ito's palette) can be told apart by the
colour-blind, and whatever differs in colour also differs in shape or line style.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RULE, BLUE, ORANGE, GREEN, RED = "#333333", "#dddddd", "#0072b2", "#d98000", "#009e73", "#c44601"
# Colours -> their names in the style sheet of a page, which has other colours in dark mode.
IN_PAGES = {
    INK: "currentColor",
    RULE: "var(--rule)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    RED: "var(--red)",
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so pictures are the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
INCHES = (6.4, 3.0)
PNG_DOTS_PER_INCH = 120
PNG_COLOURS = 48
# Most dots of a scatter plot; more would hide each other and make files large.
DOTS = 1200


@contextmanager
def panels(columns: int = 1) -> Iterator[tuple["Figure", list["Axes"]]]:
    """Yield a figure and its panels, side by side and in the common style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=INCHES, layout="constrained")
        yield figure, list(figure.subplots(1, columns, squeeze=False)[0])


def png(figure: "Figure") -> bytes:
    """Return the figure as a small PNG (about 20 kB), on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(PNG_DOTS_PER_INCH)
    canvas, small = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()  # once; `savefig` would draw twice
    full = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    full.convert("RGB").quantize(PNG_COLOURS).save(small, "PNG", optimize=True)
    return small.getvalue()


def svg(figure: "Figure", name: str) -> str:
    """Return the figure as an `<svg>` element for a page, in the page's own colours; equal figures give equal text.

    Args:
        name: description of the figure for screen readers; it also makes the ids of figures differ.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = text.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", element, flags=re.DOTALL)
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element).replace("xlink:href", "href")
    element = re.sub(r" id=\"(?![hmp][0-9a-f]{10})[^\"]*\"", "", element)  # these ids are the same in every figure
    element = re.sub(r"font-family: [^;\"]*", "font-family: inherit", element)
    element = re.sub(r' (width|height)="[\d.]+pt"', "", element, count=2)
    for colour, in_page in IN_PAGES.items():
        element = element.replace(colour, in_page)
    assert re.fullmatch(r"[\w ,.×()%-]+", name), name
    return element.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def dots(frame: pl.DataFrame) -> pl.DataFrame:
    """Return at most DOTS rows, spread evenly over the table; always the same rows for the same table."""
    if frame.height <= DOTS:
        return frame
    return frame[np.linspace(0, frame.height - 1, DOTS).astype(np.int64).tolist()]


def step(axes: "Axes", edges: np.ndarray, heights: np.ndarray, **how: Any) -> None:
    """Draw a histogram's outline.

    Args:
        edges: [n + 1], of the bins.
        heights: [n].
    """
    axes.stairs(heights, edges, linewidth=1.4, **how)


def shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the per cent of the values in each bin; values beyond the edges count in the outermost bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return 100 * counts / max(1, len(values))


def note_if_empty(axes: "Axes", n: int, what: str) -> None:
    """Write "no WHAT" into a panel that has nothing to draw."""
    if not n:
        axes.text(0.5, 0.5, f"no {what}", transform=axes.transAxes, ha="center", va="center")


def bars(axes: "Axes", counts: Mapping[str, float], **how: Any) -> None:
    """Draw horizontal bars with their numbers."""
    drawn = axes.barh(list(counts), list(counts.values()), **how)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.15)
    axes.invert_yaxis()
