"""The EntropyLong report over tables with known numbers: what it says of a pair, and how large it becomes."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from el_assets.catalogue import SEQUENCE_TABLES
from el_assets.plots.drawing import svg
from el_assets.reports.entropylong_data import draw, report_data
from el_assets.reports.finished_shards import FinishedShards
from el_assets.reports.page import render
from el_assets.tables.schemas import conform
from el_resources.models.model_files import resolve_model, tokenizer_fingerprint
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import MixedSettingsError, Stamp

RULE = {"epsilon": 0.4, "criterion": "entropy", "beats_controls": True, "max_chunk_uses": 1, "sequence_tokens": 8}
PROSE = "Some words of an <ordinary> chunk & more of them. "


class Store:
    """A store with tables of one shard, filled by hand."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.load({}, store=str(folder))
        self.tables = ShardTables(str(folder))
        self.made_under = {"tokenizer": tokenizer_fingerprint(resolve_model("reference:long")), **RULE}

    def write(self, table: str, rows: list[dict[str, Any]], shard: str = "a", **facts: Any) -> None:
        from el_assets.catalogue import TABLES

        empty = {name: pl.Series(name, [], dtype=column.dtype) for name, column in TABLES[table].columns.items()}
        frame = pl.DataFrame(empty)
        if rows:
            given = pl.DataFrame(rows, infer_schema_length=None)
            missing = [
                pl.lit(None, column.dtype).alias(n) for n, column in TABLES[table].columns.items() if n not in rows[0]
            ]
            frame = given.with_columns(missing)
        facts = {"rows": frame.height, "seconds": 1.0, **facts}
        stamp = Stamp(asset=table, partition=shard, recipe="r", settings=self.made_under, facts=facts)
        self.tables.write(conform(frame, table), stamp)

    def root(self, name: str, n_tokens: int, anchors: list[int]) -> dict[str, Any]:
        entropy = np.full(n_tokens, 2.0)
        entropy[anchors] = 6.0
        return {
            "doc_id": name,
            "content_hash": name,
            "token_ids": [300 + n % 5000 for n in range(n_tokens)],
            "entropy_nats": entropy.tolist(),
            "nll_nats": entropy.tolist(),
            "mean_nats": 2.5,
            "std_nats": 1.0,
            "threshold_nats": 5.0,
            "anchors": anchors,
            "n_above_threshold": len(anchors),
        }

    def fill(self, roots: list[dict[str, Any]], scores: list[dict[str, Any]], kept: list[dict[str, Any]]) -> None:
        n_documents = {"documents_eligible": len(roots), "model": "reference:long"}
        self.write("documents", [{"doc_id": root["doc_id"], "text": "x", "n_chars": 1} for root in roots])
        chunks = {score["chunk_id"] for score in scores}
        self.write("context_chunks", [{"chunk_id": c, "doc_id": "d", "text": PROSE * 8} for c in sorted(chunks)])
        self.write("entropy_maps", roots, **n_documents)
        self.write("candidate_contexts", [])
        self.write("context_scores", scores)
        self.write("verified_pairs", kept)
        self.write("packed_sequences", [])
        self.write("packing_leftovers", [])

    def finished(self, *shards: str) -> FinishedShards:
        return FinishedShards.of(self.tables, shards or ("a",))


