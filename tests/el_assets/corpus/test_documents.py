from hypothesis import given
from hypothesis import strategies as st

from el_assets.corpus.documents import document_facts, documents_table, text_hash, usable
from el_assets.tables.schemas import polars_schema
from el_resources.sources.contracts import SourceDocument

# blake2b with 16 bytes, as `b2sum -l 128` prints it.
HASH_OF_ABC = "cf4ab791c62b8d2b2109c90275287816"


def document(text: str, source_id: str | None = None, reason: str | None = None) -> SourceDocument:
    return SourceDocument(source_id=source_id, text=text, url="u", license="l", set_aside_reason=reason)


def test_a_usable_document_stands_as_it_is() -> None:
    table = documents_table([document("abc", "id 1")], "jsonl:x")
    assert table.schema == polars_schema("documents")
    assert table.row(0) == ("id 1", "abc", "jsonl:x", "u", "l", 3, HASH_OF_ABC, None, None)


def test_documents_that_cannot_serve_stay_with_their_reason_and_without_text() -> None:
    texts = ["", " \n\t\u00a0", "a\0b", "abc", "abc", "abc "]
    table = documents_table([*map(document, texts), document("", reason="not_utf8")], "x")
    reasons = ["empty", "whitespace", "nul", None, "exact_duplicate", None, "not_utf8"]
    assert table["set_aside_reason"].to_list() == reasons
    assert table["text"].to_list() == ["", "", "", "abc", "", "abc ", ""]
    assert table["n_chars"].to_list() == [0, 4, 3, 3, 3, 4, 0]
    assert usable(table.lazy()).collect()["text"].to_list() == ["abc", "abc "]
    assert document_facts(table) == {
        "documents": 2,
        "characters": 7,
        "set_aside": {"empty": 1, "exact_duplicate": 1, "not_utf8": 1, "nul": 1, "whitespace": 1},
    }


def test_a_text_that_was_set_aside_is_no_original() -> None:
    table = documents_table([document("a\0b"), document("a\0b")], "x")
    assert table["set_aside_reason"].to_list() == ["nul", "nul"]


def test_ids_are_the_sources_else_the_texts_hash() -> None:
    table = documents_table([document("abc"), document("x", "7"), document("y", "7"), document("y", "8")], "x")
    assert table["doc_id"].to_list() == [HASH_OF_ABC, "7", f"7#{text_hash('y')[:8]}", "8"]
    assert table["set_aside_reason"].to_list() == [None, None, None, "exact_duplicate"]


@given(
    found=st.lists(
        st.tuples(st.sampled_from(["", "a", "b", " "]), st.sampled_from([None, "1", "2", f"1#{text_hash('a')[:8]}"])),
        max_size=12,
    )
)
def test_ids_are_unique_and_no_document_is_lost(found: list[tuple[str, str | None]]) -> None:
    table = documents_table([document(text, source_id) for text, source_id in found], "x")
    assert table.height == len(found)
    assert table["doc_id"].n_unique() == len(found)
    assert set(usable(table.lazy()).collect()["text"]) == {text for text, _ in found if text.strip()}


def test_an_empty_shard_is_an_empty_table() -> None:
    table = documents_table([], "x")
    assert table.schema == polars_schema("documents")
    assert document_facts(table) == {"documents": 0, "characters": 0, "set_aside": {}}


def test_copies_are_numbered_after_the_second() -> None:
    table = documents_table([document("abc")] * 3 + [document("x", "7")] * 4, "x")
    h, x = HASH_OF_ABC, text_hash("x")[:8]
    assert table["doc_id"].to_list() == [h, f"{h}#{h[:8]}", f"{h}#{h[:8]}-2", "7", f"7#{x}", f"7#{x}-2", f"7#{x}-3"]


def test_a_shard_of_equal_texts_without_ids_takes_no_longer_than_one_of_different_texts() -> None:
    """The ids of 20,000 equal texts once grew to 18 characters each per copy before: hours."""
    table = documents_table([document("same")] * 20_000, "x")
    assert table["doc_id"].n_unique() == 20_000
    assert table["doc_id"].str.len_chars().max() == 47
