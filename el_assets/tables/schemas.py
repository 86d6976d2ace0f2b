"""The tables' columns: the single source of their names, types, units and meaning.

`conform` is called before every write, so that no table can carry a column that is not described here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
import polars as pl

TOKENS = pl.List(pl.Int32())
SCORES = pl.List(pl.Float32())
POSITIONS = pl.List(pl.Int32())

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


@dataclass(frozen=True)
class Column:
    """A column: its polars type and what it means, with the unit."""

    dtype: pl.DataType
    description: str


TableSchema = Mapping[str, Column]

_DOC_ID = Column(pl.String(), "Document's stable id: the source's own, else a hash of the text.")
_ROOT_ID = Column(pl.String(), "Root document's id.")
_CHUNK_ID = Column(pl.String(), "Chunk's id: document, first character and a hash of the text.")
_CHUNK_SHARD = Column(pl.String(), "Corpus shard that holds the chunk.")
_CONTENT_HASH = Column(pl.String(), "Hash of the text, 32 hex digits.")
_ANCHOR = Column(pl.Int32(), "Position of the uncertain token in the root, from 0.")

DOCUMENTS: TableSchema = {
    "doc_id": _DOC_ID,
    "text": Column(pl.String(), "The document's text; empty if it was set aside."),
    "source": Column(pl.String(), "Corpus URI that the document came from."),
    "url": Column(pl.String(), "Address of the original, if the source gives one."),
    "license": Column(pl.String(), "Licence of the text, if the source gives one."),
    "n_chars": Column(pl.Int64(), "Characters of the text as read."),
    "content_hash": _CONTENT_HASH,
    "set_aside_reason": Column(
        pl.String(),
        "Why the document is not used: empty, whitespace, nul, special_tokens, exact_duplicate, or for a row that "
        "cannot be read not_utf8, not_json, not_an_object, no_text, text_not_text, line_too_long, text_too_long; "
        "null if it is used.",
    ),
    "set_aside_detail": Column(pl.String(), "Line or row and what is wrong with it, if the row cannot be read."),
}

CONTEXT_CHUNKS: TableSchema = {
    "chunk_id": _CHUNK_ID,
    "doc_id": _DOC_ID,
    "start_char": Column(pl.Int64(), "First character of the chunk in its document."),
    "end_char": Column(pl.Int64(), "Character after the chunk's last."),
    "text": Column(pl.String(), "The chunk: the document's characters [start_char, end_char)."),
    "n_tokens": Column(pl.Int32(), "Scorer tokens of the chunk by itself."),
    "content_hash": _CONTENT_HASH,
    "vector": Column(SCORES, "Retrieval embedding, unit length (zeros if the chunk has no known token)."),
}

ENTROPY_MAPS: TableSchema = {
    "doc_id": _ROOT_ID,
    "content_hash": _CONTENT_HASH,
    "token_ids": Column(TOKENS, "The root's scorer tokens, without BOS."),
    "entropy_nats": Column(SCORES, "Entropy in nats of the distribution that predicts each token."),
    "nll_nats": Column(SCORES, "Negative log-likelihood in nats of each token."),
    "mean_nats": Column(pl.Float64(), "μ: mean entropy of the root's tokens."),
    "std_nats": Column(pl.Float64(), "σ: standard deviation of the entropy of the root's tokens."),
    "threshold_nats": Column(pl.Float64(), "τ = μ + ασ."),
    "anchors": Column(
        POSITIONS, "Positions with entropy above τ, ascending; the highest ones if their number is capped."
    ),
    "n_above_threshold": Column(pl.Int32(), "Positions above τ before skipping and capping."),
}

CANDIDATE_CONTEXTS: TableSchema = {
    "doc_id": _ROOT_ID,
    "anchor": _ANCHOR,
    "query_text": Column(pl.String(), "The root's text around the anchor, tokens [anchor - w, anchor + w)."),
    "chunk_id": _CHUNK_ID,
    "chunk_shard": _CHUNK_SHARD,
    "chunk_hash": Column(pl.String(), "Hash of the chunk's text."),
    "rank": Column(pl.Int32(), "Rank among the anchor's candidates, from 0; null for controls."),
    "similarity": Column(pl.Float32(), "Cosine (dense) or BM25 (full_text) of query and chunk; null for controls."),
    "is_control": Column(pl.Boolean(), "A random chunk, scored to measure what chance passes."),
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
    "doc_id": _ROOT_ID,
    "chunk_id": _CHUNK_ID,
    "chunk_shard": _CHUNK_SHARD,
    "chunk_hash": Column(pl.String(), "Hash of the chunk's text."),
    "anchors": Column(POSITIONS, "The root's anchors that the context verifies, ascending."),
    "reductions": Column(SCORES, "ΔI at those anchors, shares of H."),
    "nll_reductions": Column(SCORES, "Fall of the true token's NLL at those anchors, shares of the NLL before."),
    "similarities": Column(
        SCORES, "Similarity of each anchor's query and the chunk: cosine (dense) or BM25 (full_text)."
    ),
    "best_reduction": Column(pl.Float32(), "The largest of the reductions, a share of H."),
}

PACKED_SEQUENCES: TableSchema = {
    "sequence_id": Column(pl.String(), "Shard and number of the sequence."),
    "token_ids": Column(
        TOKENS, "Exactly L scorer tokens; one attention span: do not mask its documents from each other."
    ),
    "n_tokens": Column(pl.Int32(), "Tokens of the sequence."),
    "segments": Column(
        pl.List(SEGMENT),
        "What each token span is: kind (context, root, separator, end_of_text), whose text, its source and licence, "
        "[start, end) in the sequence, the tokens cut from its head, and for contexts the root's anchors and "
        "reductions. The spans tile the sequence.",
    ),
}

PACKING_LEFTOVERS: TableSchema = {
    "doc_id": _ROOT_ID,
    "reason": Column(
        pl.String(),
        "root_longer_than_sequence (no room for a context), no_verified_context, group_longer_than_sequence, or "
        "no_fitting_group (the rest fills no sequence).",
    ),
    "n_tokens": Column(pl.Int32(), "Tokens of the root with its verified contexts and joints."),
}

_SAMPLE_ID = Column(pl.String(), "Sample's id: the source's own, else a hash of its texts; without texts, its place.")
_SHARD = Column(pl.String(), "Instruction shard that holds the sample.")

MESSAGE = pl.Struct({"role": pl.String(), "content": pl.String()})
EXCHANGE = pl.Struct({"instruction": pl.String(), "response": pl.String()})

_MESSAGES = Column(
    pl.List(MESSAGE),
    "The whole conversation: every turn with its role and text as they came in, whatever of it is scored. Of a row of "
    "three texts: user (context, blank line, instruction), assistant.",
)
_ORIGINAL = Column(
    pl.String(),
    "The row's conversation as it came in, as JSON with all keys: its list of messages, or its three texts.",
)
_KEPT = Column(pl.String(), "Further columns of the row (keep_columns), as a JSON object; null if none is kept.")

INSTRUCTION_SAMPLES: TableSchema = {
    "sample_id": _SAMPLE_ID,
    "context": Column(pl.String(), "The long context; empty if the sample has none."),
    "instruction": Column(pl.String(), "What is asked."),
    "response": Column(pl.String(), "The response to be learnt."),
    "later_exchanges": Column(
        pl.List(EXCHANGE), "Exchanges after the first that are scored with it (scored_exchange all); else empty."
    ),
    "n_context_tokens": Column(pl.Int32(), "Tokens of the whole context by the long model's tokenizer."),
    "n_instruction_tokens": Column(pl.Int32(), "Tokens of the instruction, or of all that are scored."),
    "n_response_tokens": Column(pl.Int32(), "Tokens of the response, or of all that are scored."),
    "n_turns": Column(pl.Int32(), "Exchanges in the source; `scored_exchange` says which are scored."),
    "messages": _MESSAGES,
    "original": _ORIGINAL,
    "kept_columns": _KEPT,
    "content_hash": Column(pl.String(), "Hash of the conversation's turns, 32 hex digits; null without texts."),
    "evidence": Column(pl.String(), "Embedded pool: where the needed passage is (near, far, absent); null elsewhere."),
    "evidence_distance_tokens": Column(pl.Int32(), "Embedded pool: tokens from the passage's end to the response."),
    "source": Column(pl.String(), "Instruction URI that the sample came from."),
    "license": Column(pl.String(), "Licence of the sample, if the source gives one."),
    "set_aside_reason": Column(pl.String(), "Why the sample is not scored; null if it is."),
    "detail": Column(pl.String(), "What exactly was wrong with a sample that was set aside."),
}

HMG_SCORES: TableSchema = {
    "sample_id": _SAMPLE_ID,
    "nll_short_nats": Column(pl.Float64(), "Mean NLL of the response's tokens in the short-window reading."),
    "nll_long_nats": Column(pl.Float64(), "Mean NLL of the response's tokens in the long-window reading."),
    "n_response_tokens": Column(pl.Int32(), "Tokens that the means are over."),
    "n_context_tokens": Column(pl.Int32(), "Context tokens that the long-window reading had."),
    "n_dropped_context_tokens": Column(pl.Int32(), "Context tokens cut away because of the long model's window."),
    "n_dropped_context_tokens_short": Column(pl.Int32(), "Context tokens that the short-window reading did not have."),
}

CAM_SCORES: TableSchema = {
    "sample_id": _SAMPLE_ID,
    "segment_tokens": Column(pl.List(pl.Int32()), "Tokens of each context segment, in order."),
    "segment_attention": Column(
        SCORES,
        "Attention mass of the response's rows on each segment: mean over heads, rows and the layers whose window "
        "reaches the segment.",
    ),
    "rest_attention": Column(
        pl.Float64(),
        "Mass on BOS, joints, instruction and response, mean over layers; with the segments it sums to 1, if every "
        "layer reaches all of them.",
    ),
    "segment_nll_nats": Column(SCORES, "Mean response NLL with each segment alone as context."),
    "nll_nats": Column(pl.Float64(), "Mean response NLL with the full context, from the attention's pass."),
    "n_dropped_context_tokens": Column(pl.Int32(), "Context tokens cut away because of the model's window."),
}

INFLUENCE_SCORES: TableSchema = {
    "shard": _SHARD,
    "sample_id": _SAMPLE_ID,
    "hmp": Column(pl.Float64(), "HMP = Norm(PPL_short) - Norm(PPL_long) over the pool; high: needs the long window."),
    "cas": Column(
        pl.Float64(),
        "CAS: cosine of importance and attention over the sample's context segments; null with EL_CAM=false.",
    ),
    "score": Column(pl.Float64(), "α·HMP' + (1 - α)·CAS', both brought to one scale over the pool."),
    "rank": Column(pl.Int32(), "Place in the pool by score, from 0."),
}

SELECTED_SUBSETS: TableSchema = {
    "sample_id": _SAMPLE_ID,
    "messages": _MESSAGES,
    "original": _ORIGINAL,
    "kept_columns": _KEPT,
    "score": Column(pl.Float64(), "Influence: α·HMP' + (1 - α)·CAS', both brought to one scale over the pool."),
    "rank": Column(pl.Int32(), "Place in the pool, from 0."),
    "shard": _SHARD,
    "source": Column(pl.String(), "Instruction URI that the sample came from."),
    "license": Column(pl.String(), "Licence of the sample, if the source gives one."),
}

TABLES: dict[str, TableSchema] = {
    "instruction_samples": INSTRUCTION_SAMPLES,
    "hmg_scores": HMG_SCORES,
    "cam_scores": CAM_SCORES,
    "influence_scores": INFLUENCE_SCORES,
    "selected_subsets": SELECTED_SUBSETS,
    "documents": DOCUMENTS,
    "context_chunks": CONTEXT_CHUNKS,
    "entropy_maps": ENTROPY_MAPS,
    "candidate_contexts": CANDIDATE_CONTEXTS,
    "context_scores": CONTEXT_SCORES,
    "verified_pairs": VERIFIED_PAIRS,
    "packed_sequences": PACKED_SEQUENCES,
    "packing_leftovers": PACKING_LEFTOVERS,
}


def polars_schema(table: str) -> pl.Schema:
    """Column types of a table, by name."""
    return pl.Schema({name: column.dtype for name, column in TABLES[table].items()})


def conform(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """The frame in the table's column order and types.

    Raises:
        polars exceptions if a column is missing or cannot be cast without loss.
    """
    assert set(frame.columns) == set(TABLES[table]), (table, set(frame.columns) ^ set(TABLES[table]))
    return frame.select(pl.col(name).cast(column.dtype) for name, column in TABLES[table].items())


def dagster_schema(table: str) -> dg.TableSchema:
    """The table's columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=str(column.dtype), description=column.description)
            for name, column in TABLES[table].items()
        ]
    )
