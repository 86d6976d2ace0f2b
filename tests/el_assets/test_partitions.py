from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from el_assets.operations.schedules import range_tags
from el_assets.partitions import contiguous_ranges, corpus_shards, register_shards, registered_shards
from el_resources.sources.contracts import CorpusSource, SourceDocument
from el_resources.sources.opening import open_corpus


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    overrides = {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster"), overrides=overrides) as instance:
        yield instance


def corpus_of(folder: Path, *names: str) -> CorpusSource:
    """A corpus of exactly these files, one document each."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name in names:
        (folder / name).write_text('{"text": "some text"}\n')
    return open_corpus(f"jsonl:{folder}")


@dg.asset(partitions_def=corpus_shards, backfill_policy=dg.BackfillPolicy.single_run())
def table(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"shards": list(context.partition_keys)})


def shards_run(instance: dg.DagsterInstance, first: str, last: str) -> list[str]:
    """The shards that Dagster runs for a range."""
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = dg.materialize([table], instance=instance, tags=range_tags(first, last), run_config=quiet)
    return list(result.asset_materializations_for_node("table")[0].metadata["shards"].value)  # type: ignore[arg-type]


def test_the_registered_shards_become_those_of_the_source(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    assert register_shards(instance, corpus_of(folder, "a.jsonl", "b.jsonl")).shards == ["a.jsonl", "b.jsonl"]
    assert register_shards(instance, corpus_of(folder, "b.jsonl", "ü ∑.jsonl")).shards == ["b.jsonl", "ü ∑.jsonl"]
    assert registered_shards(instance) == ["b.jsonl", "ü ∑.jsonl"]


def test_registering_again_changes_nothing(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    source = corpus_of(tmp_path / "corpus", "a.jsonl", "b.jsonl")
    assert (
        register_shards(instance, source).shards == register_shards(instance, source).shards == ["a.jsonl", "b.jsonl"]
    )


def test_ranges_hold_a_shard_that_came_later(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Dagster reads ranges by registration order, in which a new shard is the last wherever the source lists it."""
    register_shards(instance, corpus_of(tmp_path / "corpus", "a.jsonl", "c.jsonl"))
    source = corpus_of(tmp_path / "corpus", "a.jsonl", "b.jsonl", "c.jsonl")
    registered = register_shards(instance, source).shards
    assert source.shards() == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert registered == registered_shards(instance) == ["a.jsonl", "c.jsonl", "b.jsonl"]
    for wanted in ({"a.jsonl", "b.jsonl", "c.jsonl"}, {"a.jsonl", "b.jsonl"}, {"b.jsonl", "c.jsonl"}):
        ranges = contiguous_ranges(wanted, registered)
        assert {shard for ends in ranges for shard in shards_run(instance, *ends)} == wanted


class NoShards:
    """A source that lists nothing."""

    uri = "nothing:"

    def shards(self) -> list[str]:
        return []

    def shard_fingerprint(self, shard: str) -> str:
        raise NotImplementedError

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        raise NotImplementedError


def test_a_corpus_without_shards_takes_none_away(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    register_shards(instance, corpus_of(tmp_path / "corpus", "a.jsonl"))
    with pytest.raises(ValueError, match="'nothing:' has no shard; check the address in EL_CORPUS"):
        register_shards(instance, NoShards())
    assert registered_shards(instance) == ["a.jsonl"]


def test_ranges_by_hand() -> None:
    registered = list("abcdef")
    assert contiguous_ranges(set("abdf"), registered) == [("a", "b"), ("d", "d"), ("f", "f")]
    assert contiguous_ranges(set("abcdef"), registered) == [("a", "f")]
    assert contiguous_ranges(set(), registered) == []


@given(wanted=st.lists(st.booleans(), max_size=30))
def test_ranges_hold_the_wanted_and_no_other_and_are_the_fewest(wanted: list[bool]) -> None:
    registered = [f"shard {number}" for number in range(len(wanted))]
    chosen = {shard for shard, is_wanted in zip(registered, wanted, strict=True) if is_wanted}
    ends = [(registered.index(a), registered.index(b)) for a, b in contiguous_ranges(chosen, registered)]
    assert {registered[number] for first, last in ends for number in range(first, last + 1)} == chosen
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ends)), "gaps lie between"
