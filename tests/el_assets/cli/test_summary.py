"""The summary's rows, over real tables."""

from pathlib import Path

import polars as pl
import pytest

from el_assets.cli.summary import Stage, print_summary
from el_assets.gateau.summary import correlation_in_words
from el_assets.tables.schemas import conform, polars_schema
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, store=str(tmp_path / "store"), root_tokens_min=50, sequence_tokens=100)


def write(settings: Settings, asset: str, shard: str, frame: pl.DataFrame | None = None, **facts: object) -> None:
    made_under = {"epsilon": 0.4, "criterion": "entropy", "beats_controls": True, "sequence_tokens": 100}
    empty = pl.DataFrame(schema=polars_schema(asset))
    table = empty.clear(int(str(facts.get("rows", 2)))) if frame is None else conform(frame, asset)
    stamp = Stamp(asset=asset, partition=shard, recipe="r", settings=made_under, facts={**facts, "rows": table.height})
    ShardTables(settings.store).write(table, stamp)


def rows(settings: Settings, stages: list[Stage], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the printed rows, by label."""
    print_summary(settings, ["a", "b"], stages, seconds=12.4)
    lines = [line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines() if line.strip()]
    return {label.strip(): value.strip() for label, value in lines}


def test_the_corpus_alone(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    write(settings, "documents", "a", documents=1000, set_aside={"empty": 2, "nul": 1})
    write(settings, "documents", "b", documents=500, set_aside={})
    write(settings, "context_chunks", "b", chunks=2000)
    found = rows(settings, [Stage("documents", 1.25, 0, 2), Stage("context_chunks", 3.0, 0, 1)], capsys)
    assert found == {
        "documents": "1,500 (set aside: empty 2, nul 1)",
        "chunks": "2,000",
        "seconds": "12: documents 1.2, context_chunks 3.0",
        "forwards in this run": "0",
        "tables": str(Path(settings.store) / "tables"),
        "look at it": "make ui, then http://127.0.0.1:3000",
    }


def test_shares_and_rates_of_all_shards(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in "ab":
        write(settings, "documents", shard, documents=10)
        write(settings, "entropy_maps", shard, rows=5, documents_eligible=8, anchors=20)
        write(settings, "context_scores", shard, scores(shard), units=30, per_pair_forwards=1200)
        write(settings, "verified_pairs", shard, contexts=7, roots_with_contexts=3)
    write(settings, "packed_sequences", "a", sequences=1, packed_tokens=100, context_tokens=30)
    write(settings, "packed_sequences", "b", sequences=3, packed_tokens=300, context_tokens=70)
    found = rows(settings, [Stage("entropy_maps", 1.0, 4, 1), Stage("context_scores", 2.0, 60, 1)], capsys)
    expected = {
        "roots": "10 of 16 eligible",
        "anchors": "40",
        "pairs scored": "2,400 in 60 forwards",
        # Per shard two of four candidates and one of two controls exceed 0.4; only one candidate beats the control.
        "pass ε = 0.4 alone": "retrieved 50.0 %, random 50.0 %, estimated FDR 1.00 [1.00, 1.00]",
        "and beat all controls": "retrieved 25.0 %, random 50.0 %, estimated FDR 2.00 [2.00, 2.00]",
        "verified contexts": "14 for 6 roots",
        "share of packed tokens": "25 % contexts, the rest roots and joints",
        "sequences": "4 of 100 tokens, 1 to 3 a shard",
        "forwards in this run": "64",
    }
    assert {label: found[label] for label in expected} == expected


def scores(shard: str) -> pl.DataFrame:
    """Candidates and controls of one root, whose id both shards use."""
    rows = [(f"c{n}", False, value) for n, value in enumerate([0.9, 0.5, 0.1, 0.0])]
    rows += [(f"random {n}", True, value) for n, value in enumerate([0.6, 0.2])]
    columns = {"chunk_id": pl.String, "is_control": pl.Boolean, "reduction": pl.Float32}
    others = {name: dtype for name, dtype in polars_schema("context_scores").items() if name not in columns}
    return (
        pl.DataFrame(rows, schema=columns, orient="row")
        .with_columns(pl.lit(None, dtype).alias(name) for name, dtype in others.items())
        .with_columns(doc_id=pl.lit("0"), anchor=pl.lit(3), chunk_hash=pl.col("chunk_id"), chunk_shard=pl.lit(shard))
    )


@pytest.mark.parametrize(
    ("samples", "correlation", "said"),
    [(9, 0.123, "0.12"), (1, None, "none (one sample)"), (9, None, "none (it, or the score, is the same for all)")],
)
def test_a_correlation_that_there_is_not_says_why(samples: int, correlation: float | None, said: str) -> None:
    facts = {"samples": samples, "rank_correlation_with_hmp": correlation}
    stamp = Stamp(asset="influence_scores", partition="all", recipe="r", settings={}, facts=facts)
    assert correlation_in_words(stamp, "hmp") == said


@pytest.mark.parametrize(
    ("written", "said"), [(0, "0: every table was up to date and none was written"), (2, "0")], ids=["none", "some"]
)
def test_up_to_date_is_said_only_where_nothing_was_written(
    settings: Settings, written: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(settings, [Stage("verified_pairs", 0.5, 0, written)], capsys)
    assert found["forwards in this run"] == said


def test_unreadable_sources_are_listed_and_told(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    write(settings, "documents", "a", documents=1)
    assert print_summary(settings, ["a", "b"], [], seconds=0)
    write(settings, "documents", "b", documents=0, unreadable="b is no Parquet file")
    assert not print_summary(settings, ["a", "b"], [], seconds=0)
    assert "not read: b is no Parquet file" in capsys.readouterr().out


def test_shards_without_sequences_are_named_with_their_reasons_last(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"shard {number}" for number in range(8)]
    for name in names:
        write(settings, "documents", name, documents=3)
        write(settings, "entropy_maps", name, documents_eligible=2, anchors=4)
        write(settings, "context_scores", name, scores(name))
        write(settings, "verified_pairs", name, contexts=1, roots_with_contexts=1)
        filled = 1 if name == "shard 0" else 0
        write(settings, "packed_sequences", name, sequences=filled, packable_tokens=90, packed_tokens=0)
    print_summary(settings, names, [], seconds=1)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "warning:" in line]
    assert lines[0].startswith(
        "warning: no sequence in shard 1: 90 tokens of contexts and roots in this shard are less than "
        "sequence_tokens=100: lower EL_SEQUENCE_TOKENS or EL_EPSILON, or "
    )
    assert (len(lines), lines[-1]) == (6, "warning: and 2 more shards like these")


def test_a_pool_without_scorable_samples_says_why(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    write(settings, "instruction_samples", "a", samples=0, set_aside={"does_not_fit_window": 9, "no_response": 3})
    print_summary(settings, [], [], pool=["a"], seconds=1)
    assert (
        "warning: no sample can be scored: all 12 samples were set aside: does_not_fit_window 9, no_response 3; the "
        "column `detail` of instruction_samples says what is wrong with each; a model with a longer window"
    ) in capsys.readouterr().out
