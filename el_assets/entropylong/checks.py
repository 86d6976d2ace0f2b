"""Checks of entropy maps, candidates, verified pairs and packed sequences."""

import math

import dagster as dg
import numpy as np
import polars as pl

from el_assets.corpus.documents import usable
from el_assets.entropylong.assets import (
    candidate_contexts,
    context_scores,
    entropy_maps,
    packed_sequences,
    verified_pairs,
)
from el_assets.entropylong.candidate_search import too_few_candidates
from el_assets.entropylong.diagnosis import why_empty, why_unfilled
from el_assets.entropylong.selection import CRITERIA, KeepRule, judge, over_shards, pass_rates
from el_assets.partitions import registered_shards
from el_assets.tables.finite import OTHER_DTYPE, not_finite
from el_assets.tables.shard_checks import all_shards_check, shard_check
from el_resources.models.causal_lm import ModelChoice
from el_resources.models.tokenization import ModelTokenizer
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import MixedSettingsError

# A chunk that more than this share of the roots keep is probably boilerplate, which helps everywhere.
HUB_SHARE = 0.05
FEWEST_HUB_USES = 5
WARN = dg.AssetCheckSeverity.WARN
# Remedy of checks that fail only if a table was altered or the code is wrong.
ALTERED = (
    "The table was altered after it was written, or the code is wrong: make it again with "
    "`python -m el_assets run --force --shards SHARD`, and report it if it fails again"
)
WITHOUT_ROOTS = "A shard without roots gives no sequences, but its chunks are contexts for others"
WITHOUT_SEQUENCES = "Lower epsilon, or lower sequence_tokens; neither costs a forward"
MORE_CANDIDATES = (
    "Index more documents, raise EL_NEAR_DUPLICATE_CONTAINMENT, or, with EL_RETRIEVER=full_text, set "
    "EL_FULL_TEXT_TOKENIZER to one for the corpus's script"
)
CATCH_UP = "Run the jobs build_index and build_sequences for the shard: the inputs of the table have changed since"


def entropies_are_within_bounds(tables: ShardTables, shard: str) -> list[str]:
    """Every entropy is finite and in [0, ln V]; every NLL is finite and not negative."""
    vocabulary = tables.require_stamp("entropy_maps", shard).facts["vocab_size"]
    maps = tables.read("entropy_maps", shard, ["doc_id", "entropy_nats", "nll_nats"]).explode(
        "entropy_nats", "nll_nats"
    )
    highest = math.log(vocabulary) * (1 + 1e-6)
    fine = (
        pl.col("entropy_nats").is_between(0, highest) & pl.col("nll_nats").is_finite() & (pl.col("nll_nats") >= 0)
    ).fill_null(False)
    return [f"root {doc_id!r} holds a score out of bounds" for doc_id in maps.filter(~fine)["doc_id"].unique().sort()]


def shards_have_roots(tables: ShardTables, shard: str) -> list[str]:
    """Every shard has a root, unless its source offers none; a shard without roots gives no sequences."""
    stamp = tables.require_stamp("entropy_maps", shard)
    unoffered = "source_offers_no_roots" in stamp.facts.get("documents_not_eligible", ())
    return [] if stamp.facts["rows"] or unoffered else [why_empty(tables, stamp)]


def sampled_roots_have_finite_scores(tables: ShardTables, shard: str) -> list[str]:
    """No sampled root had to be set aside because one of its scores is NaN or infinite."""
    return not_finite(tables.require_stamp("entropy_maps", shard).facts, "roots")


def anchors_exceed_their_threshold(tables: ShardTables, shard: str) -> list[str]:
    """The entropy at every anchor is above the root's threshold."""
    maps = tables.read("entropy_maps", shard, ["doc_id", "entropy_nats", "anchors", "threshold_nats"])
    lowest = pl.col("entropy_nats").list.gather(pl.col("anchors")).list.min()
    return [f"root {doc_id!r}" for doc_id in maps.filter(lowest <= pl.col("threshold_nats"))["doc_id"]]


