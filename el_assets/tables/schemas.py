"""The columns of every table: what a frame must have before it is written, and what Dagster shows.

`conform` is called before every write, so that no table can carry a column that its method does not describe.
"""

import dagster as dg
import polars as pl

from el_assets.catalogue import TABLES


def polars_schema(table: str) -> pl.Schema:
    """Column types of a table, by name."""
    return pl.Schema({name: column.dtype for name, column in TABLES[table].columns.items()})


def conform(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """The frame in the table's column order and types.

    Raises:
        polars exceptions if a column is missing or cannot be cast without loss.
    """
    assert set(frame.columns) == set(TABLES[table].columns), (table, set(frame.columns) ^ set(TABLES[table].columns))
    return frame.select(pl.col(name).cast(column.dtype) for name, column in TABLES[table].columns.items())


def dagster_schema(table: str) -> dg.TableSchema:
    """The table's columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=str(column.dtype), description=column.description)
            for name, column in TABLES[table].columns.items()
        ]
    )
