"""What each table is made from, and the hash that says whether a stored table still follows from it.

A table's recipe is the hash of its code version, the fingerprints of the tables of the same shard that it reads, the
method settings and the models that it depends on. Inputs that span shards (the retrieval index) are pinned, not part of
it: a newer index does not make finished shards stale (see el_resources.store.stamps.Stamp).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from el_assets.tables.model_roles import ModelRoles
from el_resources.models.attention_kinds import mixes_windows
from el_resources.models.causal_lm import ModelChoice
from el_resources.settings import Settings
from el_resources.sources.bad_rows import BAD_ROW_REASONS, most_bad_rows
from el_resources.sources.mixture import offers_roots
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp, digest


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a table depends on.

    Attributes:
        code_version: raised whenever the code that makes the table changes its content.
        inputs: tables of the same shard.
        settings: fields of `Settings`.
        models: `scorer`, `short_reader`, `tokenizer`, `window`, `encoder`.
        is_scored: a model's forwards made it; such a table is not replaced by an empty one unless that is asked for.
    """

    code_version: str
    inputs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    is_scored: bool = False


RECIPES: dict[str, Recipe] = {
    "documents": Recipe(code_version="2", settings=("special_tokens_in_text", "text_column")),
    "context_chunks": Recipe(
        code_version="1",
        inputs=("documents",),
        settings=("chunk_tokens", "long_chunks"),
        models=("tokenizer", "encoder"),
    ),
    "entropy_maps": Recipe(
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
    ),
    "candidate_contexts": Recipe(
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
    ),
    "context_scores": Recipe(
        code_version="1",
        inputs=("candidate_contexts", "entropy_maps"),
        settings=("separator",),
        models=("scorer",),
        is_scored=True,
    ),
    "verified_pairs": Recipe(
        code_version="1",
        inputs=("context_scores",),
        settings=("beats_controls", "criterion", "epsilon", "max_chunk_uses", "seed"),
    ),
    "packed_sequences": Recipe(
        code_version="2",
        inputs=("verified_pairs", "entropy_maps"),
        settings=("separator", "seed", "sequence_tokens"),
        models=("tokenizer",),
    ),
    "instruction_samples": Recipe(
        code_version="4",
        settings=(
            "instruction_columns",
            "keep_columns",
            "scored_exchange",
            "separator",
            "special_tokens_in_text",
        ),
        models=("tokenizer", "window"),
    ),
    "hmg_scores": Recipe(
        code_version="2",
        inputs=("instruction_samples",),
        settings=("context_cut", "hmg_form", "separator"),
        models=("scorer", "short_reader"),
        is_scored=True,
    ),
    "cam_scores": Recipe(
        code_version="2",
        inputs=("instruction_samples",),
        settings=("context_cut", "segment_tokens", "separator"),
        models=("scorer",),
        is_scored=True,
    ),
    # Over shards: their inputs are given, not looked up by partition.
    "influence_scores": Recipe(
        code_version="2",
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
    "selected_subsets": Recipe(code_version="3"),
}


# Tables of a shard, each after those that it is made from.
CORPUS_TABLES = ("documents", "context_chunks")
SEQUENCE_TABLES = ("entropy_maps", "candidate_contexts", "context_scores", "verified_pairs", "packed_sequences")
SAMPLE_TABLES = ("instruction_samples", "hmg_scores", "cam_scores")
AWARENESS = "cam_scores"
# Tables of scores of which no input holds scores.
FIRST_SCORES = ("entropy_maps", "hmg_scores", AWARENESS)
# Tables that are read from a source; the others are made from tables.
READ_FROM_SOURCE = ("documents", "instruction_samples")


# Settings that change where, how fast and whether a table is made, and never what is in it. Sources enter by the
# fingerprint of the shard.
OPERATIONAL = (
    "device",
    "force",
    "hub_endpoint",
    "refresh_candidates",
    "replace_by_empty",
    "store",
    "trust_remote_code",
)
LONG_MODEL = ("long_model", "long_model_revision", "long_window")
SHORT_MODEL = ("short_model", "short_model_revision", "short_window")
# Settings that choose the model of a role of `Recipe.models`.
ROLE_SETTINGS = {
    "scorer": ("bos_token", "dtype", *LONG_MODEL),
    "tokenizer": ("bos_token", "end_of_text_token", *LONG_MODEL),
    "window": LONG_MODEL,
    "short_reader": ("bos_token", "dtype", "hmg_form", *SHORT_MODEL, *LONG_MODEL),
    "encoder": ("encoder",),
}
# Settings that decide what a source is and how it is read; a shard's fingerprint holds what they come to.
BOUNDS = ("bad_rows_max_share", "document_chars_max", "line_mib_max")
SOURCE_SETTINGS = {
    "documents": (*BOUNDS, "corpus", *LONG_MODEL),
    "entropy_maps": ("corpus",),
    "instruction_samples": (*BOUNDS, "instructions", "samples_per_kind", *SHORT_MODEL, *LONG_MODEL),
}
INDEX_SETTINGS = ("encoder", "exact_search_rows", "full_text_tokenizer")


def sample_tables(settings: Settings) -> tuple[str, ...]:
    """Return the tables of an instruction shard that are made under the settings: without EL_CAM no `cam_scores`."""
    return SAMPLE_TABLES if settings.cam else tuple(name for name in SAMPLE_TABLES if name != AWARENESS)


def settings_seen(asset: str) -> frozenset[str]:
    """Return the settings that the step of an asset may read: those of its recipe, and the operational ones.

    A role of a model counts for every table downstream, because tables of two models are never mixed.
    """
    if asset == "retrieval_index":
        return frozenset((*OPERATIONAL, *INDEX_SETTINGS))
    roles = {role for name in (asset, *_upstream(asset)) for role in RECIPES[name].models}
    named = {*RECIPES[asset].settings, *SOURCE_SETTINGS.get(asset, ())}
    named.update(name for role in roles for name in ROLE_SETTINGS[role])
    if "retriever" in named:
        named.add("full_text_tokenizer")  # counts for that retriever alone (Cookbook.draft)
    if asset in ("hmg_scores", AWARENESS):
        named.add("cam")  # says whether cam_scores follow, which not every model can give
    if "long_model" in named:
        named.update(("bos_token", "dtype", "end_of_text_token"))  # a ModelChoice holds them, whatever it is asked
    return frozenset({*OPERATIONAL, *named})


def _upstream(asset: str) -> Iterator[str]:
    for name in RECIPES[asset].inputs:
        yield name
        yield from _upstream(name)


# The setting of instruction samples that no score depends on, and the fingerprint of the rest, in `made_from`.
KEPT, SCORED_TEXTS = "keep_columns", "scored_texts"
# What is part of a recipe only if it is not what tables of earlier versions were made with.
END_OF_TEXT, LAYERS = "end_of_text", "attention_layers"
# Fact of a table whose file cannot be read any more: the recipe that the unreadable file would have had.
OUTLIVED_AS = "outlived_as"


class FingerprintedSource(Protocol):
    """A corpus or a pool of instruction samples."""

    def shard_fingerprint(self, shard: str) -> str: ...


class Cookbook:
    """Recipes under one run's settings; model fingerprints are computed once (el_assets.tables.model_roles).

    Args:
        source: what the first table of the chain is read from; the other tables need none.
    """

    def __init__(self, settings: Settings, tables: ShardTables, source: FingerprintedSource | None = None) -> None:
        self.settings = settings
        self.tables = tables
        self.source = source
        self.roles = ModelRoles(settings)

    def draft(
        self,
        asset: str,
        shard: str,
        inputs: Mapping[str, Stamp] | None = None,
        stored: Stamp | None = None,
        *,
        auto_was: object = None,
    ) -> Stamp:
        """The stamp that a table made now would carry, before facts and pinned inputs.

        Args:
            inputs: what the table is made from, where that is more than the same shard's tables.
            stored: the table that is compared with it. Weights of the dtype `auto` then count as those that it was made
                with, whatever this machine would read.
            auto_was: the dtype that the models' fingerprints call `auto` (ModelRoles.as_auto).

        Raises:
            MissingTableError: an input has not been made.
            OtherModelError: an input was made with another model than the settings name now.
        """
        recipe = RECIPES[asset]
        if inputs is None:
            inputs = {name: self.tables.require_stamp(name, shard) for name in recipe.inputs}
        own: dict[str, Any] = self.settings.subset(recipe.settings)
        lineage: Mapping[str, Any] = {k: v for stamp in inputs.values() for k, v in stamp.settings.items()}
        models = self.roles.fingerprints(recipe.models, lineage, stored)
        models = self.roles.as_auto(models, auto_was) if auto_was else models
        parts: dict[str, Any] = {
            "asset": asset,
            "code_version": recipe.code_version,
            "inputs": {n: scored_texts(s) if asset in SAMPLE_TABLES else s.fingerprint for n, s in inputs.items()},
            "settings": own,
            "models": models,
        }
        made_from = {"code_version": recipe.code_version, **parts["inputs"]}
        if asset in READ_FROM_SOURCE:
            assert self.source is not None, f"{asset} are read from a source"
            parts["source"] = made_from["source"] = self.source.shard_fingerprint(shard)
        if asset == "documents" and self.settings.special_tokens_in_text == "set_aside":
            parts["set_aside_by"] = made_from["set_aside_by"] = self.roles.fingerprint("tokenizer")
        if asset == "instruction_samples":
            made_from[SCORED_TEXTS] = digest({**parts, "settings": {k: v for k, v in own.items() if k != KEPT}})
        if asset == "candidate_contexts" and self.settings.retriever == "full_text":
            parts["full_text_tokenizer"] = made_from["full_text_tokenizer"] = self.settings.full_text_tokenizer
        if asset == "entropy_maps" and not offers_roots(self.settings.corpus, shard):
            parts["roots"] = made_from["roots"] = "none"
        if asset == "packed_sequences" and (other := ModelChoice.long(self.settings).other_end_of_text()):
            parts[END_OF_TEXT] = made_from[END_OF_TEXT] = own[END_OF_TEXT] = other
        if asset == "cam_scores" and mixes_windows(ModelChoice.long(self.settings).config()):
            parts[LAYERS] = made_from[LAYERS] = "those that reach a segment"
        if asset in SAMPLE_TABLES:
            lineage = {name: value for name, value in lineage.items() if name != KEPT}
        self.roles.refuse_others(asset, shard, lineage, models)
        return Stamp(
            asset=asset,
            partition=shard,
            recipe=digest(parts),
            settings={**lineage, **models, **own},
            made_from=made_from,
        )

    def takes_over(self, stored: Stamp) -> bool:
        """Return true if a table holds the scores that would be made now, and its stamp an earlier version's name.

        These are tables of the versions whose fingerprint of the scorer had `auto` as the weights' dtype. What is made
        from them is made again, which costs no forward: `context_scores` reuse their pairs.
        """
        dtype = stored.facts.get("dtype")
        if stored.asset not in FIRST_SCORES or not dtype:
            return False
        return stored.recipe == self.draft(stored.asset, stored.partition, auto_was=dtype).recipe


def scored_texts(samples: Stamp) -> str:
    """Return the fingerprint of what is scored of instruction samples, whatever columns are kept beside it."""
    return samples.made_from.get(SCORED_TEXTS, samples.fingerprint)


def still_follows(stored: Stamp, new: Stamp, settings: Settings) -> bool:
    """Return true if a stored table is the one that would be made now.

    A table that outlived its file (which cannot be read now) follows as long as the file stays as it was tried. The
    bound on bad rows is no part of a recipe: it decides whether a file is refused, so another bound concerns the files
    whose verdict it changes, and no others.
    """
    if stored.asset not in READ_FROM_SOURCE:
        return stored.recipe == new.recipe
    if "unreadable" in stored.facts:
        tried = stored.facts.get(OUTLIVED_AS, stored.recipe)
        return tried == new.recipe and stored.facts.get("bad_rows_max_share") == settings.bad_rows_max_share
    n_bad = sum(n for reason, n in stored.facts.get("set_aside", {}).items() if reason in BAD_ROW_REASONS)
    is_allowed = n_bad <= most_bad_rows(stored.facts.get("rows", 0), settings.bad_rows_max_share)
    return stored.recipe == new.recipe and is_allowed
