"""Repositories shaped like FineWeb-Edu, Cosmopedia and LongAlign-10k: their columns, configs and cards."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COSMOPEDIA = "HuggingFaceTB/cosmopedia"
FINEWEB = "HuggingFaceFW/fineweb-edu"
LONGALIGN = "THUDM/LongAlign-10k"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def cosmopedia_row(text: str) -> dict[str, Any]:
    """A row with Cosmopedia's columns."""
    return {
        "prompt": "Write",
        "text_token_length": 3,
        "text": text,
        "seed_data": "stanford",
        "format": "textbook",
        "audience": "college",
    }


def fineweb_row(number: int) -> dict[str, Any]:
    """A row with FineWeb-Edu's columns."""
    return {
        "text": f"page {number}",
        "id": f"<urn:uuid:{number}>",
        "dump": "CC-MAIN-2024-10",
        "url": f"http://example.org/{number}",
        "file_path": "s3://commoncrawl/x",
        "language": "en",
        "language_score": 0.9,
        "token_count": 2,
        "score": 3.1,
        "int_score": 3,
    }


COSMOPEDIA_CARD = """---
license: apache-2.0
configs:
- config_name: stanford
  data_files:
  - split: train
    path: data/stanford/train-*
- config_name: stories
  data_files:
  - split: train
    path: data/stories/train-*
---
# Cosmopedia
"""
FINEWEB_CARD = """---
license: odc-by
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
  - split: test
    path: sample/test/*
---
"""
REPOSITORIES = {
    COSMOPEDIA: {
        "README.md": COSMOPEDIA_CARD.encode(),
        "data/stanford/train-00000-of-00002.parquet": parquet([cosmopedia_row(f"lesson {n}") for n in range(600)]),
        "data/stanford/train-00001-of-00002.parquet": parquet([cosmopedia_row("the last lesson")]),
        "data/stories/train-00000-of-00001.parquet": parquet([cosmopedia_row("once")]),
    },
    FINEWEB: {
        "README.md": FINEWEB_CARD.encode(),
        "data/CC-MAIN-2024-10/000_00000.parquet": parquet([fineweb_row(0)]),
        "sample/10BT/000_00000.parquet": parquet([fineweb_row(1), fineweb_row(2)]),
        "sample/test/000_00000.parquet": parquet([fineweb_row(3)]),
    },
    LONGALIGN: {
        "README.md": b"# no header\n",
        ".gitattributes": b"*.jsonl filter=lfs\n",
        "long.jsonl": b"".join(
            json.dumps({"messages": [{"role": "user", "content": f"long text\n\nquestion {n}"},
                                     {"role": "assistant", "content": "answer"}], "length": 9}).encode() + b"\n"
            for n in range(2000)
        ),
    },
}  # fmt: skip
