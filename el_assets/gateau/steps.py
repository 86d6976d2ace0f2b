"""The steps that make one shard of each table of scores: read inputs, call pure functions, count."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from el_assets.gateau.cam import cam_table
from el_assets.gateau.hmg import hmg_table, mean_nll
from el_assets.gateau.prompts import Parts, Prompt, build_prompt, segments_of
from el_assets.gateau.samples import PARTS, refuse_old_samples, scorable
from el_assets.tables.finite import finite_rows, set_aside_facts
from el_assets.tables.meter import Meter
from el_assets.tables.recipes import scored_texts
from el_assets.tables.shard_assets import Advance, ShardStep
from el_assets.tables.shard_runs import Made
from el_resources.models.attention_kinds import attention_is_watchable
from el_resources.models.causal_lm import CausalLM, ModelChoice, RopeScaling, short_window
from el_resources.settings import Settings

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine
    from el_resources.scoring.segment_mass import SegmentScores


@dataclass(frozen=True, kw_only=True)
class SampleStep(ShardStep):
    """The inputs that every step of an instruction shard uses."""

    causal_lm: CausalLM

    def samples(self, shard: str) -> pl.DataFrame:
        """Return the shard's samples that are not set aside. Raises ValueError if an earlier version made them."""
        refuse_old_samples({shard: self.tables.require_stamp("instruction_samples", shard)})
        return scorable(self.tables.read("instruction_samples", shard))

    def made_from(self, shard: str) -> dict[str, str]:
        """Return a fact for the stamp: the fingerprint of the scored samples."""
        return {"samples_fingerprint": scored_texts(self.tables.require_stamp("instruction_samples", shard))}

    def parts(self, samples: pl.DataFrame) -> list[Parts]:
        """Return the token ids of each sample's parts, each part tokenized separately."""
        ids = {part: self.tokenizer.encode_batch(samples[part].to_list()) for part in PARTS}
        later = samples["later_exchanges"].to_list()
        rows = zip(*(ids[part] for part in PARTS), later, strict=True)
        return [
            Parts(context, instruction, response, [self._exchange(one) for one in more])
            for context, instruction, response, more in rows
        ]

    def _exchange(self, texts: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        instruction, response = self.tokenizer.encode_batch([texts["instruction"], texts["response"]])
        return instruction, response

    def prompts(self, parts: Sequence[Parts], window: int) -> list[Prompt]:
        """Return the prompt of each sample within a window."""
        separator = self.separator_ids()
        return [build_prompt(one, separator, window=window, cut=self.settings.context_cut) for one in parts]


def refuse_different_tokenizers(settings: Settings) -> None:
    """Raise ValueError if the models of a pair have different tokenizers, so that perplexities do not compare."""
    if settings.hmg_form == "one_model":
        return
    short, long = ModelChoice.short(settings), ModelChoice.long(settings)
    if short.tokenizer_fingerprint() != long.tokenizer_fingerprint():
        raise ValueError(
            f"short_model {short.name!r} and long_model {long.name!r} have different tokenizers, so their perplexities "
            "cannot be compared; choose a homologous pair, or EL_HMG_FORM=one_model"
        )


def refuse_unreadable_pair(settings: Settings) -> None:
    """Raise ValueError if, by its config, the short model of a pair cannot read as far as the long window."""
    if settings.hmg_form == "one_model":
        return
    from el_resources.scoring.rope import extend_window, readable_window

    short, window = ModelChoice.short(settings), ModelChoice.long(settings).window()
    config = short.checked_config()
    try:
        readable_window(config, window)
        if settings.hmg_form == "pair_ntk":
            extend_window(config, window)
    except ValueError as error:
        raise ValueError(
            f"EL_HMG_FORM={settings.hmg_form}: short_model {short.name!r} cannot be read in the window of long_model, "
            f"{window} tokens: {error}; or set EL_HMG_FORM=one_model"
        ) from error


def refuse_unwatchable(settings: Settings) -> None:
    """Raise ValueError if awareness is measured but, by its config, the long model's attention cannot be watched.

    This is known before weights are loaded, and before hours of guidance after which awareness would fail.
    """
    model = ModelChoice.long(settings)
    if settings.cam and (why := attention_is_watchable(model.config())):
        raise ValueError(_not_watchable(model.name, why))


def _not_watchable(name: str, why: str) -> str:
    return (
        f"the attention of long_model {name!r} cannot be watched: {why}; set EL_CAM=false, so that GATEAU ranks by HMP "
        "alone, or choose another model"
    )


def score_guidance(step: SampleStep, shard: str) -> Made:
    """Make `hmg_scores` of a shard: mean response NLL in the short-window and in the long-window reading."""
    samples = step.samples(shard)
    parts = step.parts(samples)
    # Build both prompts.
    long_engine = _long_engine(step)
    long_prompts = step.prompts(parts, long_engine.window)
    short_engine, short_prompts = _short_reading(step, parts, long_engine, long_prompts)
    # If both prompts are equal, score them once: two readings differ by rounding, and ranks would sort that noise.
    differs = [
        short_engine is not long_engine or short.n_dropped != long.n_dropped
        for short, long in zip(short_prompts, long_prompts, strict=True)
    ]
    to_score = [prompt for prompt, other in zip(short_prompts, differs, strict=True) if other]
    # Score the responses.
    total = sum(len(prompt.token_ids) for prompt in [*long_prompts, *to_score])
    with Meter(long_engine, short_engine) as meter, step.show(f"guidance {shard}", total, "tokens") as advance:
        long_nll = _response_nll(long_engine, long_prompts, advance)
        scored = iter(_response_nll(short_engine, to_score, advance))
    short_nll = [next(scored) if other else nll for other, nll in zip(differs, long_nll, strict=True)]
    # Set aside non-finite.
    table = hmg_table(
        samples["sample_id"].to_list(),
        list(zip(short_prompts, short_nll, strict=True)),
        list(zip(long_prompts, long_nll, strict=True)),
    )
    table, lost = finite_rows(table)
    facts = {
        **meter.facts(),
        **step.made_from(shard),
        **set_aside_facts("samples", lost, long_engine.dtype),
        **step.placed_facts(long_engine),
        "short_window_tokens": _short_window_tokens(step),
        "form": step.settings.hmg_form,
        "contexts_cut": int((table["n_dropped_context_tokens"] > 0).sum()),
        "context_tokens_dropped": int(table["n_dropped_context_tokens"].sum()),
    }
    return Made(frame=table, facts=facts)


def _long_engine(step: SampleStep) -> "ScoringEngine":
    """Return the engine of the long model.

    Raises:
        ValueError: awareness is measured, and the engine cannot watch attention although the config did not say so.
    """
    model = ModelChoice.long(step.settings)
    engine = step.causal_lm.engine(model)
    if step.settings.cam and engine.why_not_watched:
        raise ValueError(_not_watchable(model.name, engine.why_not_watched))
    return engine


def _short_reading(
    step: SampleStep, parts: Sequence[Parts], long_engine: "ScoringEngine", long_prompts: list[Prompt]
) -> tuple["ScoringEngine", list[Prompt]]:
    """Return the engine of the short-window reading, and the prompts that it reads."""
    form = step.settings.hmg_form
    if form == "one_model":
        return long_engine, step.prompts(parts, short_window(step.settings))
    scaling: RopeScaling = "dynamic" if form == "pair_ntk" else "none"
    short = ModelChoice.short(step.settings)
    return step.causal_lm.engine(short, window=long_engine.window, rope_scaling=scaling), long_prompts


def _short_window_tokens(step: SampleStep) -> int:
    """Return the short window in tokens: that of `one_model`, or the short model's own."""
    settings = step.settings
    return short_window(settings) if settings.hmg_form == "one_model" else ModelChoice.short(settings).window()


def _response_nll(engine: "ScoringEngine", prompts: Sequence[Prompt], advance: Advance) -> list[np.ndarray]:
    scores = engine.score(
        [prompt.token_ids for prompt in prompts],
        [prompt.response_positions() for prompt in prompts],
        on_progress=advance,
    )
    return [score.nll_nats for score in scores]


def score_awareness(step: SampleStep, shard: str) -> Made:
    """Make `cam_scores` of a shard: attention on each segment, and the response's NLL with each segment alone."""
    samples, settings = step.samples(shard), step.settings
    engine = _long_engine(step)
    # Cut into segments.
    prompts = step.prompts(step.parts(samples), engine.window)
    segments = [segments_of(prompt.context, settings.segment_tokens) for prompt in prompts]
    alone = [[prompt.with_context(*span) for span in spans] for prompt, spans in zip(prompts, segments, strict=True)]
    # Measure attention, then segments.
    total = sum(len(one.token_ids) for one in [*prompts, *(one for ones in alone for one in ones)])
    with Meter(engine) as meter, step.show(f"awareness {shard}", total, "tokens") as advance:
        attention = engine.segment_attention(
            [prompt.token_ids for prompt in prompts],
            segments,
            [prompt.responses for prompt in prompts],
            on_progress=advance,
        )
        flat = iter(_response_nll(engine, [one for ones in alone for one in ones], advance))
    # Build the rows.
    rows = []
    for sample_id, prompt, spans, scores in zip(samples["sample_id"], prompts, segments, attention, strict=True):
        rows.append(
            {
                "sample_id": sample_id,
                "segment_tokens": [end - start for start, end in spans],
                "segment_attention": scores.segment_attention,
                "rest_attention": scores.rest_attention,
                "segment_nll_nats": [mean_nll(next(flat)) for _ in spans],
                "nll_nats": mean_nll(scores.nll_nats),
                "n_dropped_context_tokens": prompt.n_dropped,
            }
        )
    # Set aside non-finite.
    table, lost = finite_rows(cam_table(rows))
    facts = {
        **meter.facts(),
        **step.made_from(shard),
        **set_aside_facts("samples", lost, engine.dtype),
        **step.placed_facts(engine),
        **_layer_facts(attention),
        "segments": sum(len(spans) for spans in segments),
    }
    return Made(frame=table, facts=facts)


def _layer_facts(attention: Sequence["SegmentScores"]) -> dict[str, object]:
    """Return facts for the stamp: the windows of the layers, the segments by number of layers, and the largest error.

    The attention on a segment is a mean over the layers whose window reaches it (el_resources.scoring.segment_mass).
    The error is that of the sum of all masses in a layer, which should be 1.
    """
    layers = Counter(int(count) for scores in attention for count in scores.segment_layers)
    return {
        "layer_windows": list(attention[0].layer_windows) if attention else [],
        "segments_by_layers": {str(count): layers[count] for count in sorted(layers)},
        "layer_sum_error": max((scores.layer_sum_error for scores in attention), default=0.0),
    }
