"""The tables of GATEAU: the columns, the recipe and the pictures of each."""

from collections.abc import Mapping

import polars as pl

from el_assets.gateau import looks
from el_assets.parts import FRACTIONS
from el_assets.tables.columns import SCORES, Column, TableSchema
from el_assets.tables.description import LONG_MODEL, ROW_BOUNDS, SHORT_MODEL, Drafted, Recipe, Table
from el_resources.models.attention_kinds import mixes_windows
from el_resources.models.causal_lm import ModelChoice

LAYERS = "attention_layers"

SAMPLE_ID = Column(pl.String(), "Sample's id: the source's own, else a hash of its texts; without texts, its number.")

SHARD = Column(pl.String(), "Instruction shard that holds the sample.")

MESSAGE = pl.Struct({"role": pl.String(), "content": pl.String()})
EXCHANGE = pl.Struct({"instruction": pl.String(), "response": pl.String()})

MESSAGES = Column(
    pl.List(MESSAGE),
    "The whole conversation: every turn with its role and text, unchanged, also turns that are not scored. A row of "
    "three texts becomes two turns: user (context, blank line, instruction) and assistant.",
)
ORIGINAL = Column(
    pl.String(),
    "The row's conversation, unchanged, as JSON with all keys: its list of messages, or its three texts.",
)
KEPT = Column(pl.String(), "Columns of the row that keep_columns names, as a JSON object; null if it names none.")

INSTRUCTION_SAMPLES: TableSchema = {
    "sample_id": SAMPLE_ID,
    "context": Column(pl.String(), "The long context; empty if the sample has none."),
    "instruction": Column(pl.String(), "The instruction: the question or task."),
    "response": Column(pl.String(), "The response that a model trained on the sample learns."),
    "later_exchanges": Column(
        pl.List(EXCHANGE), "Later exchanges that are scored too (scored_exchange all); else empty."
    ),
    "n_context_tokens": Column(pl.Int32(), "Number of tokens of the whole context, by the long model's tokenizer."),
    "n_instruction_tokens": Column(
        pl.Int32(), "Number of tokens of the instruction, or of all instructions that are scored."
    ),
    "n_response_tokens": Column(pl.Int32(), "Number of tokens of the response, or of all responses that are scored."),
    "n_turns": Column(pl.Int32(), "Number of exchanges of the conversation; `scored_exchange` says which are scored."),
    "messages": MESSAGES,
    "original": ORIGINAL,
    "kept_columns": KEPT,
    "content_hash": Column(pl.String(), "Hash of the conversation's turns, 32 hex digits; null without texts."),
    "evidence": Column(pl.String(), "Embedded pool: where the needed passage is (near, far, absent); null elsewhere."),
    "evidence_distance_tokens": Column(pl.Int32(), "Embedded pool: tokens from the passage's end to the response."),
    "source": Column(pl.String(), "Address of the source from which the sample was read."),
    "license": Column(pl.String(), "Licence of the sample, if the source gives one."),
    "set_aside_reason": Column(pl.String(), "Reason why the sample is not scored; null if it is scored."),
    "detail": Column(pl.String(), "Details on the reason, for a sample that is set aside."),
}

HMG_SCORES: TableSchema = {
    "sample_id": SAMPLE_ID,
    "nll_short_nats": Column(pl.Float64(), "Mean NLL of the response's tokens in the short-window reading."),
    "nll_long_nats": Column(pl.Float64(), "Mean NLL of the response's tokens in the long-window reading."),
    "n_response_tokens": Column(pl.Int32(), "Number of response tokens over which the means are taken."),
    "n_context_tokens": Column(pl.Int32(), "Number of context tokens in the long-window reading."),
    "n_dropped_context_tokens": Column(pl.Int32(), "Number of context tokens cut because of the long model's window."),
    "n_dropped_context_tokens_short": Column(
        pl.Int32(), "Number of context tokens missing from the short-window reading."
    ),
}

CAM_SCORES: TableSchema = {
    "sample_id": SAMPLE_ID,
    "segment_tokens": Column(pl.List(pl.Int32()), "Number of tokens of each context segment, in order."),
    "segment_attention": Column(
        SCORES,
        "Attention mass of the response's rows on each segment: mean over heads, rows and the layers whose window "
        "reaches the segment.",
    ),
    "rest_attention": Column(
        pl.Float64(),
        "Attention mass on BOS, joints, instruction and response, mean over layers. With the segments it sums to 1 if "
        "every layer reaches all segments.",
    ),
    "segment_nll_nats": Column(SCORES, "Mean response NLL with each segment alone as context."),
    "nll_nats": Column(pl.Float64(), "Mean response NLL with the full context, from the attention's pass."),
    "n_dropped_context_tokens": Column(pl.Int32(), "Number of context tokens cut because of the model's window."),
}

