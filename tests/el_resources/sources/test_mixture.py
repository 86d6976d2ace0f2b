"""Several sources as one corpus: the syntax, which documents are taken, and what a shard's fingerprint depends on."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el_resources.sources.contracts import CorpusSource, SourceDocument
from el_resources.sources.mixture import (
    SourceSpec,
    default_name,
    is_mixture,
    is_taken,
    offers_roots,
    parse_mixture,
    part_of_budget,
)
from el_resources.sources.opening import open_corpus

FINEWEB, COSMOPEDIA = "hf:HuggingFaceFW/fineweb-edu/sample-10BT", "hf:HuggingFaceTB/cosmopedia/stanford@v1#train"


class Words:
    """Counts words: a tokenizer whose counts a reader can check."""

    def __init__(self, fingerprint: str = "words") -> None:
        self.fingerprint = fingerprint

    def tokenizer_fingerprint(self) -> str:
        return self.fingerprint

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders of two shards with 500 documents of two words each."""
    for place in ("web", "books"):
        (tmp_path / place).mkdir()
        for shard in ("a", "b"):
            rows = [{"id": f"{place}-{shard}-{n}", "text": f"{place} {n}", "body": "other"} for n in range(500)]
            (tmp_path / place / f"{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def mixed(folder: Path, text: str, counter: Words | None = None) -> CorpusSource:
    return open_corpus(
        text.replace("WEB", f"jsonl:{folder}/web").replace("BOOKS", f"jsonl:{folder}/books"), counter=counter
    )


def ids(corpus: CorpusSource, shard: str) -> list[str | None]:
    return [document.source_id for document in corpus.documents(shard)]


class TestSyntax:
    def test_sources_with_options(self) -> None:
        books = f"{COSMOPEDIA} [name=text-books weight=.4 documents=100_000 roots=no]"
        text = f"{FINEWEB} [weight=0.6 tokens=2e9] +\n  {books}"
        assert parse_mixture(text) == [
            SourceSpec(uri=FINEWEB, name="sample-10BT", weight=0.6, tokens=2_000_000_000),
            SourceSpec(uri=COSMOPEDIA, name="text-books", weight=0.4, documents=100_000, roots=False),
        ]
        assert parse_mixture("jsonl:data [text_column=body]") == [SourceSpec(uri="jsonl:data", text_column="body")]

    @pytest.mark.parametrize(
        "uri", ["jsonl:/data/a+b", "parquet:data/my [ab].parquet", "parquet:data/[ab]", "jsonl:a [b]c"]
    )
    def test_signs_without_a_space_or_inside_belong_to_the_place(self, uri: str) -> None:
        assert parse_mixture(uri) == [SourceSpec(uri=uri)]

    @pytest.mark.parametrize(
        ("text", "specs"),
        [
            (
                '"parquet:/data/a + b [x]" [weight=0.5] + jsonl:/c',
                [
                    SourceSpec(uri="parquet:/data/a + b [x]", name="data", weight=0.5),
                    SourceSpec(uri="jsonl:/c", name="c"),
                ],
            ),
            (
                'jsonl:/c + "jsonl:/a + b" [name=n] + "jsonl:/d [1]"',
                [
                    SourceSpec(uri="jsonl:/c", name="c"),
                    SourceSpec(uri="jsonl:/a + b", name="n"),
                    SourceSpec(uri="jsonl:/d [1]", name="jsonl"),
                ],
            ),
            ('"jsonl:/a + b [roots=no]"', [SourceSpec(uri="jsonl:/a + b [roots=no]")]),
            ('jsonl:/a"b" c', [SourceSpec(uri='jsonl:/a"b" c')]),  # a quote inside is a sign like others
        ],
    )
    def test_quotes_set_a_path_apart(self, text: str, specs: list[SourceSpec]) -> None:
        assert parse_mixture(text) == specs

    @pytest.mark.parametrize("name", ["a + b", "a [x]", "a [roots=no]", "a + jsonl:b [weight=0.5]", "+ [] +", "a +  b"])
    def test_a_path_that_exists_is_taken_as_it_is(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, folder = "x + y [z].jsonl", tmp_path / name
        folder.mkdir(parents=True)
        (folder / file).write_text('{"text": "found"}\n')
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        places = [folder, f"{folder}/", f"{folder}/{file}", f"~/{name}", f"file://{folder}", name]
        for place in [*places, f"{folder}/*.jsonl", f"{folder}/*"]:
            corpus = open_corpus(f"jsonl:{place}")
            assert not is_mixture(f"jsonl:{place}")
            assert offers_roots(f"jsonl:{place}", file)
            assert corpus.shards() == [file]
            assert corpus.shard_fingerprint(file) == open_corpus(f'"jsonl:{place}"').shard_fingerprint(file)

    def test_a_local_repository_may_lie_in_such_a_path(self, tmp_path: Path) -> None:
        repository = tmp_path / "a + b [c]"
        (repository / "stanford").mkdir(parents=True)
        (repository / "README.md").write_text("")
        (repository / "stanford" / "train.jsonl").write_text('{"text": "found"}\n')
        uri = f"hf:{repository}/stanford#train"
        assert parse_mixture(uri) == [SourceSpec(uri=uri)]
        assert open_corpus(uri).shards() == ["stanford/train.jsonl"]

    def test_options_after_an_existing_path_are_options(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        assert parse_mixture(f"jsonl:{tmp_path}/a [roots=no]") == [SourceSpec(uri=f"jsonl:{tmp_path}/a", roots=False)]
        assert len(parse_mixture(f"jsonl:{tmp_path}/a + jsonl:{tmp_path}/b")) == 2

    @pytest.mark.parametrize(
        ("uri", "name"),
        [
            (FINEWEB, "sample-10BT"),
            (COSMOPEDIA, "stanford"),
            ("hf:THUDM/LongAlign-10k", "LongAlign-10k"),
            ("parquet:s3://bucket/prefix/*.parquet", "prefix"),
            ("jsonl:data/x.jsonl", "x.jsonl"),
            ("python-docs:", "python-docs"),
        ],
    )
    def test_a_source_is_named_after_its_place(self, uri: str, name: str) -> None:
        assert default_name(uri) == name

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("jsonl:a [weight=0]", r"weight=0 is not a share"),
            (
                "jsonl:a [weight=3]",
                r"weight=3 is not a share of its documents; write 1 for the source that you",
            ),
            ("jsonl:a [weight=much]", r"weight=much is not a number"),
            ("jsonl:a [weight=nan]", r"weight=nan is not a number"),
            ("jsonl:a [documents=0]", r"documents=0 is not a whole number above 0"),
            ("jsonl:a [tokens=1.5]", r"tokens=1\.5 is not a whole number above 0"),
            ("jsonl:a [roots=maybe]", r"roots=maybe is neither yes nor no"),
            ("jsonl:a [name=a/b]", r"name=a/b may contain only letters"),
            ("jsonl:a [wieght=1]", r"option 'wieght=1' is not one of name=…, weight=…"),
            ("jsonl:a [weight=1 weight=1]", r"option 'weight=1' is not one of"),
            ("jsonl:a [weight]", r"option 'weight' is not one of"),
            ("jsonl:x/a + parquet:y/a", r"two sources of corpus .* are named 'a'; tell them apart by \[name=…\]"),
            ("jsonl:a + ", r"a corpus source is empty"),
            ('"jsonl:a + jsonl:b', r"begins with a double quote; put the closing one after the path"),
            ('"jsonl:a"b', r"begins with a double quote; put the closing one after the path"),
            ('"jsonl:a" [wieght=1]', r"option 'wieght=1' is not one of name=…, weight=…"),
            ('"" + jsonl:b', r"a corpus source is empty"),
            ("jsonl:/nowhere/a + b", r"'b' has no known scheme.*put scheme and path in double quotes"),
            ("jsonl:a + nothing:b", r"'nothing:b' has no known scheme"),
        ],
    )
    def test_bad_input_is_named(self, text: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            open_corpus(text)

    def test_a_budget_of_tokens_needs_something_to_count_by(self) -> None:
        with pytest.raises(ValueError, match=r"'jsonl:a' has a budget of tokens"):
            open_corpus("jsonl:a [tokens=5]")


class TestShards:
    def test_names_are_those_of_source_and_file(self, folder: Path) -> None:
        corpus = mixed(folder, "WEB + BOOKS [name=b.1]")
        assert corpus.shards() == ["web/a.jsonl", "web/b.jsonl", "b.1/a.jsonl", "b.1/b.jsonl"]
        assert mixed(folder, "WEB [weight=0.5]").shards() == ["a.jsonl", "b.jsonl"]
        assert corpus.origin("b.1/a.jsonl") == {"source": f"jsonl:{folder}/books", "file": f"{folder}/books/a.jsonl"}
        with pytest.raises(ValueError, match=r"has no shard 'a\.jsonl'; it has 4"):
            corpus.documents("a.jsonl")

    def test_a_text_column_of_its_own(self, folder: Path) -> None:
        (document, *_) = mixed(folder, "WEB + BOOKS [text_column=body]").documents("books/a.jsonl")
        assert document.text == "other"


class TestWeights:
    def test_a_share_of_the_documents_is_taken_in_stored_order(self, folder: Path) -> None:
        everything = ids(mixed(folder, "WEB"), "a.jsonl")
        some = ids(mixed(folder, "WEB [weight=0.4] + BOOKS"), "web/a.jsonl")
        assert some == [name for name in everything if name in set(some)]
        assert len(some) == pytest.approx(200, abs=40)  # 4 standard deviations of a binomial
        assert len(ids(mixed(folder, "WEB [weight=0.4] + BOOKS"), "books/a.jsonl")) == 500

    @given(key=st.text(min_size=1), one=st.floats(0.01, 1), other=st.floats(0.01, 1))
    def test_a_greater_weight_keeps_what_a_smaller_one_kept(self, key: str, one: float, other: float) -> None:
        document = SourceDocument(source_id=key.encode("utf-8", "replace").decode(), text="")
        small, great = sorted((one, other))
        assert is_taken(document, great) or not is_taken(document, small)

    def test_a_shard_depends_on_no_other_shard_or_source(self, folder: Path) -> None:
        corpus = mixed(folder, "WEB [weight=0.4] + BOOKS")
        before = ids(corpus, "web/a.jsonl"), corpus.shard_fingerprint("web/a.jsonl")
        (folder / "web" / "b.jsonl").unlink()
        (folder / "web" / "c.jsonl").write_text('{"text": "new"}\n')
        after = mixed(folder, "WEB [weight=0.4] + BOOKS [weight=0.1 documents=3 name=x]")
        assert (ids(after, "web/a.jsonl"), after.shard_fingerprint("web/a.jsonl")) == before


class TestBudgets:
    def test_documents_are_dealt_over_the_shards(self, folder: Path) -> None:
        corpus = mixed(folder, "WEB [documents=7] + BOOKS [documents=1]")
        taken = [len(ids(corpus, shard)) for shard in corpus.shards()]
        assert taken == [4, 3, 1, 0]
        assert ids(corpus, "web/b.jsonl") == ["web-b-0", "web-b-1", "web-b-2"]

    def test_tokens_end_before_the_document_that_would_pass_them(self, folder: Path) -> None:
        corpus = mixed(folder, "WEB [tokens=11] + BOOKS", Words())
        assert [len(ids(corpus, shard)) for shard in corpus.shards()] == [3, 2, 500, 500]

    def test_a_budget_counts_what_the_weight_takes(self, folder: Path) -> None:
        weighed = ids(mixed(folder, "WEB [weight=0.4] + BOOKS"), "web/a.jsonl")
        both = ids(mixed(folder, "WEB [weight=0.4 documents=20] + BOOKS"), "web/a.jsonl")
        assert both == weighed[:10]

    @given(budget=st.integers(1, 10_000), n_shards=st.integers(1, 50))
    def test_the_parts_sum_up_to_the_budget(self, budget: int, n_shards: int) -> None:
        parts = [part_of_budget(budget, number, n_shards) for number in range(n_shards)]
        assert sum(part for part in parts if part is not None) == budget
        assert max(parts) - min(parts) <= 1  # type: ignore[type-var,operator]


class TestFingerprints:
    def test_they_follow_weight_budget_and_what_tokens_are_counted_with(self, folder: Path) -> None:
        texts = [
            "WEB",
            "WEB [weight=0.5]",
            "WEB [weight=0.6]",
            "WEB [documents=8]",
            "WEB [documents=10]",
            "WEB [tokens=8]",
        ]
        found = [mixed(folder, text, Words()).shard_fingerprint("a.jsonl") for text in texts]
        found.append(mixed(folder, "WEB [tokens=8]", Words("others")).shard_fingerprint("a.jsonl"))
        assert len(set(found)) == len(found)

    def test_names_and_roots_are_no_part_of_them(self, folder: Path) -> None:
        plain = mixed(folder, "WEB").shard_fingerprint("a.jsonl")
        assert mixed(folder, "WEB [name=x roots=no]").shard_fingerprint("x/a.jsonl") == plain
        assert mixed(folder, "WEB + BOOKS").shard_fingerprint("web/a.jsonl") == plain


@pytest.mark.parametrize(
    ("corpus", "shard", "expected"),
    [
        ("jsonl:a", "x", True),
        ("jsonl:a [roots=no]", "x", False),
        ("jsonl:a [roots=no name=n]", "n/x", False),
        ("jsonl:a + jsonl:b [roots=no]", "a/b", True),
        ("jsonl:a + jsonl:b [roots=no]", "b/a", False),
        ("jsonl:a + jsonl:b [roots=no]", "bb/a", True),
    ],
)
def test_roots_come_from_the_sources_that_offer_them(corpus: str, shard: str, expected: bool) -> None:
    assert offers_roots(corpus, shard) == expected
