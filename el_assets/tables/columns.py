"""Columns that tables of several methods share, and the types of lists over tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

TOKENS = pl.List(pl.Int32())
SCORES = pl.List(pl.Float32())
POSITIONS = pl.List(pl.Int32())


@dataclass(frozen=True)
class Column:
    """A column: its polars type, and its meaning with the unit."""

    dtype: pl.DataType
    description: str


TableSchema = Mapping[str, Column]

CHUNK_ID = Column(pl.String(), "Chunk's id: document, first character and a hash of the text.")
CONTENT_HASH = Column(pl.String(), "Hash of the text, 32 hex digits.")
