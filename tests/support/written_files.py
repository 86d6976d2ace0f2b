"""Files of rows, in the formats that sources have."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import write_json_lines

Row = dict[str, Any]


def write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {"parquet": write_parquet, "jsonl": write_json_lines}
every_format = pytest.mark.parametrize("scheme", WRITERS)


@contextmanager
def empty_folder() -> Iterator[Path]:
    """A folder per hypothesis example, which pytest's tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