def no_root_retrieves_itself(tables: ShardTables, shard: str) -> list[str]:
    """No candidate or control is a chunk of the root's own document, or has the same text as one."""
    candidates = tables.scan("candidate_contexts", shard).select("doc_id", "chunk_id", "chunk_hash").unique()
    own = tables.scan("context_chunks", shard).select("doc_id", "chunk_id", "content_hash")
    by_id = candidates.join(own, on=["doc_id", "chunk_id"], how="semi")
    by_text = candidates.join(own, left_on=["doc_id", "chunk_hash"], right_on=["doc_id", "content_hash"], how="semi")
    found = pl.concat([by_id, by_text]).unique().sort("doc_id", "chunk_id").collect()
    return [f"root {doc_id!r} has its own chunk {chunk_id!r}" for doc_id, chunk_id, _ in found.iter_rows()]


def anchors_have_candidates(tables: ShardTables, shard: str) -> list[str]:
    """Every anchor has K retrieved candidates; with fewer, less of the corpus is tested there than was asked for."""
    stamp = tables.require_stamp("candidate_contexts", shard)
    few = too_few_candidates(stamp.facts, stamp.settings["candidates_per_anchor"])
    return [few] if few else []


def every_candidate_is_scored(tables: ShardTables, shard: str) -> list[str]:
    """Every candidate and control has finite scores before and after it is added, or is counted as set aside."""
    keys = ["doc_id", "anchor", "chunk_id", "is_control"]
    wanted = tables.read("candidate_contexts", shard, keys)
    scores = tables.read("context_scores", shard)
    numbers = pl.all_horizontal(
        pl.col(name).is_finite().fill_null(False)
        for name in scores.columns
        if name.endswith("_nats") or "reduction" in name
    )
    missing = wanted.join(scores.filter(numbers), on=keys, how="anti")
    if missing.height == tables.require_stamp("context_scores", shard).facts.get("pairs_not_finite", 0):
        return []
    return [
        f"root {doc_id!r}, anchor {anchor}, chunk {chunk_id!r}" for doc_id, anchor, chunk_id, _ in missing.iter_rows()
    ]


def scored_pairs_have_finite_scores(tables: ShardTables, shard: str) -> list[str]:
    """No pair had to be set aside because its score, or that of a control at its anchor, is NaN or infinite."""
    return not_finite(tables.require_stamp("context_scores", shard).facts, "pairs")


def kept_reductions_exceed_epsilon(tables: ShardTables, shard: str) -> list[str]:
    """At every anchor of a kept context the criterion falls by more than epsilon; no root keeps the same text twice."""
    settings = tables.require_stamp("verified_pairs", shard).settings
    kept = tables.read("verified_pairs", shard)
    at_anchors = kept.rename({"reductions": "reduction", "nll_reductions": "nll_reduction"}).explode(
        "reduction", "nll_reduction"
    )
    fails = (CRITERIA[settings["criterion"]] <= settings["epsilon"]).fill_null(True)
    low = at_anchors.filter(fails).unique(["doc_id", "chunk_id"], maintain_order=True)
    twice = kept.filter(pl.struct("doc_id", "chunk_hash").is_duplicated())
    return [
        *(
            f"root {d!r}, chunk {c!r} falls by too little, epsilon or less"
            for d, c in low.select("doc_id", "chunk_id").iter_rows()
        ),
        *(f"root {d!r} keeps {c!r} twice" for d, c in twice.select("doc_id", "chunk_id").iter_rows()),
    ]


@dg.asset_check(asset=verified_pairs, name="verified_contexts_beat_random")
def verified_contexts_beat_random(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
    """Over all shards, retrieved chunks pass more often than random ones: the estimated FDR is below 1.

    Fails if the upper end of the FDR's 95 % interval is 1 or more, or if there is no interval. It is a warning and
    blocks nothing, since a corpus may have nothing that a retriever could find.
    """
    tables = ShardTables(settings.store)
    stamps = tables.stamps("verified_pairs", registered_shards(context.instance))
    try:
        scores = over_shards(tables.scan_many("context_scores", stamps))
    except MixedSettingsError as error:
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error))
    rule = KeepRule(epsilon=settings.epsilon, criterion=settings.criterion, beats_controls=settings.beats_controls)
    rates = pass_rates(judge(scores, rule), seed=settings.seed)
    return dg.AssetCheckResult(
        passed=rates.fdr_interval is not None and rates.fdr_interval[1] < 1,
        severity=dg.AssetCheckSeverity.WARN,
        description="an estimated false-discovery rate below 1, at the upper end of its interval, tells kept contexts "
        "from chance; more roots narrow the interval, a better encoder or a higher epsilon lowers the rate",
        metadata={
            "shards_checked": len(stamps),
            **{name: value for name, value in rates.facts().items() if isinstance(value, float)},
            "estimated_fdr_interval": dg.MetadataValue.json(list(rates.fdr_interval or ())),
            "what_to_do": "If this fails: more roots narrow the interval; a better encoder or a higher epsilon "
            "lowers the FDR",
        },
    )