def score(root: str, anchor: int, chunk: str, reduction: float, *, is_control: bool = False) -> dict[str, Any]:
    return {
        "doc_id": root,
        "anchor": anchor,
        "chunk_id": chunk,
        "chunk_shard": "a",
        "chunk_hash": chunk,
        "rank": None if is_control else 0,
        "similarity": None if is_control else 0.5,
        "is_control": is_control,
        "entropy_before_nats": 6.0,
        "entropy_after_nats": 6.0 * (1 - reduction),
        "nll_before_nats": 5.0,
        "nll_after_nats": 4.0,
        "reduction": reduction,
        "nll_reduction": 0.2,
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_every_pair_says_which_rule_decided(store: Store) -> None:
    scores = [
        score("one", 3, "good", 0.9),
        score("one", 3, "popular", 0.8),
        score("one", 3, "chance", 0.5),
        score("one", 3, "weak", 0.4),
        score("one", 3, "random", 0.6, is_control=True),
        score("one", 3, "other random", -0.1, is_control=True),
    ]
    # `popular` passes here too, but the cap gave its one use to another root.
    kept = [{"doc_id": "one", "chunk_id": "good", "chunk_shard": "a", "chunk_hash": "good", "anchors": [3]}]
    store.fill([store.root("one", 8, [3, 5])], scores, kept)
    (entry,) = report_data(store.settings, store.finished())["documents"]
    assert entry["n_kept"] == 1
    assert list(entry["tried"]) == ["3"], "nothing was tried at the other anchor"
    found = [(entry["chunks"][chunk][0], rival, verdict) for chunk, *_, rival, verdict in entry["tried"]["3"]["pairs"]]
    assert found == [
        ("good", 0.6, "kept"),
        ("popular", 0.6, "capped"),
        ("chance", 0.6, "beaten"),
        ("weak", 0.6, "below"),
        ("random", -0.1, "random"),
        ("other random", 0.6, "random"),
    ]


def test_a_root_without_anchors_and_a_store_without_sequences_are_reported(store: Store) -> None:
    store.fill([store.root("one", 8, [])], [], [])
    finished = store.finished()
    data = report_data(store.settings, finished)
    assert data["documents"][0]["tried"] == {}
    assert data["sequences"] == []
    assert [row["contexts"] for row in data["grid"]] == [0] * 9
    assert render("r", "entropylong.html", "entropylong.js", data, draw(finished)).count("<svg") == 6


def test_200_documents_stay_under_10_megabytes(store: Store) -> None:
    """Roots and candidates as long as the default profile's are on average; one root beyond every limit."""
    roots = [store.root(f"root {n:03d}", 330, list(range(10, 90, 10))) for n in range(230)]
    scores = [
        score(root["doc_id"], at, f"{root['doc_id']} {(at // 10 * 5 + n) % 45}", 0.1, is_control=n > 7)
        for root in roots
        for at in root["anchors"]
        for n in range(12)
    ]
    roots.append(store.root("beyond", 60_000, list(range(10, 50_000, 10))))
    scores += [score("beyond", at, f"beyond {n}", 0.1) for at in range(10, 5000, 10) for n in range(32)]
    store.fill(roots, scores, [])
    finished = store.finished()
    data = report_data(store.settings, finished)
    page = render("r", "entropylong.html", "entropylong.js", data, draw(finished))
    assert len(data["documents"]) == 200
    assert data["n_roots"] == 231
    assert len(page.encode("utf-8")) < 10_000_000


def test_a_root_beyond_the_limits_shows_its_beginning_and_its_best_anchors(store: Store) -> None:
    root = store.root("long", 60_000, list(range(10, 50_000, 10)))
    scores = [score("long", at, f"chunk {n}", 0.1 + n / 100) for at in range(10, 5000, 10) for n in range(32)]
    store.fill([root], scores, [])
    (entry,) = report_data(store.settings, store.finished())["documents"]
    assert (entry["n_tokens"], len(entry["tokens"]), len(entry["tried"])) == (60_000, 4000, 24)
    detail = entry["tried"]["10"]
    assert (len(detail["pairs"]), detail["hidden"]) == (12, 20)
    assert entry["chunks"][detail["pairs"][0][0]][0] == "chunk 31", "the strongest first"


def test_shards_that_lack_a_table_are_left_out_and_unequal_ones_refused(store: Store) -> None:
    store.fill([store.root("one", 8, [3])], [score("one", 3, "c", 0.1)], [])
    store.write("entropy_maps", [], shard="b")
    assert store.finished("a", "b").shards == ["a"]
    for table in SEQUENCE_TABLES[1:]:
        store.write(table, [], shard="b")
    store.made_under["epsilon"] = 0.2
    store.write("verified_pairs", [], shard="b")
    with pytest.raises(MixedSettingsError, match=r"epsilon is 0\.4 in 'a' and 0\.2 in 'b'"):
        store.finished("a", "b")


def test_figures_are_named(store: Store) -> None:
    from el_assets.plots.entropylong import contexts_per_root

    with pytest.raises(AssertionError, match="<b>"):
        svg(contexts_per_root(pl.DataFrame({"doc_id": ["a"]})), "<b>")
