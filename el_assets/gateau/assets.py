"""The assets of GATEAU, from instruction samples to selected subsets; `steps` makes their shards."""

import json
from collections.abc import Mapping, Sequence
from functools import partial

import dagster as dg
import polars as pl

from el_assets.catalogue import RECIPES
from el_assets.gateau.diagnosis import nothing_scorable, why_no_samples
from el_assets.gateau.influence import influence_table, select_subset, shares
from el_assets.gateau.samples import refuse_old_samples, sample_facts, samples_table
from el_assets.gateau.selectors import SELECTORS, measured_pool, measured_under, tables_of
from el_assets.gateau.steps import (
    SampleStep,
    refuse_different_tokenizers,
    refuse_unwatchable,
    score_awareness,
    score_guidance,
)
from el_assets.partitions import instruction_shards, registered_shards, selected_fractions
from el_assets.tables.recipes import scored_texts
from el_assets.tables.shard_assets import GPU_POOL, shard_asset, with_seen_settings
from el_assets.tables.shard_runs import Made, materialize_shards, unreadable
from el_resources.listed_names import listed
from el_resources.models.causal_lm import CausalLM, ModelChoice, short_window
from el_resources.settings import Settings
from el_resources.sources.bad_rows import within_share
from el_resources.sources.contracts import CorruptShardError, InstructionSource
from el_resources.sources.instruction_columns import PoolReading, parse_columns, parse_names
from el_resources.sources.opening import open_instructions
from el_resources.sources.row_limits import RowLimits
from el_resources.store.shard_tables import MissingTableError, ShardTables
from el_resources.store.stamps import MixedSettingsError, Stamp, refuse_mixed_settings

sample_asset = partial(shard_asset, group="gateau", partitions=instruction_shards)