def no_chunk_is_a_hub(tables: ShardTables, shards: list[str]) -> dict[str, list[str]]:
    """Over all shards, no chunk is kept for more than 5 roots and more than 5 % of the roots that keep any."""
    kept = tables.scan_many("verified_pairs", shards).select("shard", "doc_id", "chunk_hash", "chunk_id").collect()
    limit = max(FEWEST_HUB_USES, HUB_SHARE * kept.select("shard", "doc_id").n_unique())
    uses = kept.group_by("chunk_hash").agg(pl.col("chunk_id").min(), uses=pl.len()).filter(pl.col("uses") > limit)
    ranked = uses.sort(["uses", "chunk_id"], descending=[True, False])
    return {chunk_id: [f"kept for {n} roots"] for _, chunk_id, n in ranked.iter_rows()}


def sequences_are_full(tables: ShardTables, shard: str) -> list[str]:
    """Every sequence has exactly L tokens, and its segments tile it."""
    length = tables.require_stamp("packed_sequences", shard).settings["sequence_tokens"]
    problems = []
    for row in tables.read("packed_sequences", shard).iter_rows(named=True):
        starts = [segment["start"] for segment in row["segments"]]
        ends = [segment["end"] for segment in row["segments"]]
        tiled = starts == [0, *ends[:-1]] and ends[-1] == length
        if not (len(row["token_ids"]) == row["n_tokens"] == length and tiled):
            problems.append(f"sequence {row['sequence_id']!r}")
    return problems


def shards_fill_sequences(tables: ShardTables, shard: str) -> list[str]:
    """Every shard fills at least one sequence, unless its source offers no roots; a failure says what to change."""
    why = why_unfilled(tables, shard)
    return [why] if why else []


def roots_are_whole_and_last(tables: ShardTables, shard: str) -> list[str]:
    """Every group ends with its whole root, and only the first segment of a sequence, a context, may be cut."""
    problems = []
    for sequence_id, segments in tables.read("packed_sequences", shard, ["sequence_id", "segments"]).iter_rows():
        kinds = [segment["kind"] for segment in segments]
        # Find groups' ends.
        ends_of_groups = [i for i, kind in enumerate([*kinds[1:], "end_of_text"]) if kind == "end_of_text"]
        roots = [i for i, kind in enumerate(kinds) if kind == "root"]
        if roots != ends_of_groups or any(segment["cut"] for segment in segments[1:]) or kinds[0] != "context":
            problems.append(f"sequence {sequence_id!r}")
    return problems


def segments_equal_their_text(tables: ShardTables, shard: str, tokenizer: ModelTokenizer) -> list[str]:
    """Every segment's tokens are those of the text that it names, apart from the tokens cut from its head."""
    sequences = tables.read("packed_sequences", shard)
    separator = tables.require_stamp("packed_sequences", shard).settings["separator"]
    named = [s for segments in sequences["segments"] for s in segments if s["kind"] == "context"]
    wanted = pl.DataFrame(
        [(s["chunk_shard"], s["chunk_id"]) for s in named],
        schema={"shard": pl.String, "chunk_id": pl.String},
        orient="row",
    )
    texts = dict(_texts(tables, wanted))
    roots = dict(usable(tables.scan("documents", shard)).select("doc_id", "text").collect().iter_rows())
    problems = []
    for row in sequences.iter_rows(named=True):
        for segment in row["segments"]:
            # Tokenize the text.
            expected = {
                "context": lambda s: tokenizer.encode(texts.get(s["chunk_id"], "")),
                "root": lambda s: tokenizer.encode(roots.get(s["doc_id"], "")),
                "separator": lambda s: tokenizer.encode(separator),
                "end_of_text": lambda s: np.array([tokenizer.eos_id]),
            }[segment["kind"]](segment)
            # Compare the tokens.
            found = row["token_ids"][segment["start"] : segment["end"]]
            if found != expected[segment["cut"] :].tolist():
                problems.append(f"sequence {row['sequence_id']!r}, tokens {segment['start']} to {segment['end']}")
    return problems


