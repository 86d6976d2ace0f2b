"""The EntropyLong half with its corpus, tables and index in an S3 server on loopback: the same as on disk."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import polars.testing
import pytest

from el_assets.corpus.assets import context_store
from tests.conftest import Workspace, forwards, library_documents
from tests.support.s3_server import BUCKET, S3, s3_server
from tests.support.small_settings import SMALL

pytestmark = pytest.mark.services

A, B = "a.jsonl", "b.jsonl.gz"
TABLES = (
    "documents",
    "context_chunks",
    "entropy_maps",
    "candidate_contexts",
    "context_scores",
    "verified_pairs",
    "packed_sequences",
    "packing_leftovers",
)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as s3:
        s3.empty()
        yield s3


def filled(workspace: Workspace) -> Workspace:
    for number, shard in enumerate((A, B)):
        workspace.write_shard(shard, library_documents(6, offset=6 * number))
    return workspace


def made(workspace: Workspace) -> Workspace:
    assert workspace.register() == [A, B]
    assert workspace.run("build_index").success
    assert workspace.run("build_sequences").success
    return workspace


@pytest.fixture(scope="module")
def on_disk(new_module_workspace: Callable[..., Workspace]) -> Workspace:
    return made(filled(new_module_workspace(**SMALL)))


@pytest.fixture(scope="module")
def on_s3(s3: S3, new_module_workspace: Callable[..., Workspace]) -> Workspace:
    places = {"store": f"s3://{BUCKET}/store", "corpus": f"jsonl:s3://{BUCKET}/corpus"}
    workspace = filled(new_module_workspace(**SMALL, **places))
    s3.filesystem().put(f"{workspace.folder}/corpus/", f"{BUCKET}/corpus/", recursive=True)
    s3.fail("/corpus/", "500", times=2)
    s3.fail("/tables/", "503", times=2)
    return made(workspace)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("shard", [A, B])
def test_tables_equal_those_on_disk(on_disk: Workspace, on_s3: Workspace, table: str, shard: str) -> None:
    stored, expected = (without_source(workspace.tables.read(table, shard)) for workspace in (on_s3, on_disk))
    assert expected.height or table == "packing_leftovers"
    polars.testing.assert_frame_equal(stored, expected, abs_tol=1e-4)


def without_source(table: pl.DataFrame) -> pl.DataFrame:
    """The table without the corpus's address, which differs."""
    if "segments" in table.columns:
        kept = [field.name for field in table.schema["segments"].inner.fields if field.name != "source"]  # type: ignore[attr-defined]
        fields = pl.element().struct
        return table.with_columns(pl.col("segments").list.eval(pl.struct(fields.field(name) for name in kept)))
    return table.drop("source", strict=False)


def test_the_index_is_that_on_disk(on_disk: Workspace, on_s3: Workspace) -> None:
    stored, expected = (context_store(workspace.loaded()).open() for workspace in (on_s3, on_disk))
    assert stored.chunk_ids().equals(expected.chunk_ids())


def test_every_packed_segment_names_its_source(on_s3: Workspace) -> None:
    segments = on_s3.tables.read("packed_sequences", A)["segments"].explode().struct.unnest()
    texts = segments.filter(pl.col("kind").is_in(["root", "context"]))
    assert texts["source"].unique().to_list() == [f"jsonl:s3://{BUCKET}/corpus"]
    assert segments.filter(~pl.col("kind").is_in(["root", "context"]))["source"].null_count() == segments.height - len(
        texts
    )


def test_a_second_run_scores_nothing_and_writes_nothing(s3: S3, on_s3: Workspace) -> None:
    before = len(s3.requests)
    results = [on_s3.run("build_index"), on_s3.run("build_sequences")]
    assert [forwards(result) for result in results] == [0, 0]
    assert {method for method, _ in s3.requests[before:]} == {"GET", "HEAD"}


def test_a_truncated_table_is_named_and_made_again(s3: S3, on_s3: Workspace) -> None:
    before = on_s3.tables.read("entropy_maps", A)
    path = on_s3.tables.path("entropy_maps", A)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        assert "cut short" in on_s3.tables.damage("entropy_maps", A)
        assert on_s3.run("build_sequences", A).success
        assert on_s3.tables.read("entropy_maps", A).equals(before)
    finally:
        path.write_bytes(whole)


def test_a_truncated_source_object_is_named_and_the_other_shard_goes_on(
    s3: S3, new_workspace: Callable[..., Workspace]
) -> None:
    corpus = f"{BUCKET}/truncated"
    workspace = new_workspace(**SMALL, store=f"s3://{BUCKET}/other", corpus=f"jsonl:s3://{corpus}")
    folder = Path(filled(workspace).folder, "corpus")
    s3.filesystem().pipe_file(f"{corpus}/{A}", gzip.compress((folder / A).read_bytes())[:-200])
    s3.filesystem().pipe_file(f"{corpus}/{B}", (folder / B).read_bytes())
    workspace.register()
    workspace.run("build_index", raises=False)
    assert f"{corpus}/{A}" in workspace.tables.require_stamp("documents", A).facts["unreadable"]
    assert workspace.tables.read("documents", A).is_empty()
    assert workspace.tables.read("documents", B).height == 6
