"""Benchmarks that need neither a GPU nor minutes still run, at their smallest size."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALLEST = {
    "index_scale.py": "--chunks 300 --shards 10 --queries 5",
    "pipeline.py": "--wait 0 --shards 2 --documents 20",
}


@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_prints_its_table(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / script), *SMALLEST[script].split()]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    head, line, *rows = [line for line in found.stdout.splitlines() if line.startswith("|")]
    assert set(line) <= set("|-")
    assert rows
    assert all(row.count("|") == head.count("|") for row in rows)