def quoted_documents_exist(tables: ShardTables, shards: list[str]) -> dict[str, list[str]]:
    """Every chunk that a sequence quotes is still in the corpus; a shard that quotes a removed one is stale."""
    quoted = (
        tables.scan_many("packed_sequences", shards)
        .select("shard", "segments")
        .explode("segments")
        .unnest("segments")
        .filter(pl.col("kind") == "context")
        .select("shard", "chunk_id", "chunk_shard")
        .unique()
        .collect()
    )
    chunk_shards = [s for s in quoted["chunk_shard"].unique() if s in shards and tables.has("context_chunks", s)]
    ids = [tables.scan("context_chunks", s).select("chunk_id", chunk_shard=pl.lit(s)) for s in chunk_shards]
    gone = quoted.join(pl.concat(ids).collect(), on=["chunk_id", "chunk_shard"], how="anti") if ids else quoted
    return {
        shard: [f"quotes chunks that are gone: {ids}"]
        for shard, ids in gone.group_by("shard").agg("chunk_id").sort("shard").iter_rows()
    }


def _texts(tables: ShardTables, wanted: pl.DataFrame) -> list[tuple[str, str]]:
    found = [
        tables.scan("context_chunks", str(shard))
        .filter(pl.col("chunk_id").is_in(rows["chunk_id"].unique().to_list()))
        .select("chunk_id", "text")
        .collect()
        for (shard,), rows in wanted.group_by("shard")
    ]
    return [row for frame in found for row in frame.iter_rows()]


CHECKS = [
    shard_check(entropy_maps, entropies_are_within_bounds, remedy=OTHER_DTYPE, blocking=True),
    shard_check(entropy_maps, anchors_exceed_their_threshold, remedy=ALTERED, blocking=True),
    shard_check(entropy_maps, shards_have_roots, remedy=WITHOUT_ROOTS, severity=WARN),
    shard_check(entropy_maps, sampled_roots_have_finite_scores, remedy=OTHER_DTYPE, severity=WARN),
    shard_check(candidate_contexts, no_root_retrieves_itself, remedy=CATCH_UP, blocking=True),
    shard_check(candidate_contexts, anchors_have_candidates, remedy=MORE_CANDIDATES, severity=WARN),
    shard_check(context_scores, every_candidate_is_scored, remedy=CATCH_UP, blocking=True),
    shard_check(context_scores, scored_pairs_have_finite_scores, remedy=OTHER_DTYPE, severity=WARN),
    shard_check(verified_pairs, kept_reductions_exceed_epsilon, remedy=ALTERED, blocking=True),
    verified_contexts_beat_random,
    all_shards_check(
        verified_pairs, no_chunk_is_a_hub, remedy="Lower max_chunk_uses, or remove boilerplate from the corpus"
    ),
    shard_check(packed_sequences, sequences_are_full, remedy=ALTERED, blocking=True),
    shard_check(packed_sequences, roots_are_whole_and_last, remedy=ALTERED, blocking=True),
    shard_check(packed_sequences, shards_fill_sequences, remedy=WITHOUT_SEQUENCES, severity=WARN),
    shard_check(
        packed_sequences,
        segments_equal_their_text,
        remedy=CATCH_UP,
        given=lambda settings: ModelChoice.long(settings).tokenizer(),
    ),
    all_shards_check(
        packed_sequences,
        quoted_documents_exist,
        remedy="Materialize retrieval_index, then candidate_contexts to packed_sequences, for the shards named",
    ),
]
