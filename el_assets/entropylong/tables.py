"""The tables of EntropyLong: the columns, the recipe and the pictures of each."""

from collections.abc import Mapping

import polars as pl

from el_assets.entropylong import looks
from el_assets.tables.columns import CHUNK_ID, CONTENT_HASH, POSITIONS, SCORES, TOKENS, Column, TableSchema
from el_assets.tables.description import Drafted, Recipe, Table
from el_resources.models.causal_lm import ModelChoice
from el_resources.sources.mixture import offers_roots

# Name of the end-of-text token in the recipe and settings of sequences; left out if it is the checkpoint's own.
END_OF_TEXT = "end_of_text"
# Part of the recipe of candidates if queries are not the default's.
QUERY_SIDE, AROUND = "query_side", "around"
OWN_TOKEN = "the checkpoint's own end-of-text token"

ROOT_ID = Column(pl.String(), "Root document's id.")
CHUNK_SHARD = Column(pl.String(), "Corpus shard that holds the chunk.")
ANCHOR = Column(pl.Int32(), "Position of the uncertain token in the root, from 0.")

SEGMENT = pl.Struct(
    {
        "kind": pl.String(),
        "doc_id": pl.String(),
        "chunk_id": pl.String(),
        "chunk_shard": pl.String(),
        "source": pl.String(),
        "license": pl.String(),
        "start": pl.Int32(),
        "end": pl.Int32(),
        "cut": pl.Int32(),
        "anchors": POSITIONS,
        "reductions": SCORES,
    }
)

ENTROPY_MAPS: TableSchema = {
    "doc_id": ROOT_ID,
    "content_hash": CONTENT_HASH,
    "token_ids": Column(TOKENS, "Token ids of the root, by the scorer's tokenizer and without BOS."),
    "entropy_nats": Column(SCORES, "Entropy in nats of the distribution that predicts each token."),
    "nll_nats": Column(SCORES, "Negative log-likelihood in nats of each token."),
    "mean_nats": Column(pl.Float64(), "μ: mean entropy of the root's tokens."),
    "std_nats": Column(pl.Float64(), "σ: standard deviation of the entropy of the root's tokens."),
    "threshold_nats": Column(pl.Float64(), "τ = μ + ασ."),
    "anchors": Column(
        POSITIONS,
        "Positions with entropy above τ, ascending; if their number is capped, those with the highest entropy.",
    ),
    "n_above_threshold": Column(pl.Int32(), "Number of positions above τ, before skipping and capping."),
}

CANDIDATE_CONTEXTS: TableSchema = {
    "doc_id": ROOT_ID,
    "anchor": ANCHOR,
    "query_text": Column(pl.String(), "The root's text around or before the anchor, 2w tokens of it."),
    "chunk_id": CHUNK_ID,
    "chunk_shard": CHUNK_SHARD,
    "chunk_hash": Column(pl.String(), "Hash of the chunk's text."),
    "rank": Column(pl.Int32(), "Rank among the anchor's candidates, from 0; null for controls."),
    "similarity": Column(
        pl.Float32(),
        "Cosine (dense), BM25 (full_text) or sum of reciprocal ranks (hybrid) of query and chunk; null for controls.",
    ),
    "is_control": Column(
        pl.Boolean(), "True for a control: a random chunk, scored to measure how often chance passes."
    ),
}

CONTEXT_SCORES: TableSchema = {
    **{name: column for name, column in CANDIDATE_CONTEXTS.items() if name != "query_text"},
    "root_hash": Column(pl.String(), "Hash of the root's tokens."),
    "entropy_before_nats": Column(pl.Float32(), "H: entropy at the anchor without the context."),
    "entropy_after_nats": Column(pl.Float32(), "H': entropy at the anchor with the context in front of the root."),
    "nll_before_nats": Column(pl.Float32(), "NLL of the true token at the anchor without the context."),
    "nll_after_nats": Column(pl.Float32(), "NLL of the true token at the anchor with the context in front."),
    "reduction": Column(pl.Float32(), "ΔI = (H - H') / H, a share of H."),
    "nll_reduction": Column(pl.Float32(), "(NLL - NLL') / NLL, a share of the NLL before."),
}

VERIFIED_PAIRS: TableSchema = {
    "doc_id": ROOT_ID,
    "chunk_id": CHUNK_ID,
    "chunk_shard": CHUNK_SHARD,
    "chunk_hash": Column(pl.String(), "Hash of the chunk's text."),
    "anchors": Column(POSITIONS, "The root's anchors that the context verifies, ascending."),
    "reductions": Column(SCORES, "ΔI at those anchors, shares of H."),
    "nll_reductions": Column(
        SCORES, "Relative fall of the true token's NLL at those anchors, shares of the NLL before."
    ),
    "similarities": Column(
        SCORES, "Similarity of each anchor's query and the chunk: cosine (dense), BM25 (full_text) or reciprocal ranks."
    ),
    "best_reduction": Column(pl.Float32(), "The largest of the reductions, a share of H."),
}

