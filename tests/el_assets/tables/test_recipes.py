"""Tables that a change makes stale: small tables with real stamps, real fingerprints of real models and files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from el_assets.catalogue import RECIPES
from el_assets.tables.model_roles import OtherModelError
from el_assets.tables.recipes import Cookbook
from el_assets.tables.schemas import polars_schema
from el_resources.models.model_files import resolve_model
from el_resources.settings import Settings
from el_resources.sources.opening import open_corpus
from el_resources.store.shard_tables import MissingTableError, ShardTables

SHARD = "a.jsonl"
FROM_MAPS = ["entropy_maps", "candidate_contexts", "context_scores", "verified_pairs", "packed_sequences"]
FROM_CANDIDATES, FROM_PAIRS = FROM_MAPS[1:], FROM_MAPS[3:]
ALL = ["documents", "context_chunks", *FROM_MAPS]


class Shop:
    """A corpus of one shard and its tables; `run` does what a run does, apart from the tables' content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {"store": str(folder / "store"), "corpus": f"jsonl:{folder / 'corpus'}"}
        self.tables = ShardTables(self.settings["store"])
        (folder / "corpus").mkdir()
        self.write_document("some text")

    def write_document(self, text: str) -> None:
        (self.folder / "corpus" / SHARD).write_text(json.dumps({"id": "1", "text": text}) + "\n")

    def cookbook(self, **changes: Any) -> Cookbook:
        settings = Settings.load({}, **{**self.settings, **changes})
        return Cookbook(settings, self.tables, open_corpus(settings.corpus))

    def run(self, *, index_tag: str = "t1", **changes: Any) -> list[str]:
        """Remakes what is stale, in order, and says what that was."""
        cookbook, redone = self.cookbook(**changes), []
        for asset in ALL:
            stored, stamp = self.tables.stamp(asset, SHARD), cookbook.draft(asset, SHARD)
            if stored is not None and stored.recipe == stamp.recipe:
                continue
            if asset == "candidate_contexts":
                stamp = replace(stamp, pinned={"index_tag": index_tag})
            self.tables.write(pl.DataFrame(schema=polars_schema(asset)), stamp)
            redone.append(asset)
        return redone


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    assert shop.run() == ALL
    return shop


@pytest.fixture
def other_encoder(tmp_path: Path) -> str:
    """Another encoder, as far as fingerprints go: a folder with some bytes."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"other weights")
    return f"sentence-transformers:{folder}"


def test_nothing_is_stale_after_a_run(shop: Shop) -> None:
    assert shop.run() == []


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"alpha": 1.25}, FROM_MAPS),
        ({"max_anchors": 31}, FROM_MAPS),
        ({"roots_per_shard": 31}, FROM_MAPS),
        ({"candidates_per_anchor": 31}, FROM_CANDIDATES),
        ({"controls_per_root": 31}, FROM_CANDIDATES),
        ({"query_half_width": 31}, FROM_CANDIDATES),
        ({"epsilon": 0.31}, FROM_PAIRS),
        ({"criterion": "nll"}, FROM_PAIRS),
        ({"beats_controls": False}, FROM_PAIRS),
        ({"chunk_tokens": 31}, ["context_chunks", *FROM_MAPS]),
        ({"text_column": "body"}, ALL),
        # Another model with the same tokenizer: other scores, the same chunks.
        ({"long_model": "reference:short"}, FROM_MAPS),
        ({"dtype": "bfloat16"}, FROM_MAPS),
        # What neither scores nor chunks depend on.
        ({"device": "cpu", "force": True, "exact_search_rows": 5, "short_model": "reference:long"}, []),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_change_makes_stale_what_depends_on_it_and_no_more(
    shop: Shop, changes: dict[str, Any], stale: list[str]
) -> None:
    assert shop.run(**changes) == stale
    assert shop.run(**changes) == []


def test_another_encoder_makes_vectors_and_candidates_stale_not_entropies(shop: Shop, other_encoder: str) -> None:
    assert shop.run(encoder=other_encoder) == ["context_chunks", *FROM_CANDIDATES]


def test_going_back_to_a_setting_is_a_change_too(shop: Shop) -> None:
    shop.run(epsilon=0.31)
    assert shop.run() == FROM_PAIRS


def test_a_changed_document_makes_all_tables_of_its_shard_stale(shop: Shop) -> None:
    shop.write_document("other text")
    assert shop.run() == ALL


def test_a_newer_index_makes_nothing_stale_until_candidates_are_made_from_it(shop: Shop) -> None:
    assert shop.run(index_tag="t2") == []
    shop.tables.remove("candidate_contexts", SHARD)
    assert shop.run(index_tag="t2") == FROM_CANDIDATES


def test_a_raised_code_version_makes_stale(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "verified_pairs", replace(RECIPES["verified_pairs"], code_version="next"))
    assert shop.run() == FROM_PAIRS


def test_a_stamp_names_every_setting_and_model_behind_it(shop: Shop) -> None:
    settings = shop.tables.require_stamp("packed_sequences", SHARD).settings
    of_recipes = {name for asset in ALL for name in RECIPES[asset].settings}
    assert set(settings) == of_recipes | {"scorer", "tokenizer", "encoder"}
    assert settings["chunk_tokens"] == shop.cookbook().settings.chunk_tokens


def test_a_table_without_its_input_says_which(shop: Shop) -> None:
    shop.tables.remove("context_scores", SHARD)
    with pytest.raises(MissingTableError, match=r"'context_scores' has no partition 'a\.jsonl'"):
        shop.cookbook().draft("verified_pairs", SHARD)
    assert shop.run()[0] == "context_scores"


@pytest.mark.parametrize("asset", ["context_scores", "packed_sequences"])
def test_two_models_are_not_mixed(shop: Shop, asset: str, tmp_path: Path) -> None:
    """A table by itself, under another model than the tables that it reads."""
    changes = {"long_model": str(other_vocabulary(tmp_path))}
    with pytest.raises(OtherModelError, match=f"{asset} of shard 'a.jsonl' would mix two models.*restore the model"):
        shop.cookbook(**changes).draft(asset, SHARD)
    assert shop.run(**changes) == ["context_chunks", *FROM_MAPS]


def other_vocabulary(folder: Path) -> Path:
    """The reference model with a tokenizer file that differs."""
    copy = folder / "model"
    shutil.copytree(resolve_model("reference:long", None), copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "NFC"}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    return copy
