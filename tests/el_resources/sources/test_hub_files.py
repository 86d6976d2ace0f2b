"""The hub's file protocol over a real socket, with its faults, and folders on disk that are laid out alike."""

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from el_resources.sources.contracts import CorruptShardError, InstructionSource, SourceDocument
from el_resources.sources.opening import open_corpus, open_instructions
from tests.support.hub_repositories import (
    COSMOPEDIA,
    COSMOPEDIA_CARD,
    FINEWEB,
    LONGALIGN,
    REPOSITORIES,
    cosmopedia_row,
    parquet,
)
from tests.support.hub_server import FakeHub, fake_hub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        for repository, files in REPOSITORIES.items():
            hub.commit(repository, dict(files))
        yield hub


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts take no time."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


def on_disk(folder: Path, repository: str) -> Path:
    place = folder / repository.partition("/")[2]
    for name, content in REPOSITORIES[repository].items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def pool(uri: str, endpoint: str = "") -> InstructionSource:
    def no_tokenizer() -> Any:
        raise AssertionError("files are read without one")

    return open_instructions(
        uri, tokenizer=no_tokenizer, samples_per_kind=1, windows=no_tokenizer, hub_endpoint=endpoint
    )


def texts(documents: Iterator[SourceDocument]) -> list[str]:
    return [document.text for document in documents]


def test_a_config_is_its_files_with_the_cards_licence(hub: FakeHub) -> None:
    corpus = open_corpus(f"hf:{COSMOPEDIA}/stanford", hub_endpoint=hub.endpoint)
    first, second = corpus.shards()
    assert (first, second) == (
        "data/stanford/train-00000-of-00002.parquet",
        "data/stanford/train-00001-of-00002.parquet",
    )
    fetched = [path for path in hub.paths() if "/cdn/" in path or "/resolve/" in path]
    assert {path.rpartition("/")[2] for path in fetched} == {"README.md"}, "no data is downloaded to list"
    assert texts(corpus.documents(first)) == [f"lesson {n}" for n in range(600)]
    assert list(corpus.documents(second)) == [
        SourceDocument(source_id=None, text="the last lesson", license="apache-2.0")
    ]
    (page, _) = open_corpus(f"hf:{FINEWEB}/sample-10BT", hub_endpoint=hub.endpoint).documents(
        "sample/10BT/000_00000.parquet"
    )
    assert page == SourceDocument(source_id="<urn:uuid:1>", text="page 1", url="http://example.org/1", license="odc-by")


@pytest.mark.parametrize(
    ("uri", "shards"),
    [
        (f"hf:{FINEWEB}", ["data/CC-MAIN-2024-10/000_00000.parquet"]),
        (f"hf:{FINEWEB}/sample-10BT#test", ["sample/test/000_00000.parquet"]),
        (f"hf:{FINEWEB}/sample/10BT", ["sample/10BT/000_00000.parquet"]),
        (f"hf:{FINEWEB}/sample-10BT@main#train", ["sample/10BT/000_00000.parquet"]),
        (f"hf:{COSMOPEDIA}/data/stories", ["data/stories/train-00000-of-00001.parquet"]),
        (f"hf:{LONGALIGN}", ["long.jsonl"]),
    ],
)
def test_default_configs_folders_and_splits(hub: FakeHub, tmp_path: Path, uri: str, shards: list[str]) -> None:
    assert open_corpus(uri, hub_endpoint=hub.endpoint).shards() == shards
    repository = next(name for name in REPOSITORIES if name in uri)
    local = uri.replace(repository, str(on_disk(tmp_path, repository))).replace("@main", "")
    corpus = open_corpus(local)
    assert corpus.shards() == shards
    assert corpus.origin(shards[0])["file"] == shards[0]


def test_a_folder_on_disk_reads_like_the_repository(hub: FakeHub, tmp_path: Path) -> None:
    remote = open_corpus(f"hf:{COSMOPEDIA}/stanford", hub_endpoint=hub.endpoint)
    local = open_corpus(f"hf:{on_disk(tmp_path, COSMOPEDIA)}/stanford")
    assert local.shards() == remote.shards()
    for shard in remote.shards():
        assert list(local.documents(shard)) == list(remote.documents(shard))
    before = local.shard_fingerprint(remote.shards()[1])
    (tmp_path / "cosmopedia" / remote.shards()[1]).write_bytes(parquet([cosmopedia_row("revised")]))
    assert open_corpus(local.uri).shard_fingerprint(remote.shards()[1]) != before


