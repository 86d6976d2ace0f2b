"""Files that are no shards are named; one that cannot be opened fails alone, and its fingerprint says so."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.local import LocalFileSystem

from el_resources.sources.contracts import CorpusSource, CorruptShardError
from el_resources.sources.not_shards import in_words
from el_resources.sources.opening import open_corpus
from tests.conftest import write_json_lines

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
HIDDEN = "hidden: the name begins with a dot"
BOOKKEEPING = "written by Spark, Dask or Delta Lake next to data"
NOBODY = 65534


def put(folder: Path, *names: str, text: str = '{"text": "x"}\n') -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


class TestPassedOver:
    OTHERS: ClassVar = (
        "._a.jsonl",
        ".ipynb_checkpoints/a-checkpoint.jsonl",
        ".git/lfs/x.jsonl",
        "sub/.hidden.jsonl",
        "sub/.cache/deep/b.jsonl",
        "_SUCCESS",
        "_committed_123",
        "_delta_log/0.jsonl",
        "sub/_temporary/0/part-0.jsonl",
    )
    SAID: ClassVar = {
        "._a.jsonl": HIDDEN,
        ".ipynb_checkpoints": HIDDEN,
        ".git": HIDDEN,
        "sub/.hidden.jsonl": HIDDEN,
        "sub/.cache": HIDDEN,
        "_SUCCESS": BOOKKEEPING,
        "_committed_123": BOOKKEEPING,
        "_delta_log": BOOKKEEPING,
        "sub/_temporary": BOOKKEEPING,
    }

    @pytest.mark.parametrize("place", ["", "/**", "/**/*"])
    def test_hidden_files_and_bookkeeping(self, tmp_path: Path, place: str) -> None:
        put(tmp_path, "a.jsonl", "sub/b.jsonl", "_data.jsonl", *self.OTHERS)
        corpus = open_corpus(f"jsonl:{tmp_path}{place}")
        assert corpus.shards() == ["_data.jsonl", "a.jsonl", "sub/b.jsonl"]
        assert corpus.passed_over() == self.SAID

    @pytest.mark.parametrize("scheme", ["parquet", "jsonl"])
    def test_pointers_whose_content_was_not_fetched(self, tmp_path: Path, scheme: str) -> None:
        put(tmp_path, f"a.{scheme}", text="x" * 2000)
        put(tmp_path, f"b.{scheme}", text=LFS)
        put(tmp_path, f"c.{scheme}", text="/annex/objects/SHA256E-s9--ab.jsonl\n")
        (tmp_path / f"d.{scheme}").symlink_to("../.git/annex/objects/x/y/SHA256E-s9--ab.jsonl")
        for place in ("", "/*"):
            corpus = open_corpus(f"{scheme}:{tmp_path}{place}")
            assert corpus.shards() == [f"a.{scheme}"]
            assert {name[0]: why.partition(";")[0] for name, why in corpus.passed_over().items()} == {
                "b": "a Git LFS pointer",
                "c": "a git-annex pointer",
                "d": "a git-annex pointer",
            }

    def test_other_names_of_a_folder_are_told_and_those_of_a_glob_are_taken(self, tmp_path: Path) -> None:
        put(tmp_path, "a.jsonl", "a.json", "b.jsonl.lz4")
        corpus = open_corpus(f"jsonl:{tmp_path}")
        assert corpus.shards() == ["a.jsonl"]
        other = "named otherwise than .jsonl or .ndjson, compressed or not"
        assert corpus.passed_over() == {"a.json": other, "b.jsonl.lz4": other}
        assert open_corpus(f"jsonl:{tmp_path}/a*").shards() == ["a.json", "a.jsonl"]

    @pytest.mark.parametrize("name", ["._a.jsonl", "_SUCCESS", ".hidden/a.jsonl", "_delta_log/a.jsonl"])
    def test_a_file_that_is_named_outright_is_taken(self, tmp_path: Path, name: str) -> None:
        put(tmp_path, name)
        corpus = open_corpus(f"jsonl:{tmp_path / name}")
        assert corpus.shards() == [Path(name).name]
        assert len(list(corpus.documents(corpus.shards()[0]))) == 1
        assert corpus.passed_over() == {}

    def test_a_pointer_that_is_named_outright_is_refused_for_what_it_is(self, tmp_path: Path) -> None:
        put(tmp_path, "a.jsonl", text=LFS)
        corpus = open_corpus(f"jsonl:{tmp_path}/a.jsonl")
        with pytest.raises(CorruptShardError, match=r"a\.jsonl: it is a Git LFS pointer; .*`git lfs pull`"):
            list(corpus.documents("a.jsonl"))

    def test_a_pattern_or_root_with_a_dot_means_hidden_files(self, tmp_path: Path) -> None:
        put(tmp_path, ".cache/a.jsonl", ".b.jsonl", "c.jsonl")
        assert open_corpus(f"jsonl:{tmp_path}/.cache").shards() == ["a.jsonl"]
        assert open_corpus(f"jsonl:{tmp_path}/.cache/*.jsonl").shards() == ["a.jsonl"]
        assert open_corpus(f"jsonl:{tmp_path}/.*.jsonl").shards() == [".b.jsonl"]

    def test_a_folder_without_a_shard_says_what_it_holds(self, tmp_path: Path) -> None:
        put(tmp_path, "a.jsonl", "b.jsonl", text=LFS)
        put(tmp_path, ".c.jsonl")
        with pytest.raises(FileNotFoundError, match=r"passed over: 1 hidden.*; 2 a Git LFS pointer; "):
            open_corpus(f"jsonl:{tmp_path}").shards()

    def test_a_local_repository_tells_pointers_and_other_formats(self, tmp_path: Path) -> None:
        put(tmp_path, "train-0.jsonl")
        put(tmp_path, "train-1.jsonl", text=LFS)
        (tmp_path / "train-2.jsonl").symlink_to(".git/annex/objects/x/y/SHA256E-s9--ab.jsonl")
        (tmp_path / "train-3.jsonl").symlink_to("/nowhere")
        corpus = open_corpus(f"hf:{tmp_path}")
        assert corpus.shards() == ["train-0.jsonl"]
        assert {name: why.partition(";")[0] for name, why in corpus.passed_over().items()} == {
            "train-1.jsonl": "a Git LFS pointer",
            "train-2.jsonl": "a git-annex pointer",
            "train-3.jsonl": "a link that leads nowhere",
        }

    def test_a_mixture_tells_those_of_each_source(self, tmp_path: Path) -> None:
        put(tmp_path, "a/x.jsonl", "b/x.jsonl", "b/.y.jsonl")
        assert open_corpus(f"jsonl:{tmp_path}/a + jsonl:{tmp_path}/b").passed_over() == {"b/.y.jsonl": HIDDEN}

    def test_many_are_counted_and_the_first_named(self) -> None:
        others = {f".{number}": HIDDEN for number in range(7)} | {"_SUCCESS": BOOKKEEPING}
        assert in_words(others) == (
            "7 hidden: the name begins with a dot (.0, .1, .2, .3, .4 and 2 more); "
            "1 written by Spark, Dask or Delta Lake next to data (_SUCCESS)"
        )


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, as pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def remove(path: Path) -> None:
    path.unlink()


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def link_in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def close(path: Path) -> None:
    path.chmod(0)


FAULTS: dict[Callable[[Path], None], str] = {
    remove: "it is not there",
    make_a_folder: "it is a folder; name the files in it",
    link_nowhere: "it is not there: .*a link that leads nowhere",
    link_in_a_circle: "it is a link that leads in a circle",
    close: r"it may not be read \(permission denied\)",
}


class TestUnreadable:
    @pytest.mark.parametrize("scheme", ["parquet", "jsonl"])
    @pytest.mark.parametrize("harm", FAULTS)
    def test_the_file_fails_alone(self, scheme: str, harm: Callable[[Path], None]) -> None:
        with open_folder() as folder:
            for name in ("a", "b"):
                write_json_lines(folder / f"{name}.{scheme}", [{"text": name}])
            corpus = open_corpus(f"{scheme}:{folder}")
            before = [corpus.shard_fingerprint(shard) for shard in corpus.shards()]
            harm(folder / f"a.{scheme}")
            with ordinary_user():
                self._fails_alone(corpus, scheme, FAULTS[harm], before)

    @staticmethod
    def _fails_alone(corpus: CorpusSource, scheme: str, words: str, before: list[str]) -> None:
        with pytest.raises(CorruptShardError, match=rf"a\.{scheme}: {words}"):
            list(corpus.documents(f"a.{scheme}"))
        assert corpus.shard_fingerprint(f"a.{scheme}") not in before
        assert corpus.shard_fingerprint(f"a.{scheme}") == corpus.shard_fingerprint(f"a.{scheme}")
        assert corpus.shard_fingerprint(f"b.{scheme}") == before[1]

    @pytest.mark.parametrize("harm", [link_nowhere, link_in_a_circle, close])
    def test_it_is_listed_and_read_once_it_is_there_again(self, harm: Callable[[Path], None]) -> None:
        with open_folder() as folder:
            put(folder, "a.jsonl", "b.jsonl")
            readable = open_corpus(f"jsonl:{folder}").shard_fingerprint("a.jsonl")
            harm(folder / "a.jsonl")
            with ordinary_user():
                for place in (str(folder), f"{folder}/*.jsonl"):
                    corpus = open_corpus(f"jsonl:{place}")
                    assert corpus.shards() == ["a.jsonl", "b.jsonl"]
                    assert corpus.shard_fingerprint("a.jsonl") != readable
            (folder / "a.jsonl").unlink()
            put(folder, "a.jsonl")
            assert open_corpus(f"jsonl:{folder}").shard_fingerprint("a.jsonl") == readable

    def test_a_folder_that_a_glob_takes_for_a_file_fails_and_says_so(self, tmp_path: Path) -> None:
        put(tmp_path, "a.jsonl", "spark.jsonl/part-0.jsonl")
        corpus = open_corpus(f"jsonl:{tmp_path}/*.jsonl")
        assert corpus.shards() == ["a.jsonl", "spark.jsonl"]
        with pytest.raises(CorruptShardError, match=r"spark\.jsonl: it is a folder; name the files in it"):
            list(corpus.documents("spark.jsonl"))
        assert open_corpus(f"jsonl:{tmp_path}").shards() == ["a.jsonl", "spark.jsonl/part-0.jsonl"]

    def test_a_folder_that_may_not_be_listed_is_told(self) -> None:
        with open_folder() as folder:
            put(folder, "a.jsonl", "closed/b.jsonl")
            (folder / "closed").chmod(0)
            with ordinary_user():
                corpus = open_corpus(f"jsonl:{folder}")
                assert corpus.shards() == ["a.jsonl"]
                assert corpus.passed_over() == {"closed": "a folder that may not be listed; grant access to it"}
            (folder / "closed").chmod(0o755)

    def test_a_source_that_went_as_a_whole_stops_everything(self, tmp_path: Path) -> None:
        put(tmp_path, "corpus/a.jsonl", "corpus/b.jsonl")
        corpus = open_corpus(f"jsonl:{tmp_path}/corpus")
        assert corpus.shards() == ["a.jsonl", "b.jsonl"]
        (tmp_path / "corpus").rename(tmp_path / "unmounted")
        for ask in (corpus.shard_fingerprint, lambda shard: list(corpus.documents(shard))):
            with pytest.raises(FileNotFoundError):
                ask("a.jsonl")

    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
    def test_faults_of_disk_and_network_stop_everything(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        put(tmp_path, "a.jsonl")
        corpus = open_corpus(f"jsonl:{tmp_path}")
        assert corpus.shards() == ["a.jsonl"]

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(LocalFileSystem, "_open", fail)
        for ask in (corpus.shard_fingerprint, lambda shard: list(corpus.documents(shard))):
            with pytest.raises(OSError, match=os.strerror(number)) as raised:
                ask("a.jsonl")
            assert raised.value.errno == number
