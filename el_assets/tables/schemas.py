"""The columns of every table, as polars types for frames and as a schema for Dagster's pages.

`conform` is called before every write, so that every column of a table is described.
"""

import dagster as dg
import polars as pl

from el_assets.catalogue import TABLES


def polars_schema(table: str) -> pl.Schema:
    """Return the column types of a table, by name."""
    return pl.Schema({name: column.dtype for name, column in TABLES[table].columns.items()})


def conform(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """Return the frame with the table's column order and types.

    Raises:
        polars exceptions if a column is missing or cannot be cast without loss.
    """
    assert set(frame.columns) == set(TABLES[table].columns), (table, set(frame.columns) ^ set(TABLES[table].columns))
    return frame.select(pl.col(name).cast(column.dtype) for name, column in TABLES[table].columns.items())


def dagster_schema(table: str) -> dg.TableSchema:
    """Return the table's columns for Dagster's pages."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=str(column.dtype), description=column.description)
            for name, column in TABLES[table].columns.items()
        ]
    )