def test_instruction_samples_come_from_json_lines(hub: FakeHub) -> None:
    source = pool(f"hf:{LONGALIGN}", hub.endpoint)
    (shard,) = source.shards()
    samples = list(source.samples(shard))
    assert [sample.instruction for sample in samples] == [f"question {n}" for n in range(2000)]
    assert samples[0].context == "long text"


def test_a_new_commit_leaves_unchanged_files_valid(hub: FakeHub) -> None:
    uri = f"hf:{COSMOPEDIA}/stanford"
    old = open_corpus(uri, hub_endpoint=hub.endpoint)
    first, second = old.shards()
    before = {shard: old.shard_fingerprint(shard) for shard in old.shards()}
    files = dict(REPOSITORIES[COSMOPEDIA])
    files[f"{second}"] = parquet([cosmopedia_row("revised")])
    commit = hub.commit(COSMOPEDIA, files)
    assert texts(old.documents(second)) == ["the last lesson"], "a listing stays with its commit"
    new = open_corpus(uri, hub_endpoint=hub.endpoint)
    assert new.shard_fingerprint(first) == before[first]
    assert new.shard_fingerprint(second) != before[second]
    assert texts(new.documents(second)) == ["revised"]
    assert new.origin(second) == {"source": uri, "file": second, "revision": commit}


def test_a_pinned_revision_stays(hub: FakeHub) -> None:
    pinned = hub.heads[COSMOPEDIA, "main"]
    hub.commit(COSMOPEDIA, {"README.md": COSMOPEDIA_CARD.encode(), "data/stanford/train-0.parquet": parquet([])})
    corpus = open_corpus(f"hf:{COSMOPEDIA}/stanford@{pinned}", hub_endpoint=hub.endpoint)
    assert len(corpus.shards()) == 2
    assert corpus.origin(corpus.shards()[0])["revision"] == pinned


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_reading_fetches_every_byte_once_and_no_more_than_is_asked_for(hub: FakeHub, name: str) -> None:
    """One row group of 40 MB: eight of the file system's blocks."""
    rows = [{"text": os.urandom(500).hex(), "id": str(n), "url": os.urandom(20).hex()} for n in range(40_000)]
    content = parquet(rows) if name.endswith("parquet") else b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    hub.commit("a/b", {name: content})
    corpus = open_corpus("hf:a/b", hub_endpoint=hub.endpoint)
    fingerprint, listed = corpus.shard_fingerprint(name), hub.bytes_served
    assert len(fingerprint) == 32 and listed < 10_000
    documents = corpus.documents(name)
    assert next(documents).text == rows[0]["text"]
    assert hub.bytes_served - listed < 0.5 * len(content)
    assert len(list(documents)) == 39_999
    assert hub.bytes_served - listed < 1.1 * len(content)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["500", "503", "429", "drop", "half"])
@pytest.mark.parametrize("where", ["/revision/", "/tree/", "README.md", "/resolve/"])
def test_a_passing_fault_is_not_noticed(hub: FakeHub, kind: str, where: str) -> None:
    corpus = open_corpus(f"hf:{COSMOPEDIA}/stanford", hub_endpoint=hub.endpoint)
    hub.fail(where, kind, times=2)
    first, second = corpus.shards()
    hub.fail("train-0000", kind, times=2)
    assert texts(corpus.documents(first)) == [f"lesson {n}" for n in range(600)]
    assert texts(corpus.documents(second)) == ["the last lesson"]
    assert [fault.times for fault in hub.faults] == [0, 0]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["500", "drop", "half"])
def test_a_lasting_fault_while_reading_is_no_corrupt_shard(hub: FakeHub, kind: str) -> None:
    corpus, samples = (
        open_corpus(f"hf:{COSMOPEDIA}/stanford", hub_endpoint=hub.endpoint),
        pool(f"hf:{LONGALIGN}", hub.endpoint),
    )
    reads: list[Callable[[], Any]] = [
        lambda: list(corpus.documents(corpus.shards()[0])),
        lambda: list(samples.samples("long.jsonl")),
    ]
    assert corpus.shards() and samples.shards()
    hub.fail("/resolve/" if kind == "500" else "/cdn/", kind, times=1000)
    for read in reads:
        with pytest.raises(
            ConnectionError, match=r"'(HuggingFaceTB/cosmopedia|THUDM/LongAlign-10k)'.*cannot be reached"
        ):
            read()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["/revision/", "/tree/"])
def test_a_hub_that_cannot_be_reached_says_what_to_do(hub: FakeHub, where: str) -> None:
    hub.fail(where, "drop", times=1000)
    with pytest.raises(ConnectionError, match=r"EL_HUB_ENDPOINT.*hf download HuggingFaceTB/cosmopedia.*hf:FOLDER"):
        open_corpus(f"hf:{COSMOPEDIA}/stanford", hub_endpoint=hub.endpoint).shards()


