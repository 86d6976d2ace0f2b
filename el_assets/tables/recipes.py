"""The inputs, settings and models of each table, and the hash by which a stored table is compared with them.

A table's recipe is the hash of its code version, the fingerprints of the tables of the same shard that it reads, the
method settings and the models that it depends on. Inputs that span shards (the retrieval index) are pinned, not part of
it: a newer index does not make finished shards stale (see el_resources.store.stamps.Stamp).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from el_assets.catalogue import RECIPES, SETTINGS_WITHOUT_RECIPE
from el_assets.tables.description import ROLE_SETTINGS, Drafted
from el_assets.tables.model_roles import ModelRoles
from el_resources.settings import Settings
from el_resources.sources.bad_rows import BAD_ROW_REASONS, most_bad_rows
from el_resources.sources.contracts import ShardedSource
from el_resources.store.shard_tables import MissingTableError, ShardTables
from el_resources.store.stamps import Stamp, digest, refuse_mixed_settings

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


def settings_seen(asset: str) -> frozenset[str]:
    """Return the settings that the step of an asset may read: those of its recipe, and the operational ones.

    A role of a model counts for every table downstream, because tables of two models are never mixed.
    """
    if asset in SETTINGS_WITHOUT_RECIPE:
        return frozenset((*OPERATIONAL, *SETTINGS_WITHOUT_RECIPE[asset]))
    recipe = RECIPES[asset]
    roles = {role for name in (asset, *_upstream(asset)) for role in RECIPES[name].models}
    named = {*recipe.settings, *recipe.source_settings, *recipe.seen_too}
    named.update(name for role in roles for name in ROLE_SETTINGS[role])
    if "long_model" in named:
        named.update(("bos_token", "dtype", "end_of_text_token"))  # a ModelChoice holds them, whatever it is asked
    return frozenset({*OPERATIONAL, *named})


def _upstream(asset: str) -> Iterator[str]:
    for name in RECIPES[asset].inputs:
        yield name
        yield from _upstream(name)


# Fingerprint of all that scores depend on of a table with `Recipe.kept_settings`, in `made_from`.
SCORED_TEXTS = "scored_texts"
# Fact of a table whose file cannot be read any more: the recipe that the unreadable file would have had.
OUTLIVED_AS = "outlived_as"


class Cookbook:
    """Recipes under one run's settings; model fingerprints are computed once (el_assets.tables.model_roles).

    Args:
        source: what the first table of the chain is read from; the other tables need none.
    """

    def __init__(self, settings: Settings, tables: ShardTables, source: ShardedSource | None = None) -> None:
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
            inputs: what the table is made from, if that is more than the same shard's tables.
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
            "inputs": {n: scored_texts(s) if recipe.reads_scored_texts else s.fingerprint for n, s in inputs.items()},
            "settings": own,
            "models": models,
        }
        made_from = {"code_version": recipe.code_version, **parts["inputs"]}
        if recipe.is_read_from_source:
            assert self.source is not None, f"{asset} is read from a source"
            parts["source"] = made_from["source"] = self.source.shard_fingerprint(shard)
        for name, value in recipe.further(Drafted(self.settings, shard, self.roles)).items():
            parts[name] = made_from[name] = value
            if name in recipe.shown_parts:
                own[name] = value
        if recipe.kept_settings:
            scored = {name: value for name, value in own.items() if name not in recipe.kept_settings}
            made_from[SCORED_TEXTS] = digest({**parts, "settings": scored})
        if recipe.reads_scored_texts:
            kept = {name for made in recipe.inputs for name in RECIPES[made].kept_settings}
            lineage = {name: value for name, value in lineage.items() if name not in kept}
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
        recipe = RECIPES[stored.asset]
        reads_scores = any(RECIPES[name].is_scored for name in recipe.inputs)
        if not recipe.is_scored or reads_scores or not dtype:
            return False
        return stored.recipe == self.draft(stored.asset, stored.partition, auto_was=dtype).recipe


def stamps_over_shards(asset: str, tables: ShardTables, shards: Sequence[str]) -> dict[str, Stamp]:
    """Return the stamps of the tables that an asset over shards is made from, by `TABLE/SHARD`.

    Raises:
        MissingTableError: none of the shards has a table of an input.
        MixedSettingsError: tables of an input were made under different settings.
    """
    found: dict[str, Stamp] = {}
    for name in RECIPES[asset].inputs_over_shards:
        stamps = tables.stamps(name, shards)
        if not stamps:
            raise MissingTableError(f"no shard in store {str(tables.store)!r} has {name}; make it first")
        refuse_mixed_settings(stamps)
        found |= {f"{name}/{shard}": stamp for shard, stamp in stamps.items()}
    return found


def scored_texts(samples: Stamp) -> str:
    """Return the fingerprint of what is scored of a table, which its `kept_settings` do not change."""
    return samples.made_from.get(SCORED_TEXTS, samples.fingerprint)


def still_follows(stored: Stamp, new: Stamp, settings: Settings) -> bool:
    """Return true if a stored table is the one that would be made now.

    A table that outlived its file (which cannot be read now) follows as long as the file stays as it was tried. The
    bound on bad rows is no part of a recipe: it decides whether a file is refused, so another bound concerns the files
    whose verdict it changes, and no others.
    """
    if not RECIPES[stored.asset].is_read_from_source:
        return stored.recipe == new.recipe
    if "unreadable" in stored.facts:
        tried = stored.facts.get(OUTLIVED_AS, stored.recipe)
        return tried == new.recipe and stored.facts.get("bad_rows_max_share") == settings.bad_rows_max_share
    n_bad = sum(n for reason, n in stored.facts.get("set_aside", {}).items() if reason in BAD_ROW_REASONS)
    is_allowed = n_bad <= most_bad_rows(stored.facts.get("rows", 0), settings.bad_rows_max_share)
    return stored.recipe == new.recipe and is_allowed
