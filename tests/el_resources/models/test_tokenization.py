"""Ids are those of the text and nothing else; BOS and end-of-text are found wherever a model states them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.models.placed_tokens import PlacedTokens
from el_resources.models.tokenization import ModelTokenizer, _SlowCodec

REFERENCE = ModelTokenizer.from_folder(REFERENCE_FOLDER / "long")


def byte_level() -> Tokenizer:
    """Letters, BOS <s> = 0 and end-of-text </s> = 1; a = 2, b = 3, the signs of `</s>` and a space after them."""
    vocabulary = {sign: number for number, sign in enumerate(["<s>", "</s>", *"ab</s>Ġ"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return tokenizer


def write_folder(
    folder: Path,
    tokenizer: Tokenizer,
    settings: dict[str, object] | None = None,
    config: dict[str, object] | None = None,
) -> Path:
    """A folder with a tokenizer and what states its special tokens."""
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(config or {}))
    return folder


def test_the_reference_tokenizer() -> None:
    assert (REFERENCE.vocab_size, REFERENCE.bos_id, REFERENCE.eos_id, REFERENCE.has_bos) == (8192, 0, 0, True)
    assert REFERENCE.encode("a").dtype == np.int32
    assert REFERENCE.encode("").tolist() == []
    assert REFERENCE.encode("!!").tolist() == REFERENCE.encode_batch(["", "!!"])[1].tolist()
    assert REFERENCE.decode([0, *REFERENCE.encode(" a  , b .")]) == "<|endoftext|> a  , b ."


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_byte_level_ids_decode_to_their_text(texts: list[str]) -> None:
    batch = REFERENCE.encode_batch(texts)
    assert [REFERENCE.decode(ids) for ids in batch] == texts
    assert [ids.tolist() for ids in batch] == [REFERENCE.encode(text).tolist() for text in texts]


def test_text_that_spells_a_special_token_stays_text() -> None:
    text = "Documents end with <|endoftext|>, as in GPT-2.<|endoftext|>"
    ids = REFERENCE.encode(text)
    assert REFERENCE.eos_id not in ids
    assert REFERENCE.decode(ids) == text


def test_a_unigram_vocabulary_gives_no_special_token_away(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((sign, -3.0) for sign in "▁ab</s>")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    loaded = ModelTokenizer.from_folder(write_folder(tmp_path, tokenizer, {"eos_token": "</s>"}))
    ids = loaded.encode("a </s></s> b")
    assert loaded.eos_id == 1
    assert 1 not in ids
    assert loaded.decode(ids) == "a </s></s> b"


def test_saved_truncation_padding_and_templates_do_not_apply(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    loaded = ModelTokenizer.from_folder(write_folder(tmp_path, tokenizer, {"eos_token": "</s>"}))
    assert loaded.encode("abba").tolist() == [2, 3, 3, 2]


@pytest.mark.parametrize(
    ("settings", "config", "bos_id", "has_bos", "eos_id"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, {}, 0, True, 1),
        ({"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}}, {}, 0, True, 1),
        (None, {"bos_token_id": 0, "eos_token_id": 1}, 0, True, 1),
        (None, {"text_config": {"bos_token_id": 0, "eos_token_id": [1, 3]}}, 0, True, 1),
        ({"eos_token": "</s>"}, {}, 1, False, 1),
        ({"bos_token": None, "eos_token": "</s>"}, {}, 1, False, 1),
        ({"bos_token": None, "eos_token": "a"}, {"bos_token_id": 1}, 1, False, 2),
    ],
    ids=["strings", "mappings", "config", "nested, several", "no BOS", "null BOS", "Qwen chat"],
)
def test_bos_and_end_of_text(
    tmp_path: Path,
    settings: dict[str, object] | None,
    config: dict[str, object],
    bos_id: int,
    has_bos: bool,
    eos_id: int,
) -> None:
    loaded = ModelTokenizer.from_folder(write_folder(tmp_path, byte_level(), settings, config))
    assert (loaded.bos_id, loaded.has_bos, loaded.eos_id) == (bos_id, has_bos, eos_id)


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names no end-of-text token; set eos_token"):
        ModelTokenizer.from_folder(write_folder(tmp_path, byte_level()))


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        ModelTokenizer.from_folder(tmp_path)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text 1 holds '\\ud800' at 2, which UTF-8 cannot"):
        REFERENCE.encode_batch(["good", "é \ud800"])


def test_older_files_are_read_through_transformers(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.model.save(str(tmp_path))  # vocab.json and merges.txt
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **names}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    loaded = ModelTokenizer.from_folder(tmp_path)
    assert (loaded.vocab_size, loaded.bos_id, loaded.eos_id) == (9, 0, 1)
    assert loaded.encode("ab ba").tolist() == [2, 3, 8, 3, 2]
    assert loaded.encode("a</s>").tolist() == [2, 4, 5, 6, 7]
    assert loaded.decode([0, 2, 8, 8, 3, 1]) == "<s>a  b</s>"


class WordsOnly:
    """Stands for a model's own tokenizer in Python: words by number, spaces dropped, added tokens as they are named."""

    name_or_path = "own"
    words = ("<|end|>", "<tool>", "  ", "one", "two", "<", ">", "|", "/", "end", "tool")
    all_special_tokens, all_special_ids, unk_token = ("<|end|>",), (0,), None
    added_tokens_decoder = {  # noqa: RUF012
        0: AddedToken("<|end|>", special=True),
        1: AddedToken("<tool>", special=False),
        2: AddedToken("  ", special=False),
    }

    def __call__(self, text: str, *, split_special_tokens: bool, **_: object) -> dict[str, list[int]]:
        assert split_special_tokens, "no added token is looked for"
        return {"input_ids": [self.words.index(word) for word in re.findall(r"\w+|[<>|/]", text)]}

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(self.words[number] for number in ids)


def test_a_tokenizer_in_python_uses_added_text_and_gives_no_control_token_away() -> None:
    codec = _SlowCodec(WordsOnly())
    tokenizer = ModelTokenizer(codec, origin="own", placed=PlacedTokens(0, True, 0, 0, 0))

    assert set(tokenizer.control_tokens) == {"<|end|>", "<tool>"}
    assert tokenizer.encode("one  two<tool><|end|>").tolist() == [3, 2, 4, 5, 10, 6, 5, 7, 9, 7, 6]
    assert tokenizer.count_batch(["one  two", ""]) == [3, 0]
    with pytest.raises(ValueError, match="save the model's fast tokenizer"):
        _ = tokenizer.backend


def test_old_llama_files_have_no_dummy_prefix_either(tmp_path: Path) -> None:
    """vocab.json and merges.txt with `add_prefix_space`, which transformers turns into a tokenizer of its own."""
    tokenizer = byte_level()
    tokenizer.model.save(str(tmp_path))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>", "add_prefix_space": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **names}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))

    assert ModelTokenizer.from_folder(tmp_path).encode("ab").tolist() == [2, 3]
