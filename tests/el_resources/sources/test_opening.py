import os
import shutil
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_resources.sources.opening import open_corpus
from tests.conftest import write_json_lines
from tests.support.written_files import WRITERS, empty_folder, every_format


def is_seen(name: bytes) -> bool:
    """Tell whether a file may have the name without being hidden."""
    return not {0, 47} & set(name) and not name.startswith(b".")


class TestOpening:
    @pytest.mark.parametrize("uri", ["ftp:x", "data/*.parquet", "", "python-docs"])
    def test_an_unknown_scheme_lists_the_known_ones(self, uri: str) -> None:
        with pytest.raises(ValueError, match=r"python-docs:, parquet:, jsonl:, hf:") as raised:
            open_corpus(uri)
        assert repr(uri) in str(raised.value)

    def test_the_embedded_corpus_takes_no_location(self) -> None:
        with pytest.raises(ValueError, match="nothing after the colon"):
            open_corpus("python-docs:json")

    def test_a_text_column_that_is_not_used_is_a_warning(self) -> None:
        with pytest.warns(UserWarning, match="'body' is not used"):
            open_corpus("python-docs:", text_column="body")

    def test_opening_reads_nothing(self, tmp_path: Path) -> None:
        assert open_corpus(f"parquet:{tmp_path}/absent").uri == f"parquet:{tmp_path}/absent"

    @pytest.mark.parametrize(
        ("uri", "complaint"),
        [
            ("parquet:", "names no place"),
            ("jsonl:", "names no place"),
            ("parquet:xyz://bucket/x.parquet", r"'xyz://bucket/x\.parquet' cannot be opened: Protocol not known"),
            ("hf:fineweb-edu", r"names no repository; write hf:OWNER/NAME"),
            ("hf:", r"names no repository"),
            ("hf:a/b@c@d", r"names no repository"),
        ],
    )
    def test_what_is_no_place_is_an_error(self, uri: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            open_corpus(uri).shards()

    @every_format
    @pytest.mark.parametrize("location", ["absent", "absent/*", "", "*.nothing"])
    def test_a_place_without_files_is_named(self, tmp_path: Path, scheme: str, location: str) -> None:
        with pytest.raises(FileNotFoundError) as raised:
            open_corpus(f"{scheme}:{tmp_path}/{location}").shards()
        assert str(tmp_path / location) in str(raised.value)


class TestShards:
    @every_format
    def test_names_are_paths_below_what_was_asked_for(self, tmp_path: Path, scheme: str) -> None:
        for name in ("b", "a", "sub/c"):
            path = tmp_path / f"{name}.{scheme}"
            path.parent.mkdir(exist_ok=True)
            WRITERS[scheme](path, [{"text": name}])
        (tmp_path / "README.md").write_text("not data")
        everything = [f"a.{scheme}", f"b.{scheme}", f"sub/c.{scheme}"]
        assert open_corpus(f"{scheme}:{tmp_path}").shards() == everything
        assert open_corpus(f"{scheme}:{tmp_path}/").shards() == everything
        assert open_corpus(f"{scheme}:{tmp_path}/**/*.{scheme}").shards() == everything
        assert open_corpus(f"{scheme}:{tmp_path}/[ab].{scheme}").shards() == everything[:2]
        assert open_corpus(f"{scheme}:{tmp_path}/s*/*").shards() == everything[2:]
        assert open_corpus(f"{scheme}:{tmp_path}/sub/c.{scheme}").shards() == [f"c.{scheme}"]

    def test_a_relative_path_and_the_home_folder_are_understood(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_json_lines(tmp_path / "a.jsonl", [{"text": "x"}])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert open_corpus("jsonl:.").shards() == ["a.jsonl"]
        assert open_corpus("jsonl:~/*.jsonl").shards() == ["a.jsonl"]

    def test_links_to_files_are_shards_under_the_links_name(self, tmp_path: Path) -> None:
        write_json_lines(tmp_path / "blob", [{"text": "linked"}])
        (tmp_path / "snapshot").mkdir()
        (tmp_path / "snapshot" / "a.jsonl").symlink_to(tmp_path / "blob")
        for location in ("snapshot", "snapshot/a.jsonl", "snapshot/*"):
            corpus = open_corpus(f"jsonl:{tmp_path}/{location}")
            assert corpus.shards() == ["a.jsonl"]
            assert [document.text for document in corpus.documents("a.jsonl")] == ["linked"]

    @pytest.mark.parametrize("shard", ["../secret.jsonl", "a", "/etc/passwd", ""])
    def test_an_unknown_shard_never_becomes_a_path(self, tmp_path: Path, shard: str) -> None:
        write_json_lines(tmp_path / "secret.jsonl", [{"text": "secret"}])
        (tmp_path / "corpus").mkdir()
        write_json_lines(tmp_path / "corpus" / "a.jsonl", [{"text": "x"}])
        corpus = open_corpus(f"jsonl:{tmp_path}/corpus")
        for ask in (corpus.documents, corpus.shard_fingerprint):
            with pytest.raises(ValueError, match=r"has no shard .*; it has 1: a\.jsonl") as raised:
                ask(shard)
            assert repr(shard) in str(raised.value)

    def test_names_that_dagster_refuses_are_escaped(self, tmp_path: Path) -> None:
        names = [b"a...b", b"x....", b"tab\there", b"new\nline", b"100%", b"%0A", b"\xff", "üñí ☃ [x]*?".encode()]
        for name in names:
            write_json_lines(tmp_path / os.fsdecode(name + b".jsonl"), [{"text": "x"}])
        shards = open_corpus(f"jsonl:{tmp_path}").shards()
        assert shards == sorted(
            [
                "a%2E..b.jsonl",
                "x%2E%2E%2E..jsonl",
                "tab%09here.jsonl",
                "new%0Aline.jsonl",
                "100%25.jsonl",
                "%250A.jsonl",
                "%FF.jsonl",
                "üñí ☃ [x]*?.jsonl",
            ]
        )
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions("shards", shards)
            assert sorted(instance.get_dynamic_partitions("shards")) == shards

    @settings(deadline=None)  # files are written, on machines of any load
    @given(st.sets(st.binary(min_size=1, max_size=12).filter(is_seen), max_size=4))
    def test_any_file_name_is_one_shard(self, names: set[bytes]) -> None:
        files = {os.fsdecode(name + b".jsonl") for name in names} | {"one.jsonl"}
        with empty_folder() as folder:
            for file in files:
                write_json_lines(folder / file, [{"text": file.encode("utf-8", "backslashreplace").decode()}])
            corpus = open_corpus(f"jsonl:{folder}")
            assert corpus.shards() == open_corpus(f"jsonl:{folder}/*").shards()
            assert all(shard.encode("utf-8") for shard in corpus.shards())
            read = [document.text for shard in corpus.shards() for document in corpus.documents(shard)]
        assert sorted(read) == sorted(file.encode("utf-8", "backslashreplace").decode() for file in files)


class TestFingerprint:
    @every_format
    def test_it_follows_the_content_not_name_or_time(self, tmp_path: Path, scheme: str) -> None:
        WRITERS[scheme](tmp_path / f"a.{scheme}", [{"text": "one"}])
        shutil.copyfile(tmp_path / f"a.{scheme}", tmp_path / f"b.{scheme}")
        os.utime(tmp_path / f"b.{scheme}", (0, 0))
        WRITERS[scheme](tmp_path / f"c.{scheme}", [{"text": "two"}])
        corpus = open_corpus(f"{scheme}:{tmp_path}")
        first, copy, other = (corpus.shard_fingerprint(shard) for shard in corpus.shards())
        assert first == copy
        assert first != other

    def test_it_follows_a_rewrite_that_the_same_object_sees(self, tmp_path: Path) -> None:
        write_json_lines(tmp_path / "a.jsonl", [{"text": "one"}])
        corpus = open_corpus(f"jsonl:{tmp_path}")
        before = corpus.shard_fingerprint("a.jsonl")
        write_json_lines(tmp_path / "a.jsonl", [{"text": "another"}])
        assert corpus.shard_fingerprint("a.jsonl") != before

    def test_it_follows_the_text_column(self, tmp_path: Path) -> None:
        write_json_lines(tmp_path / "a.jsonl", [{"text": "x", "body": "y"}])
        uri = f"jsonl:{tmp_path}"
        by_column = [open_corpus(uri, text_column=name).shard_fingerprint("a.jsonl") for name in ("", "text", "body")]
        assert by_column[0] == by_column[1] != by_column[2]
