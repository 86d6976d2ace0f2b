import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from el_resources.models.exact_encoding import is_control_form, made_exact
from el_resources.models.model_files import REFERENCE_FOLDER, tokenizer_fingerprint
from el_resources.models.text_splitting import TextSplitter
from el_resources.models.tokenization import ModelTokenizer
from tests.support.made_tokenizers import (
    BYTES,
    CONTROL,
    FAMILIES,
    SENTENCEPIECE_NAMES,
    byte_level,
    qwen_like,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        name: ModelTokenizer.from_folder(write_tokenizer(folder / name, make(), eos))
        for name, (make, eos) in FAMILIES.items()
    }


SPELLING = "".join(f"text {name} and{name}{name} " for name in (*CONTROL, *SENTENCEPIECE_NAMES, "<</s>/s>", BYTES[10]))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_becomes_a_control_token(opened: dict[str, ModelTokenizer], family: str) -> None:
    tokenizer = opened[family]

    for text in (SPELLING, *CONTROL, *SENTENCEPIECE_NAMES, *(f" {name}\n" for name in CONTROL)):
        ids = tokenizer.encode(text)
        assert not set(ids.tolist()) & set(tokenizer.control_tokens.values()), text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("separator", ["\n\n", " ", "", "\n---\n", "</s>", " </s> "])
def test_joined_ids_decode_to_the_joined_texts(opened: dict[str, ModelTokenizer], family: str, separator: str) -> None:
    tokenizer = opened[family]
    texts = ["The end.", "A start", "  led by spaces", "ended by them  ", "\n", "é漢😀", "    four"]
    joint = tokenizer.joint_ids(separator).tolist()

    for before in texts:
        for after in texts:
            ids = [*tokenizer.encode(before), *joint, *tokenizer.encode(after)]
            assert tokenizer.decode(ids) == before + separator + after


@given(texts=st.lists(st.text(alphabet="aB .\n\té漢😀</s>|[]", max_size=30), min_size=1, max_size=4))
def test_ids_in_a_row_are_texts_in_a_row(opened: dict[str, ModelTokenizer], texts: list[str]) -> None:
    for tokenizer in opened.values():
        ids = [int(token) for text in texts for token in tokenizer.encode(text)]
        assert tokenizer.decode(ids) == "".join(texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_are_counted_as_texts_are_encoded(opened: dict[str, ModelTokenizer], family: str) -> None:
    tokenizer = opened[family]
    splitter = TextSplitter(tokenizer.backend, 48, tokenizer.count_batch)

    (spans,) = splitter.split_all([SPELLING])

    assert len(spans) > 5
    for span in spans:
        assert len(tokenizer.encode(SPELLING[span.start_char : span.end_char])) == span.n_tokens <= 48


def test_added_tokens_of_ordinary_text_are_used(opened: dict[str, ModelTokenizer]) -> None:
    tokenizer = opened["qwen"]
    raw = qwen_like()

    assert tokenizer.encode("    <table>").tolist() == [raw.token_to_id(" " * 4), raw.token_to_id("<table>")]
    assert set(tokenizer.control_tokens) == {*CONTROL[:5]}


@pytest.mark.parametrize(
    ("content", "is_control"),
    [
        ("<tool_call>", True),
        ("</think>", True),
        ("<|fim_prefix|>", True),
        ("<|begin of text|>", True),
        ("<｜fim▁hole｜>", True),
        ("｟mask｠", True),
        ("[INST]", True),
        ("▁<PRE>", True),
        ("<s>", True),
        ("<unused7>", True),
        ("<table>", False),
        ("</h1>", False),
        ("    ", False),
        ("\n\n", False),
        ("don't", False),
        ("<a b>", False),
        ("[", False),
        ("a[0]", False),
    ],
)
def test_control_tokens_are_told_by_their_form(content: str, is_control: bool) -> None:
    assert is_control_form(content) == is_control


def test_the_embedded_tokenizer_and_ordinary_byte_level_ones_are_not_changed() -> None:
    for content in (json.loads((REFERENCE_FOLDER / "long" / "tokenizer.json").read_text()), _json(byte_level())):
        changed, changes = made_exact(content)
        assert (changed, changes) == (content, [])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}, "never"),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}, "never"),
        ({"type": "Metaspace", "replacement": "▁"}, "never"),
    ],
)
def test_old_and_new_spellings_of_the_dummy_prefix_are_switched_off(step: dict[str, Any], expected: str) -> None:
    nested = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, step]}
    changed, changes = made_exact({"pre_tokenizer": nested, "decoder": step, "added_tokens": []})

    assert changes == ["pre_tokenizer Metaspace", "decoder Metaspace"]
    assert changed["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"] == expected
    assert changed["decoder"]["prepend_scheme"] == expected
    assert "prepend_scheme" not in nested["pretokenizers"][1] or step["prepend_scheme"] == "first", "the given is kept"


def test_the_fingerprint_says_that_a_tokenizer_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_tokenizer(tmp_path / "plain", byte_level(), "<|endoftext|>")
    changed = write_tokenizer(tmp_path / "changed", qwen_like(), "<|endoftext|>")
    before = tokenizer_fingerprint(plain), tokenizer_fingerprint(changed)

    monkeypatch.setattr("el_resources.models.exact_encoding.VERSION", 99)

    assert tokenizer_fingerprint(plain) == before[0]
    assert tokenizer_fingerprint(changed) != before[1]


def test_a_separator_that_is_not_kept_is_refused_with_its_remedy(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    loaded = ModelTokenizer.from_folder(write_tokenizer(tmp_path, tokenizer, "</s>"))

    with pytest.raises(ValueError, match=r"turns the separator '\\n\\n' between .* into .*; set EL_SEPARATOR"):
        loaded.joint_ids("\n\n")


def test_a_normalizer_cannot_make_a_control_token_of_other_characters(tmp_path: Path) -> None:
    pieces = [*((name, 0.0) for name in SENTENCEPIECE_NAMES), *((sign, -3.0) for sign in "ab</s>")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.decoder = decoders.Fuse()
    loaded = ModelTokenizer.from_folder(write_tokenizer(tmp_path, tokenizer, "</s>"))

    assert loaded.eos_id == 2
    assert loaded.decode(loaded.encode("a＜／s＞b")) == "a</s>b"
    assert 2 not in loaded.encode("a＜／s＞b")
    assert loaded.encode("a?").tolist() == [3, 0], "unknown characters keep their token"


def _json(tokenizer: Tokenizer) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content