@sample_asset("instruction_samples", ["source_instructions", "long_model"], kinds={"parquet"})
def instruction_samples(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per instruction sample: its whole conversation, and the texts that are scored with their token counts.

    The texts that are scored are context, instruction and response; `scored_exchange` says which exchange of a
    conversation they are. Samples that cannot be scored stay as rows with their reason: missing roles, tool turns, an
    empty response, a response longer than the window, an exact copy within the shard. In the embedded pool, `evidence`
    says whether the passage that a question needs is near, far or absent.
    """
    source, model = open_instructions_of(settings), ModelChoice.long(settings)
    tokenizer = model.tokenizer()

    def make(shard: str) -> Made:
        origin = dict(source.origin(shard))
        try:
            path, max_share = origin.get("file", shard), settings.bad_rows_max_share
            listed = list(within_share(source.samples(shard), max_share=max_share, shard=shard, path=path))
            table = samples_table(
                listed,
                tokenizer,
                window=model.window(),
                separator=len(tokenizer.joint_ids(settings.separator)),
                source_uri=source.uri,
                set_aside_special=settings.special_tokens_in_text == "set_aside",
            )
        except CorruptShardError as error:
            context.log.error(f"{error}; repair or remove the file. The other shards go on")
            empty = samples_table([], tokenizer, window=model.window(), separator=0, source_uri=source.uri)
            return Made(frame=empty, facts={"samples": 0, "origin": origin, **unreadable(error, settings)})
        return Made(frame=table, facts={**sample_facts(table), "source_rows": len(listed), "origin": origin})

    return materialize_shards(context, settings, make, source=source)


@sample_asset(
    "hmg_scores", [instruction_samples, "short_model", "long_model"], kinds={"parquet", "pytorch"}, pool=GPU_POOL
)
def hmg_scores(context: dg.AssetExecutionContext, settings: Settings, causal_lm: CausalLM) -> dg.MaterializeResult:
    """One row per sample: mean NLL (nats per token) of its response in a short-window and in a long-window reading.

    The setting `hmg_form` chooses the short-window reading: the long model with the context cut to the short window, or
    the short model, which reads beyond its window. A context that exceeds the long window is cut as `context_cut` says,
    and the dropped tokens are counted. Paper: GATEAU, "homologous models' guidance".
    """
    refuse_different_tokenizers(settings)
    refuse_unwatchable(settings)
    return materialize_shards(
        context,
        settings,
        partial(score_guidance, SampleStep.of(context, settings, causal_lm=causal_lm)),
        why_empty=partial(why_no_samples, ShardTables(settings.store)),
    )


@sample_asset("cam_scores", [instruction_samples, "long_model"], kinds={"parquet", "pytorch"}, pool=GPU_POOL)
def cam_scores(context: dg.AssetExecutionContext, settings: Settings, causal_lm: CausalLM) -> dg.MaterializeResult:
    """One row per sample: attention of its response to each context segment, and its NLL with each segment alone.

    NLL is a mean in nats per token. Attention is exact: one pass over the full context, in which only the response's
    tokens are queries, so no n × n matrix is held. `influence_scores` computes CAS from both. This table is not made if
    EL_CAM=false. Paper: GATEAU, "contextual awareness measurement".
    """
    if not settings.cam:
        raise ValueError(
            "cam_scores cannot be made with EL_CAM=false; set EL_CAM=false in the environment, so that the job "
            "score_samples leaves cam_scores out, or materialize hmg_scores alone"
        )
    refuse_unwatchable(settings)
    return materialize_shards(
        context,
        settings,
        partial(score_awareness, SampleStep.of(context, settings, causal_lm=causal_lm)),
        why_empty=partial(why_no_samples, ShardTables(settings.store)),
    )


@dg.asset(
    group_name="gateau",
    kinds={"parquet", "polars"},
    deps=[hmg_scores, cam_scores],
    code_version=RECIPES["influence_scores"].code_version,
)
@with_seen_settings("influence_scores")
def influence_scores(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per sample of the pool, best first: HMP, CAS, their weighted sum on one scale, and the rank.

    The pool is every registered shard that has both scores. Metadata lists these shards, and how much each term decides
    the order (its rank correlation with the score). No model is needed, so the weight α, the scales, and the sign and
    normalisation of CAS can be changed without a forward. If EL_CAM=false there is no CAS, and influence is HMP alone.
    """
    tables = ShardTables(settings.store)
    registered = registered_shards(context.instance, instruction_shards)
    selectors = measured_under(settings)
    stamps = scored_pool(tables, registered, tables_of(selectors))

    def make(_: str) -> Made:
        scores = {name: tables.scan_many(name, of_shards).collect() for name, of_shards in stamps.items()}
        weights = {selector.column: selector.weight(settings) for selector in selectors}
        table = influence_table(measured_pool(scores, selectors, settings), weights, settings.influence_scale)
        made_from = {s: stamp.facts["samples_fingerprint"] for s, stamp in sorted(next(iter(stamps.values())).items())}
        facts = {"samples": table.height, "shards": list(made_from), "samples_fingerprints": made_from}
        facts["weights"] = {selector.column: weights.get(selector.column, 0.0) for selector in SELECTORS}
        return Made(frame=table, facts={**facts, **shares(table)})

    return materialize_shards(context, settings, make, inputs=influence_inputs(stamps))


@dg.asset(
    group_name="gateau",
    kinds={"parquet"},
    # Each fraction reads all shards. Without a mapping Dagster would look for a shard named like the fraction.
    deps=[influence_scores, dg.AssetDep(instruction_samples, partition_mapping=dg.AllPartitionMapping())],
    partitions_def=selected_fractions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version=RECIPES["selected_subsets"].code_version,
)
@with_seen_settings("selected_subsets")
def selected_subsets(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per selected sample, best first: the top 10, 30 or 50 % of the pool by influence, a partition each.

    Rows have the whole conversation unchanged, ready to train on. The subsets are nested, and their sizes are rounded
    up. The GATEAU paper trains on 10 to 50 % of LongAlign-10k.
    """
    tables = ShardTables(settings.store)
    influence = tables.require_stamp("influence_scores")
    shards = list(influence.facts["shards"])
    samples = tables.stamps("instruction_samples", shards)
    refuse_changed_samples(influence.facts["samples_fingerprints"], samples)
    refuse_old_samples(samples)
    refuse_empty_pool(tables, samples)

    def make(fraction: str) -> Made:
        pool = tables.scan_many("instruction_samples", shards)
        usable = pool.filter(pl.col("set_aside_reason").is_null())
        columns = ("messages", "original", "kept_columns", "source", "license")
        wanted = usable.select("shard", "sample_id", *columns).collect()
        refuse_unknown_columns(parse_names(str(samples[shards[0]].settings["keep_columns"])), wanted)
        table = select_subset(tables.read("influence_scores"), wanted, fraction)
        return Made(frame=table, facts={"samples": table.height, "pool": int(influence.facts["samples"])})

    return materialize_shards(context, settings, make, inputs=subset_inputs(influence, samples))


def open_instructions_of(settings: Settings) -> InstructionSource:
    """Return the source of instruction samples that the settings name. Raises ValueError (see open_instructions)."""
    return open_instructions(
        settings.instructions,
        tokenizer=ModelChoice.long(settings).tokenizer,
        samples_per_kind=settings.samples_per_kind,
        windows=lambda: (short_window(settings), ModelChoice.long(settings).window()),
        hub_endpoint=settings.hub_endpoint,
        reading=PoolReading(
            exchange=settings.scored_exchange,
            columns=parse_columns(settings.instruction_columns),
            keep=parse_names(settings.keep_columns),
        ),
        limits=RowLimits.of(line_mib_max=settings.line_mib_max, document_chars_max=settings.document_chars_max),
    )


def refuse_empty_pool(tables: ShardTables, samples: Mapping[str, Stamp]) -> None:
    """Raise ValueError if no sample of the pool can be scored; it names the reasons and the first row set aside."""
    why = nothing_scorable([stamp.facts for stamp in samples.values()])
    if why is None:
        return
    rows = [tables.read("instruction_samples", shard, ["sample_id", "detail"]) for shard in samples]
    first = next((f"; the first, {name!r}: {detail}" for table in rows for name, detail in table.iter_rows()), "")
    raise ValueError(
        f"there is nothing to select from: {why}{first}. Repair the files, or name their columns, keys and roles with "
        "EL_INSTRUCTION_COLUMNS, and run again"
    )


def refuse_unknown_columns(names: Sequence[str], pool: pl.DataFrame) -> None:
    """Raise ValueError if no row of the pool has one of the columns to keep."""
    known = {name for kept in pool["kept_columns"].drop_nulls() for name in json.loads(kept)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"EL_KEEP_COLUMNS names {', '.join(map(repr, unknown))}, which no row of the pool has; correct the name"
        )


def refuse_changed_samples(scored: Mapping[str, str], samples: Mapping[str, Stamp]) -> None:
    """Raise ValueError if a shard's samples have changed since they were scored.

    Args:
        scored: fingerprint of the samples that were scored, by shard.
    """
    changed = [
        shard
        for shard, made_from in scored.items()
        if shard not in samples or scored_texts(samples[shard]) != made_from
    ]
    if changed:
        raise ValueError(
            f"instruction_samples of {listed(changed)} changed since they were "
            "scored; run job score_samples for them, then select_samples"
        )


def refuse_unequal_scores(stamps: Mapping[str, Mapping[str, Stamp]]) -> None:
    """Raise if scores of one shard are of different samples (ValueError) or settings (MixedSettingsError).

    Args:
        stamps: by table, then by shard.
    """
    (first, guidance), *others = stamps.items()
    for name, found in others:
        for shard, own in guidance.items():
            _refuse_unequal(own, found[shard], f"{first} and {name}")


def _refuse_unequal(own: Stamp, other: Stamp, names: str) -> None:
    if own.facts["samples_fingerprint"] != other.facts["samples_fingerprint"]:
        raise ValueError(
            f"{names} of shard {own.partition!r} were made from different samples; run job score_samples for it"
        )
    differing = [
        f"{name} is {own.setting_in_words(name)} in {own.asset} and {other.setting_in_words(name)} in {other.asset}"
        for name in sorted(own.settings.keys() & other.settings.keys())
        if own.settings[name] != other.settings[name]
    ]
    if differing:
        raise MixedSettingsError(
            f"scores of shard {own.partition!r} were made under different settings: {'; '.join(differing)}. "
            "Run job score_samples for it"
        )


def influence_inputs(stamps: Mapping[str, Mapping[str, Stamp]]) -> dict[str, Stamp]:
    """Return the stamps of the inputs of `influence_scores`: those of each table, by `TABLE/SHARD`."""
    return {f"{name}/{shard}": stamp for name, of_shards in stamps.items() for shard, stamp in of_shards.items()}


def subset_inputs(influence: Stamp, samples: Mapping[str, Stamp]) -> dict[str, Stamp]:
    """Return the stamps of the inputs of `selected_subsets`: the ranking and its shards' samples."""
    return {"influence_scores": influence, **{f"instruction_samples/{s}": stamp for s, stamp in samples.items()}}


def scored_pool(tables: ShardTables, registered: list[str], names: Sequence[str]) -> dict[str, dict[str, Stamp]]:
    """Return the stamps of each table for the shards that have all of them.

    Args:
        names: the tables of the selectors that are measured.

    Raises:
        MissingTableError: no shard has these scores.
        MixedSettingsError: shards were scored under different settings.
        ValueError: the scores of a shard are of different samples.
    """
    found = {name: tables.stamps(name, registered) for name in names}
    shards = [shard for shard in registered if all(shard in stamps for stamps in found.values())]
    if not shards:
        wanted = f"{'both ' * (len(names) == 2)}{' and '.join(names)}"
        raise MissingTableError(f"no shard in store {str(tables.store)!r} has {wanted}; run job score_samples first")
    kept = {name: {shard: stamps[shard] for shard in shards} for name, stamps in found.items()}
    for stamps in kept.values():
        refuse_mixed_settings(stamps)
    refuse_unequal_scores(kept)
    return kept
