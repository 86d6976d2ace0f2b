"""The profile `paper`, from mixed files in the hub's layout to sequences of 131,072 tokens, without a network.

Library documentation is written as FineWeb-Edu- and Cosmopedia-shaped Parquet with the cards of their repositories; the
scorer is a two-layer Llama of width 64 with random weights, a window of 131,072 tokens and the reference tokenizer. The
run is `python -m el_assets run --profile paper`; the settings that a laptop must change are in `OVERRIDES` and are
printed. The sequences are real in length and provenance, and worthless in content: a random model verifies nothing.

    python benchmarks/paper_profile.py
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).parents[1]
SEQUENCE_TOKENS = 131_072
# Setting: (value, why the profile's own value does not work here).
OVERRIDES = {
    "encoder": ("reference-idf", "the profile's sentence-transformers model needs a download"),
    "roots_per_shard": ("32", "fewer documents: each root costs a forward per retrieved chunk"),
    "root_tokens_max": ("400", "roots stay short: two cores pay for every token in front of an anchor"),
    "epsilon": ("-0.5", "a random model lowers no entropy; so every retrieved context is kept"),
}
CARD = """---
license: {license}
configs:
- config_name: {config}
  data_files:
  - split: train
    path: {folder}/*
---
"""


def main() -> None:
    """Run the profile and print the report."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_corpora(home)
        write_model(home / "model")
        (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "el_assets", "run", "--profile", "paper", "--select", "index,entropylong"],
            cwd=home,
            env={**os.environ, **environment(home)},
            check=True,
        )
        seconds = time.monotonic() - started
        report(home, seconds)


def environment(home: Path) -> dict[str, str]:
    """Return the run's environment variables: the places of the files, and the overrides."""
    return {
        **{f"EL_{name.upper()}": value for name, (value, _) in OVERRIDES.items()},
        "EL_CORPUS": f"hf:{home}/fineweb-edu/sample-10BT [name=fineweb-edu] + "
        f"hf:{home}/cosmopedia/stanford [name=cosmopedia-stanford]",
        "EL_LONG_MODEL": str(home / "model"),
        "EL_STORE": str(home / "store"),
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }


def write_corpora(home: Path) -> None:
    """Write the folders of two repositories, each with half of the library's documentation in one file."""
    from el_resources.sources.opening import open_corpus

    source = open_corpus("python-docs:")
    documents = [document for shard in source.shards() for document in source.documents(shard)]
    web = pl.DataFrame([fineweb_row(number, d.text) for number, d in enumerate(documents[0::2])])
    books = pl.DataFrame([cosmopedia_row(document.text) for document in documents[1::2]])
    for name, config, folder, license_, frame in (
        ("fineweb-edu", "sample-10BT", "sample/10BT", "odc-by", web),
        ("cosmopedia", "stanford", "data/stanford", "apache-2.0", books),
    ):
        (home / name / folder).mkdir(parents=True)
        (home / name / "README.md").write_text(CARD.format(license=license_, config=config, folder=folder))
        frame.write_parquet(home / name / folder / "train-00000-of-00001.parquet")


def fineweb_row(number: int, text: str) -> dict[str, Any]:
    """Return a row with FineWeb-Edu's columns."""
    return {
        "text": text,
        "id": f"<urn:uuid:{number}>",
        "dump": "CC-MAIN-2024-10",
        "url": f"http://example.org/{number}",
        "file_path": "s3://commoncrawl/x",
        "language": "en",
        "language_score": 0.9,
        "token_count": len(text) // 4,
        "score": 3.1,
        "int_score": 3,
    }


def cosmopedia_row(text: str) -> dict[str, Any]:
    """Return a row with Cosmopedia's columns."""
    return {
        "prompt": "Write",
        "text_token_length": len(text) // 4,
        "text": text,
        "seed_data": "stanford",
        "format": "textbook",
        "audience": "college",
    }


def write_model(folder: Path) -> None:
    """Save a random two-layer Llama with a long window, together with the reference tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from el_resources.models.model_files import resolve_model

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=SEQUENCE_TOKENS,
        bos_token_id=0,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((resolve_model("reference:long") / name).read_bytes())


def report(home: Path, seconds: float) -> None:
    """Print the numbers of sequences and contexts, their cost, and the overrides."""
    packed = pl.concat(list(_tables(home, "packed_sequences")))
    assert not packed.is_empty(), "no sequence was filled"
    assert packed["token_ids"].list.len().unique().to_list() == [SEQUENCE_TOKENS]
    segments = packed["segments"].explode().struct.unnest()
    sources = segments.filter(pl.col("kind") == "context").group_by("source").len().sort("source")
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{packed.height} sequences of {SEQUENCE_TOKENS:,} tokens in {seconds:.0f} s, {gigabytes:.1f} GiB at most")
    for source, count in sources.iter_rows():
        print(f"  {count:,} contexts from {Path(source).parent.name}/{Path(source).name}")
    print(json.dumps(segments["license"].drop_nulls().value_counts().sort("license").to_dicts()))
    print("overrides of the profile:")
    for name, (value, why) in {
        "long_model": ("two-layer Llama of width 64, random weights", "Llama-3-8B's weights are not here"),
        "corpus": ("local files in the hub's layout, of the same two sources", "no network"),
        **OVERRIDES,
    }.items():
        print(f"  {name} = {value}: {why}")


def _tables(home: Path, asset: str) -> Iterator[pl.DataFrame]:
    for path in sorted((home / "store" / "tables" / asset).iterdir()):
        yield pl.read_parquet(path)


if __name__ == "__main__":
    main()
