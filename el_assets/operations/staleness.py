"""The state of every table (done, missing or stale) and the reason.

A table is stale if its inputs or the settings have changed (el_assets.tables.recipes), if one of its inputs is stale or
missing, or if a rule of its method says so (`Rules`). An `Inventory` reads every stamp once, so the state of thousands
of shards is found in seconds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from el_assets.catalogue import RECIPES
from el_assets.partitions import HOW_TO_REGISTER
from el_assets.tables.description import Recipe
from el_assets.tables.recipes import SCORED_TEXTS, Cookbook, stamps_over_shards, still_follows
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource
from el_resources.store.shard_tables import UNPARTITIONED, KnownStamps
from el_resources.store.stamps import Stamp

State = Literal["done", "missing", "stale"]


@dataclass(frozen=True)
class Finding:
    """The state of one table; `why` gives the reasons if it is stale, or missing although its file exists."""

    state: State
    why: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.state == "done"


DONE, MISSING = Finding("done"), Finding("missing")
UNREGISTERED = Finding("stale", (f"no shard is registered; {HOW_TO_REGISTER}",))


class Rules(Protocol):
    """The rules of a method on the state of its tables, in addition to recipes; each method defines its own."""

    def also_stale(self, stored: Stamp) -> tuple[str, ...]:
        """Return the reasons why a table is stale although its recipe has not changed."""
        ...

    def over_shards(self, asset: str, partition: str) -> "Finding":
        """Return the state of an asset that is made from all shards together."""
        ...

    def misleads(self, asset: str) -> bool:
        """Return true if an asset over shards holds rows that have changed since, so it must be made again first."""
        ...

    def has_inputs(self, asset: str) -> bool:
        """Return true if there are inputs from which an asset over shards can be made."""
        ...


class Inventory:
    """The state of every table of some shards, under the settings.

    Args:
        source: the corpus or the pool of samples; its shards are listed here.
        registered: the shards that Dagster knows, in registration order.
        rules: function that returns the rules of the kind of source (`Kind.rules`).
        verify: read every table whole and compare it with its digest.
    """

    def __init__(
        self,
        settings: Settings,
        source: ShardedSource,
        registered: Sequence[str],
        rules: "Callable[[Inventory], Rules]",
        *,
        verify: bool = False,
    ) -> None:
        self.settings = settings
        self.tables = KnownStamps(settings.store, verify=verify)
        self.registered = list(registered)
        self.listed = set(source.shards())
        self._cookbook = Cookbook(settings, self.tables, source)
        self._found: dict[tuple[str, str], Finding] = {}
        self.rules = rules(self)

    @property
    def gone(self) -> list[str]:
        """Registered shards whose file is gone from the source."""
        return [shard for shard in self.registered if shard not in self.listed]

    def unfinished(self, tables: Sequence[str]) -> list[str]:
        """Return the registered shards in the source for which one of these tables is missing or stale."""
        self.tables.read_ahead(tables, self.registered)
        return [
            shard
            for shard in self.registered
            if shard in self.listed and not all(self.table(name, shard).is_done for name in tables)
        ]

    def table(self, asset: str, shard: str) -> Finding:
        """Return the state of a shard's table."""
        key = (asset, shard)
        if key not in self._found:
            self._found[key] = self._judge(asset, shard)
        return self._found[key]

    def _judge(self, asset: str, shard: str) -> Finding:
        stored = self.tables.stamp(asset, shard)
        if stored is None:
            return self.missing(asset, shard)
        if RECIPES[asset].is_read_from_source and shard not in self.listed:
            return Finding("stale", ("its file left the source",))
        waits = waits_for((name, self.table(name, shard)) for name in RECIPES[asset].inputs)
        if waits:
            return Finding("stale", waits)
        draft = self._cookbook.draft(asset, shard, stored=stored)
        follows = still_follows(stored, draft, self.settings)
        why = self.rules.also_stale(stored) if follows else differences(stored, draft, self._cookbook)
        return Finding("stale", why) if why else DONE

    def missing(self, asset: str, partition: str = UNPARTITIONED) -> Finding:
        """Return the state of a missing table, with the damage if its file exists."""
        damage = self.tables.damage(asset, partition)
        return Finding("missing", (damage,)) if damage else MISSING

    def over_shards(self, asset: str, partition: str = UNPARTITIONED) -> Finding:
        """Return the state of an asset that is made from all shards together."""
        key = (asset, partition)
        if key not in self._found:
            self._found[key] = self.rules.over_shards(asset, partition)
        return self._found[key]

    def of_all_shards(self, asset: str, inputs: Callable[[], Mapping[str, Stamp]] | None = None) -> Finding:
        """Return the state of a table that is made of tables of the registered shards.

        Args:
            inputs: returns their stamps by `TABLE/SHARD`, or raises ValueError if they cannot be read together; those
                that `Recipe.inputs_over_shards` names if None.
        """
        stored = self.tables.stamp(asset)
        if stored is None:
            return self.missing(asset)
        if not self.registered:
            return UNREGISTERED
        try:
            given = inputs() if inputs else stamps_over_shards(asset, self.tables, self.registered)
        except ValueError as error:
            return Finding("stale", (str(error),))
        place = {shard: number for number, shard in enumerate(self.registered)}
        names = sorted((tuple(name.split("/", 1)) for name in given), key=lambda name: place[name[1]])
        waits = waits_for((f"{name}/{shard}", self.table(name, shard)) for name, shard in names)
        return self.against(stored, given, waits)

    def against(self, stored: Stamp, inputs: Mapping[str, Stamp], waits: tuple[str, ...]) -> Finding:
        """Return the state of a stored table.

        Args:
            inputs: stamps of its inputs.
            waits: reasons from `waits_for`, if an input is not done.
        """
        if waits:
            return Finding("stale", waits)
        draft = self._cookbook.draft(stored.asset, stored.partition, inputs)
        return DONE if draft.recipe == stored.recipe else Finding("stale", differences(stored, draft, self._cookbook))


