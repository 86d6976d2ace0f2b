"""Figures as metadata of materializations."""

import base64
from typing import Any

import dagster as dg


def picture(figure: Any) -> dg.MarkdownMetadataValue:
    """Return a figure as Markdown that holds its PNG."""
    from el_assets.plots.drawing import png

    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png(figure)).decode('ascii')})")