PACKED_SEQUENCES: TableSchema = {
    "sequence_id": Column(pl.String(), "Id of the sequence: its shard and its number there."),
    "token_ids": Column(
        TOKENS, "Exactly L scorer tokens; one attention span: do not mask its documents from each other."
    ),
    "n_tokens": Column(pl.Int32(), "Number of tokens of the sequence."),
    "segments": Column(
        pl.List(SEGMENT),
        "The token spans that make up the sequence, without gaps. Each has its kind (context, root, separator, "
        "end_of_text), document, chunk, source and licence, its place [start, end) in the sequence, the number of "
        "tokens cut from its head, and for contexts the root's anchors that it verifies, with the reductions.",
    ),
}

PACKING_LEFTOVERS: TableSchema = {
    "doc_id": ROOT_ID,
    "reason": Column(
        pl.String(),
        "root_longer_than_sequence (no room for a context), no_verified_context, group_longer_than_sequence, or "
        "no_fitting_group (the rest fills no sequence).",
    ),
    "n_tokens": Column(pl.Int32(), "Number of tokens of the root with its verified contexts and joints."),
}


def _roots(table: Drafted) -> Mapping[str, str]:
    """Return a part of the recipe if the shard's source has no roots."""
    return {} if offers_roots(table.settings.corpus, table.shard) else {"roots": "none"}


def _search(table: Drafted) -> Mapping[str, str]:
    """Return what a search depends on in addition to the recipe's settings: how words are found, where a query ends."""
    ends = {} if table.settings.query_side == AROUND else {QUERY_SIDE: table.settings.query_side}
    return {**_full_text_tokenizer(table), **ends}


def _full_text_tokenizer(table: Drafted) -> Mapping[str, str]:
    """Return the full-text tokenizer if words are searched for."""
    if table.settings.retriever == "dense":
        return {}
    return {"full_text_tokenizer": table.settings.full_text_tokenizer}


def _end_of_text(table: Drafted) -> Mapping[str, str]:
    """Return the end-of-text token if it is not the checkpoint's own."""
    other = ModelChoice.long(table.settings).other_end_of_text()
    return {END_OF_TEXT: other} if other else {}


TABLES = (
    Table(
        name="entropy_maps",
        job="build_sequences",
        columns=ENTROPY_MAPS,
        recipe=Recipe(
            code_version="2",
            inputs=("documents",),
            settings=(
                "alpha",
                "chunk_tokens",
                "max_anchors",
                "root_tokens_max",
                "root_tokens_min",
                "roots_per_shard",
                "seed",
                "separator",
                "skip_tokens",
            ),
            models=("scorer", "tokenizer"),
            is_scored=True,
            source_settings=("corpus",),
            further=_roots,
            words={"roots": lambda was, now: f"roots are {'no longer' if now else 'now'} sampled from it"},
        ),
        seen_columns=("entropy_nats", "anchors", "mean_nats", "threshold_nats"),
        look=looks.entropy_maps,
    ),
    Table(
        name="candidate_contexts",
        job="build_sequences",
        columns=CANDIDATE_CONTEXTS,
        recipe=Recipe(
            code_version="1",
            inputs=("entropy_maps",),
            settings=(
                "candidates_per_anchor",
                "controls_per_root",
                "long_chunks",
                "near_duplicate_containment",
                "query_half_width",
                "retriever",
                "seed",
            ),
            models=("encoder",),
            seen_too=("full_text_tokenizer", "query_side"),
            further=_search,
            shown_parts=(QUERY_SIDE,),
            words={
                "full_text_tokenizer": lambda was, now: f"setting full_text_tokenizer was {was!r}, is {now!r}",
                QUERY_SIDE: lambda was, now: f"setting query_side was {was or AROUND!r}, is {now or AROUND!r}",
            },
        ),
        seen_columns=("doc_id", "anchor", "chunk_id", "rank", "similarity", "is_control"),
        look=looks.candidate_contexts,
    ),
    Table(
        name="context_scores",
        job="build_sequences",
        columns=CONTEXT_SCORES,
        recipe=Recipe(
            code_version="1",
            inputs=("candidate_contexts", "entropy_maps"),
            settings=("separator",),
            models=("scorer",),
            is_scored=True,
        ),
        seen_columns=("is_control", "similarity", "reduction"),
        look=looks.context_scores,
    ),
    Table(
        name="verified_pairs",
        job="build_sequences",
        columns=VERIFIED_PAIRS,
        recipe=Recipe(
            code_version="1",
            inputs=("context_scores",),
            settings=("beats_controls", "criterion", "epsilon", "max_chunk_uses", "seed"),
        ),
        seen_columns=("doc_id",),
        look=looks.verified_pairs,
    ),
    Table(
        name="packed_sequences",
        job="build_sequences",
        columns=PACKED_SEQUENCES,
        recipe=Recipe(
            code_version="2",
            inputs=("verified_pairs", "entropy_maps"),
            settings=("separator", "seed", "sequence_tokens"),
            models=("tokenizer",),
            further=_end_of_text,
            shown_parts=(END_OF_TEXT,),
            words={
                END_OF_TEXT: lambda was, now: f"the token between groups was {was or OWN_TOKEN}, is {now or OWN_TOKEN}"
            },
        ),
        seen_columns=("sequence_id", "segments"),
        look=looks.packed_sequences,
    ),
    Table(name="packing_leftovers", job="build_sequences", columns=PACKING_LEFTOVERS),
)