def differences(stored: Stamp, draft: Stamp, cookbook: Cookbook) -> tuple[str, ...]:
    """Return the differences between a stored table and the one that would be made now, in words."""
    recipe = RECIPES[stored.asset]
    was, now = stored.made_from, draft.made_from
    parts = [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]
    changed = {name for name in recipe.settings if stored.settings.get(name) != draft.settings[name]}
    told_otherwise = {SCORED_TEXTS}
    if changed & set(recipe.file_settings):  # such a setting also changes the source's fingerprint
        told_otherwise.add("source")
    parts = [name for name in parts if name not in told_otherwise]
    found = [_part_changed(recipe, name, was.get(name), now.get(name)) for name in parts if "/" not in name]
    shards = {name.partition("/")[2] for name in parts if "/" in name}
    if shards:
        found.append(f"the pool changed: {n_shards(len(shards))}")
    found += [
        f"setting {name} was {stored.settings.get(name)!r}, is {draft.settings[name]!r}"
        for name in recipe.settings
        if name in changed
    ]
    others = [role for role in recipe.models if stored.settings.get(role) != draft.settings[role]]
    found += list(dict.fromkeys(cookbook.roles.why_other(role, stored, draft.settings[role]) for role in others))
    if not found and recipe.is_read_from_source:
        found = ["its file, or EL_BAD_ROWS_MAX_SHARE, has changed since it was read"]
    return tuple(found) or ("its stamp does not record what it was made from",)


def _part_changed(recipe: Recipe, name: str, was: str | None, now: str | None) -> str:
    if name in recipe.words:
        return recipe.words[name](was, now)
    match name:
        case "code_version":
            return f"code version was {was}, is {now}"
        case "source":
            return "source changed"
    return f"input {name} was made again"


def waits_for(inputs: Iterable[tuple[str, Finding]]) -> tuple[str, ...]:
    """Return the reason to wait for inputs: the first that is not done, and how many others; empty if all are."""
    found = [f"its input {name} is {finding.state}" for name, finding in inputs if not finding.is_done]
    return (found[0] + (f", and {len(found) - 1} more" if len(found) > 1 else ""),) if found else ()


def n_shards(count: int) -> str:
    return f"{count} shard{'' if count == 1 else 's'}"