@pytest.mark.usefixtures("impatient")
def test_no_network_at_all_says_what_to_do() -> None:
    with pytest.raises(ConnectionError, match=r"'THUDM/LongAlign-10k' of http://127\.0\.0\.1:9 cannot be reached"):
        pool(f"hf:{LONGALIGN}", "http://127.0.0.1:9").shards()


@pytest.mark.usefixtures("impatient")
def test_a_mirror_is_named_without_its_credentials() -> None:
    endpoint = "http://me:hunter2@127.0.0.1:9"
    with pytest.raises(ConnectionError, match=r"'THUDM/LongAlign-10k' of http://127\.0\.0\.1:9 cannot") as raised:
        pool(f"hf:{LONGALIGN}", endpoint).shards()
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_a_hub_that_is_switched_off_says_what_to_do(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"cannot be reached .*HF_HUB_OFFLINE.*hf download THUDM/LongAlign-10k"):
        pool(f"hf:{LONGALIGN}", hub.endpoint).shards()


def test_a_truncated_file_of_the_repository_is_a_corrupt_shard(hub: FakeHub) -> None:
    name = "data/stanford/train-00000-of-00001.parquet"
    hub.commit(COSMOPEDIA, {"README.md": COSMOPEDIA_CARD.encode(), name: parquet([cosmopedia_row("x" * 500)])[:-20]})
    corpus = open_corpus(f"hf:{COSMOPEDIA}/stanford", hub_endpoint=hub.endpoint)
    with pytest.raises(CorruptShardError, match=r"train-00000-of-00001\.parquet"):
        list(corpus.documents(name))


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("hf:nobody/nothing", r"'nobody/nothing' of .* is not there, or private.*HF_TOKEN"),
        (f"hf:{COSMOPEDIA}/stanford@v9", r"has no revision 'v9'"),
        (f"hf:{COSMOPEDIA}/harvard", r"neither a config nor a folder .* 'harvard'; its configs: stanford, stories"),
        (f"hf:{COSMOPEDIA}", r"has several configs, stanford, stories; name one"),
        (
            f"hf:{COSMOPEDIA}/stanford#test",
            r"no split 'test'; it has train; .* as in hf:HuggingFaceTB/cosmopedia/stanford#",
        ),
    ],
)
def test_what_is_not_there_is_named(hub: FakeHub, uri: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        open_corpus(uri, hub_endpoint=hub.endpoint).shards()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("license: [cc-by-4.0, mit]", "cc-by-4.0, mit"),
        ("license: other\nlicense_name: llama3", "llama3"),
        ("pretty_name: x", ""),
    ],
)
def test_licences_of_cards(tmp_path: Path, header: str, expected: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y", "license": "CC0"}\n')
    corpus = open_corpus(f"hf:{tmp_path}")
    assert [document.license for document in corpus.documents("a.jsonl")] == [expected, "CC0"]


def test_a_sample_without_a_licence_has_its_repositorys(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    texts = '"context": "A", "instruction": "B", "response": "C"'
    (tmp_path / "a.jsonl").write_text(f'{{{texts}}}\n{{{texts}, "license": "CC0"}}\n')
    source = pool(f"hf:{tmp_path}")
    assert [sample.license for sample in source.samples("a.jsonl")] == ["mit", "CC0"]


def test_a_card_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match=r"header of its README\.md cannot be read"):
        open_corpus(f"hf:{tmp_path}").shards()


@pytest.mark.parametrize("key", ["data_files", "data_dir"])
@pytest.mark.parametrize("place", ["/etc", "..", "../x.jsonl", "http://127.0.0.1:9/x.jsonl", "hf://datasets/a/b/c"])
def test_a_card_leads_to_no_file_outside(tmp_path: Path, key: str, place: str) -> None:
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}\n')
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  {key}: '{place}'\n---\n")
    with pytest.raises(ValueError, match="is outside the repository"):
        open_corpus(f"hf:{tmp_path}/set/a").shards()


def test_a_file_that_the_card_names_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: gone.jsonl\n---\n")
    with pytest.raises(FileNotFoundError, match=r"names the file 'gone\.jsonl', which is not there"):
        open_corpus(f"hf:{tmp_path}/a").shards()


def test_scripts_are_not_run_and_other_formats_are_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "set.py").write_text("raise SystemExit('run')")
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(FileNotFoundError, match=r"no Parquet or JSON lines file .*passed over: .*a\.csv"):
        open_corpus(f"hf:{tmp_path}").shards()
