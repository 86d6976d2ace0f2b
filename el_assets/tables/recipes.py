"""Recipes: hashes of the inputs, settings and models of tables, by which a stored table is found to be up to date.

A table's recipe is the hash of its code version, the fingerprints of its inputs, and the settings and models that it
depends on. The retrieval index is not part of it but pinned, so that a newer index does not make finished shards stale
(see el_resources.store.stamps.Stamp).
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

# Settings that decide where, how fast and whether a table is made, but not its content. Sources are not listed: a table
# depends on the fingerprint of its shard.
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

    They include the settings of the models of all its inputs, because tables of two models are never mixed.
    """
    if asset in SETTINGS_WITHOUT_RECIPE:
        return frozenset((*OPERATIONAL, *SETTINGS_WITHOUT_RECIPE[asset]))
    recipe = RECIPES[asset]
    roles = {role for name in (asset, *_upstream(asset)) for role in RECIPES[name].models}
    named = {*recipe.settings, *recipe.source_settings, *recipe.seen_too}
    named.update(name for role in roles for name in ROLE_SETTINGS[role])
    if "long_model" in named:
        named.update(("bos_token", "dtype", "end_of_text_token"))  # a ModelChoice reads them in any case
    return frozenset({*OPERATIONAL, *named})


def _upstream(asset: str) -> Iterator[str]:
    for name in RECIPES[asset].inputs:
        yield name
        yield from _upstream(name)


# Entry of `made_from` in a table with `Recipe.kept_settings`: fingerprint of the content on which scores depend.
SCORED_TEXTS = "scored_texts"
# Fact of a table that is kept although its file became unreadable: the recipe with the unreadable file.
OUTLIVED_AS = "outlived_as"


class Cookbook:
    """The recipes under the settings of a run; model fingerprints are computed once (el_assets.tables.model_roles).

    Args:
        source: the source of tables that are read from one; other tables need none.
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
        """Return the stamp that the table would have if it were made now, without facts and pinned inputs.

        Args:
            inputs: stamps of its inputs, if these are not tables of the same shard.
            stored: stamp of the stored table, if the draft is compared with it. Then the dtype `auto` means the dtype
                of the stored table, not that of this machine.
            auto_was: dtype that fingerprints of earlier versions call `auto` (ModelRoles.as_auto).

        Raises:
            MissingTableError: an input has not been made.
            OtherModelError: an input was made with another model than the settings name now.
        """
        recipe = RECIPES[asset]
        if inputs is None:
            inputs = {name: self.tables.require_stamp(name, shard) for name in recipe.inputs}
        # Collect settings and models.
        own: dict[str, Any] = self.settings.subset(recipe.settings)
        lineage: Mapping[str, Any] = {k: v for stamp in inputs.values() for k, v in stamp.settings.items()}
        models = self.roles.fingerprints(recipe.models, lineage, stored)
        models = self.roles.as_auto(models, auto_was) if auto_was else models
        # Collect the parts.
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
        """Return true if a table of an earlier version has the scores that would be made now, under another name.

        Those versions had the word `auto` as the weights' dtype in fingerprints. Tables made from such a table are made
        again, but without forwards: `context_scores` reuses the scores of its pairs.
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
    """Return the fingerprint of the scored content of samples, which does not depend on `kept_settings`."""
    return samples.made_from.get(SCORED_TEXTS, samples.fingerprint)


def still_follows(stored: Stamp, new: Stamp, settings: Settings) -> bool:
    """Return true if a stored table is up to date: if it were made now, it would be the same.

    A table that was kept although its file became unreadable is up to date as long as the file does not change again.
    The bound on bad rows is not part of recipes, since it only decides whether a file is refused. So a changed bound
    makes a table stale only if it changes this decision.
    """
    if not RECIPES[stored.asset].is_read_from_source:
        return stored.recipe == new.recipe
    if "unreadable" in stored.facts:
        tried = stored.facts.get(OUTLIVED_AS, stored.recipe)
        return tried == new.recipe and stored.facts.get("bad_rows_max_share") == settings.bad_rows_max_share
    n_bad = sum(n for reason, n in stored.facts.get("set_aside", {}).items() if reason in BAD_ROW_REASONS)
    is_allowed = n_bad <= most_bad_rows(stored.facts.get("rows", 0), settings.bad_rows_max_share)
    return stored.recipe == new.recipe and is_allowed
