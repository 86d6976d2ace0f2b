"""Entries of the report's readers: roots with their anchors and scored pairs, sequences with their segments."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from el_assets.entropylong.selection import judge
from el_assets.reports.common import Key, rounded, sampled, shortened, token_texts, tokenizer_of, within_limits
from el_assets.reports.finished_shards import FinishedShards
from el_resources.models.tokenization import ModelTokenizer
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables

DOCUMENTS_BYTES = 7_000_000
SEQUENCES_BYTES = 1_500_000
DOCUMENT_TOKENS = 4000
ANCHORS_IN_DETAIL = 24
RETRIEVED_PER_ANCHOR = 12
CONTROLS_PER_ANCHOR = 8
CHUNK_CHARACTERS = 1500
SEGMENT_CHARACTERS = 2000
GONE = "(no longer in the corpus)"

Judged = tuple[dict[str, Any], str]  # a row of `judge`'s result, and its verdict
KEPT, BELOW, BEATEN, CAPPED, RANDOM = "kept", "below", "beaten", "capped", "random"


class ChunkTexts:
    """The texts of the chunks that an entry shows, each once; pairs refer to them by number."""

    def __init__(self, tables: ShardTables) -> None:
        self.tables = tables
        self._numbers: dict[Key, int] = {}

    def number(self, shard: str, chunk_id: str) -> int:
        return self._numbers.setdefault((shard, chunk_id), len(self._numbers))

    def listed(self) -> list[list[str]]:
        """Return (id, shard, text) of every numbered chunk, in the order of the numbers."""
        wanted = pl.DataFrame(list(self._numbers), schema={"shard": pl.String, "chunk_id": pl.String}, orient="row")
        texts: dict[Key, str] = {}
        for (shard,), rows in wanted.group_by("shard"):
            if self.tables.has("context_chunks", str(shard)):
                chunks = self.tables.scan("context_chunks", str(shard)).select("chunk_id", "text")
                found = chunks.filter(pl.col("chunk_id").is_in(rows["chunk_id"].to_list())).collect()
                texts.update({(str(shard), chunk_id): text for chunk_id, text in found.iter_rows()})
        return [
            [chunk_id, shard, shortened(texts.get((shard, chunk_id), GONE), CHUNK_CHARACTERS)]
            for shard, chunk_id in self._numbers
        ]


def document_entries(finished: FinishedShards, settings: Settings) -> list[dict[str, Any]]:
    """Return a sample of the roots: tokens with entropy, anchors, and the pairs scored there with their verdicts."""
    tables, shards = finished.tables, finished.shards
    keys = tables.scan_many("entropy_maps", shards).select("shard", "doc_id").collect().iter_rows()
    tokenizer = tokenizer_of(settings, finished.stamps["entropy_maps"][shards[0]])
    judged = judge(finished.scores, finished.rule).with_columns(exceeds=pl.col("value") > finished.rule.epsilon)
    kept = {
        (f"{row['shard']}\0{row['doc_id']}", row["chunk_hash"]): set(row["anchors"])
        for row in finished.pairs.select("shard", "doc_id", "chunk_hash", "anchors").iter_rows(named=True)
    }

    def entries() -> Iterator[dict[str, Any]]:
        for shard, doc_id in sampled(keys):
            texts = ChunkTexts(tables)
            tried = _tried(judged.filter(pl.col("doc_id") == f"{shard}\0{doc_id}"), kept)
            (row,) = tables.scan("entropy_maps", shard).filter(pl.col("doc_id") == doc_id).collect().to_dicts()
            yield {
                "shard": shard,
                **_origin(tables, shard, doc_id),
                **_document(row, tokenizer),
                "n_kept": len({pair["chunk_hash"] for pairs in tried.values() for pair, v in pairs if v == KEPT}),
                "tried": {str(at): _detail(tried[at], texts) for at in _in_detail(tried, row)},
                "chunks": texts.listed(),
            }

    return within_limits(entries(), n_bytes=DOCUMENTS_BYTES)


def _document(row: Mapping[str, Any], tokenizer: ModelTokenizer) -> dict[str, Any]:
    shown = row["token_ids"][:DOCUMENT_TOKENS]
    return {
        "id": row["doc_id"],
        "n_tokens": len(row["token_ids"]),
        "tokens": token_texts(tokenizer, shown),
        "entropy": rounded(row["entropy_nats"][: len(shown)], 2),
        "nll": rounded(row["nll_nats"][: len(shown)], 2),
        **dict(zip(("mean", "std", "threshold"), _statistics(row), strict=True)),
        "n_above": row["n_above_threshold"],
        "anchors": [anchor for anchor in row["anchors"] if anchor < len(shown)],
    }


def _in_detail(tried: Mapping[int, list[Judged]], row: Mapping[str, Any]) -> list[int]:
    """Return the anchors that are shown in detail: those with the most kept contexts, then with the highest entropy."""
    shown = [at for at in tried if at < DOCUMENT_TOKENS]
    n_kept = {at: sum(verdict == KEPT for _, verdict in tried[at]) for at in shown}
    return sorted(sorted(shown, key=lambda at: (-n_kept[at], -row["entropy_nats"][at], at))[:ANCHORS_IN_DETAIL])


def _statistics(row: Mapping[str, Any]) -> list[float | None]:
    return rounded(row[name] for name in ("mean_nats", "std_nats", "threshold_nats"))


def _origin(tables: ShardTables, shard: str, doc_id: str) -> dict[str, str]:
    """Return the source, URL and licence of a document."""
    rows = tables.scan("documents", shard).filter(pl.col("doc_id") == doc_id).select("source", "url", "license")
    found = rows.collect().to_dicts()
    return {name: value or "" for name, value in found[0].items()} if found else {}


def _tried(judged: pl.DataFrame, kept: Mapping[tuple[str, str], set[int]]) -> dict[int, list[Judged]]:
    """Return the pairs of each anchor with their verdicts: retrieved ones before controls, the best of each first.

    Args:
        judged: the pairs of one root.
        kept: the anchors that a context verifies, by root and hash of the context's text.
    """
    found: dict[int, list[Judged]] = {}
    best_first = judged.sort(["anchor", "is_control", "value", "chunk_id"], descending=[False, False, True, False])
    for row in best_first.to_dicts():
        is_kept = row["anchor"] in kept.get((row["doc_id"], row["chunk_hash"]), ())
        found.setdefault(row["anchor"], []).append((row, _verdict(row, is_kept=is_kept)))
    return found


def _detail(pairs: list[Judged], texts: ChunkTexts) -> dict[str, Any]:
    """Return the details of an anchor: the number of kept contexts, and the best pairs of each kind."""
    retrieved = [pair for pair in pairs if pair[1] != RANDOM][:RETRIEVED_PER_ANCHOR]
    controls = [pair for pair in pairs if pair[1] == RANDOM][:CONTROLS_PER_ANCHOR]
    shown = retrieved + controls
    return {
        "kept": sum(verdict == KEPT for _, verdict in pairs),
        "hidden": len(pairs) - len(shown),
        "pairs": [_pair(row, verdict, texts) for row, verdict in shown],
    }


def _verdict(row: Mapping[str, Any], *, is_kept: bool) -> str:
    """Return the verdict on a pair: the part of the keep rule that decided."""
    if row["is_control"]:
        return RANDOM
    if is_kept:
        return KEPT
    if row["passes"]:
        return CAPPED
    return BEATEN if row["exceeds"] else BELOW


def _pair(row: Mapping[str, Any], verdict: str, texts: ChunkTexts) -> list[Any]:
    """Return the fields of a pair, which the page reads by position.

    They are: chunk number, rank, similarity, entropy and NLL (nats) with the chunk in front, reduction of the entropy
    and of the NLL, value of the best (other) control, verdict.
    """
    numbers = (
        "similarity",
        "entropy_after_nats",
        "nll_after_nats",
        "reduction",
        "nll_reduction",
        "rival",
    )
    return [
        texts.number(row["chunk_shard"], row["chunk_id"]),
        row["rank"],
        *rounded(row[name] for name in numbers),
        verdict,
    ]


def sequence_entries(finished: FinishedShards, settings: Settings) -> list[dict[str, Any]]:
    """Return a sample of the sequences, each with the text and the provenance of its segments."""
    tokenizer = tokenizer_of(settings, finished.stamps["packed_sequences"][finished.shards[0]])
    rows = {(row["shard"], row["sequence_id"]): row for row in finished.sequences.iter_rows(named=True)}

    def entries() -> Iterator[dict[str, Any]]:
        for shard, sequence_id in sampled(rows):
            row = rows[shard, sequence_id]
            yield {
                "shard": shard,
                "id": sequence_id,
                "n_tokens": row["n_tokens"],
                "segments": [_segment(segment, row["token_ids"], tokenizer) for segment in row["segments"]],
            }

    return within_limits(entries(), n_bytes=SEQUENCES_BYTES)


def _segment(segment: Mapping[str, Any], token_ids: list[int], tokenizer: ModelTokenizer) -> dict[str, Any]:
    text = tokenizer.decode(token_ids[segment["start"] : segment["end"]])
    given = {name: segment[name] for name in ("doc_id", "chunk_id", "chunk_shard", "anchors") if segment[name]}
    return {
        **{name: segment[name] for name in ("kind", "start", "end", "cut")},
        **given,
        "reductions": rounded(segment["reductions"] or []),
        "text": shortened(text, SEGMENT_CHARACTERS),
    }
