import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_assets.catalogue import RECIPES
from el_assets.reports.common import (
    MOST_ENTRIES,
    ROLES,
    refuse_torn_chain,
    sampled,
    settings_rows,
    shortened,
    token_texts,
    within_limits,
)
from el_resources.models.model_files import resolve_model
from el_resources.models.tokenization import ModelTokenizer
from el_resources.store.stamps import Stamp

TOKENIZER = ModelTokenizer.from_folder(resolve_model("reference:long"))


@given(st.text(max_size=60))
@settings(deadline=None)
def test_texts_of_tokens_join_to_the_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    texts = token_texts(TOKENIZER, ids.tolist())
    assert len(texts) == len(ids)
    assert "".join(texts) == text


def test_a_character_of_several_tokens_stands_at_the_last_of_them() -> None:
    ids = TOKENIZER.encode("a🦉b")
    texts = token_texts(TOKENIZER, ids.tolist())
    assert texts == ["a", *[""] * (len(ids) - 3), "🦉", "b"]
    assert len(ids) > 3


def test_tokens_that_end_within_a_character_still_show_something() -> None:
    ids = TOKENIZER.encode("🦉")[:-1]
    assert "".join(token_texts(TOKENIZER, ids.tolist())).strip("\ufffd") == ""


def entry(name: str, text: str = "") -> dict[str, object]:
    return {"shard": "s", "id": name, "text": text}


def test_a_reader_holds_200_entries_in_the_order_of_their_names() -> None:
    taken = within_limits((entry(f"{n:04d}") for n in reversed(range(1000))), n_bytes=10**6)
    assert [e["id"] for e in taken] == [f"{n:04d}" for n in range(1000 - MOST_ENTRIES, 1000)]


def test_a_reader_holds_no_more_bytes_than_it_may_as_they_stand_in_the_page() -> None:
    # An escaped sign takes six bytes.
    taken = within_limits((entry(f"{n:04d}", "<" * 1000) for n in range(50)), n_bytes=60_000)
    assert len(taken) == 9


def test_a_reader_holds_one_entry_at_least() -> None:
    assert len(within_limits((entry(str(n), "x" * 1000) for n in range(5)), n_bytes=10)) == 1
    assert within_limits(iter([]), n_bytes=10) == []


def test_a_sample_does_not_depend_on_the_order_of_keys() -> None:
    keys = [("a", str(n)) for n in range(100)]
    shuffled = [keys[n] for n in np.random.default_rng(0).permutation(100)]
    assert sampled(shuffled) == sampled(keys) != keys


def test_a_shortened_text_says_how_much_is_missing() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcdef… (1 more characters)"


def test_tables_that_contradict_each_other_are_named() -> None:
    stamps = [
        Stamp(asset=asset, partition="a", recipe="r", settings=made_under)
        for asset, made_under in (
            ("context_scores", {"alpha": 1.0}),
            ("verified_pairs", {"alpha": 1.0, "epsilon": 0.1}),
            ("packed_sequences", {"alpha": 1.0, "epsilon": 0.4}),
        )
    ]
    refuse_torn_chain(stamps[:2])
    with pytest.raises(ValueError, match=r"shard 'a': epsilon is 0\.1 in verified_pairs and 0\.4 in packed_sequences"):
        refuse_torn_chain(stamps)


def test_what_a_table_was_made_under_is_explained() -> None:
    made_under = {"window": "4096", "encoder": "6da1", "seed": 0, "of_an_older_version": 1}
    assert settings_rows([Stamp(asset="a", partition="p", recipe="r", settings=made_under)]) == [
        ["encoder", '"6da1"', "Fingerprint of the retrieval encoder."],
        ["of_an_older_version", "1", ""],
        ["seed", "0", "Seed of root sampling, controls and shuffles; another seed draws other roots. At least 0."],
        ["window", '"4096"', "Tokens that `scorer` reads at once."],
    ]
    assert set(ROLES) == {role for recipe in RECIPES.values() for role in recipe.models}