INFLUENCE_SCORES: TableSchema = {
    "shard": SHARD,
    "sample_id": SAMPLE_ID,
    "hmp": Column(
        pl.Float64(),
        "HMP = Norm(PPL_short) - Norm(PPL_long) over the pool; high if the response needs the long window.",
    ),
    "cas": Column(
        pl.Float64(),
        "CAS: cosine of importance and attention over the sample's context segments; null with EL_CAM=false.",
    ),
    "score": Column(pl.Float64(), "α·HMP' + (1 - α)·CAS', both brought to one scale over the pool."),
    "rank": Column(pl.Int32(), "Rank in the pool by score, from 0 (best)."),
}

SELECTED_SUBSETS: TableSchema = {
    "sample_id": SAMPLE_ID,
    "messages": MESSAGES,
    "original": ORIGINAL,
    "kept_columns": KEPT,
    "score": Column(pl.Float64(), "Influence: α·HMP' + (1 - α)·CAS', both brought to one scale over the pool."),
    "rank": Column(pl.Int32(), "Rank in the pool, from 0 (best)."),
    "shard": SHARD,
    "source": Column(pl.String(), "Address of the source from which the sample was read."),
    "license": Column(pl.String(), "Licence of the sample, if the source gives one."),
}


def _layers(table: Drafted) -> Mapping[str, str]:
    """Return a part of the recipe if layers have different windows, so that not all of them reach every segment."""
    if not mixes_windows(ModelChoice.long(table.settings).config()):
        return {}
    return {LAYERS: "those that reach a segment"}


TABLES = (
    Table(
        name="instruction_samples",
        job="score_samples",
        columns=INSTRUCTION_SAMPLES,
        recipe=Recipe(
            code_version="4",
            settings=(
                "instruction_columns",
                "keep_columns",
                "scored_exchange",
                "separator",
                "special_tokens_in_text",
            ),
            models=("tokenizer", "window"),
            is_read_from_source=True,
            source_settings=(*ROW_BOUNDS, "instructions", "samples_per_kind", *SHORT_MODEL, *LONG_MODEL),
            file_settings=("instruction_columns", "scored_exchange"),
            kept_settings=("keep_columns",),
        ),
    ),
    Table(
        name="hmg_scores",
        job="score_samples",
        columns=HMG_SCORES,
        recipe=Recipe(
            code_version="2",
            inputs=("instruction_samples",),
            settings=("context_cut", "hmg_form", "separator"),
            models=("scorer", "short_reader"),
            is_scored=True,
            reads_scored_texts=True,
            seen_too=("cam",),  # decides whether the model must allow its attention to be watched
        ),
        seen_columns=("nll_short_nats", "nll_long_nats"),
        look=looks.hmg_scores,
    ),
    Table(
        name="cam_scores",
        job="score_samples",
        columns=CAM_SCORES,
        recipe=Recipe(
            code_version="2",
            inputs=("instruction_samples",),
            settings=("context_cut", "segment_tokens", "separator"),
            models=("scorer",),
            is_scored=True,
            reads_scored_texts=True,
            seen_too=("cam",),
            further=_layers,
            words={LAYERS: lambda was, now: "a segment's attention is now the mean over the layers that reach it"},
            is_made=lambda settings: settings.cam,
        ),
        seen_columns=("segment_tokens", "segment_attention", "segment_nll_nats"),
        look=looks.cam_scores,
    ),
    Table(
        name="influence_scores",
        job="select_samples",
        columns=INFLUENCE_SCORES,
        recipe=Recipe(
            code_version="2",
            inputs_over_shards=("hmg_scores", "cam_scores"),
            settings=(
                "cam",
                "cosine_normalisation",
                "hmp_normalisation",
                "importance_sign",
                "influence_alpha",
                "influence_perplexity",
                "influence_scale",
            ),
        ),
        seen_columns=("hmp", "cas", "rank"),
        look=looks.influence_scores,
    ),
    Table(
        name="selected_subsets",
        job="select_samples",
        partitions=tuple(FRACTIONS),
        columns=SELECTED_SUBSETS,
        recipe=Recipe(code_version="3", inputs_over_shards=("influence_scores", "instruction_samples")),
    ),
)
