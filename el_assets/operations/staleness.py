"""Which tables are done, missing or stale, and why.

A table is stale when it no longer follows from its inputs and the settings (el_assets.tables.recipes), when a table
that it is made from is stale or missing, or when it holds what the retrieval index has lost. Every stamp is read once
per `Inventory`, so a look at thousands of shards costs seconds, and no table is read unless the index lost rows since.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import polars as pl

from el_assets.corpus.assets import context_store, index_tag
from el_assets.entropylong.candidate_search import lost_candidates
from el_assets.gateau.assets import influence_inputs, scored_pool, subset_inputs
from el_assets.partitions import HOW_TO_REGISTER, ShardedSource
from el_assets.tables.recipes import READ_FROM_SOURCE, RECIPES, SCORED_TEXTS, Cookbook, sample_tables, still_follows
from el_resources.settings import Settings
from el_resources.store.pinned_index import PinnedIndex
from el_resources.store.shard_tables import UNPARTITIONED, KnownStamps
from el_resources.store.stamps import Stamp

State = Literal["done", "missing", "stale"]


@dataclass(frozen=True)
class Finding:
    """What became of one table; `why` says what made it stale, in words, and is empty otherwise."""

    state: State
    why: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.state == "done"


# Settings that are part of a shard's fingerprint, because they decide how its file is read.
HOW_A_FILE_IS_READ = {"instruction_columns", "scored_exchange", "text_column"}
OWN_TOKEN = "the checkpoint's own end-of-text token"
DONE, MISSING = Finding("done"), Finding("missing")
UNREGISTERED = Finding("stale", (f"no shard is registered; {HOW_TO_REGISTER}",))


class Inventory:
    """The state of every table of some shards, under the settings.

    Args:
        source: the corpus or the pool of samples; it is listed here.
        registered: the shards that Dagster knows, in registration order.
        verify: compare every table's bytes with its digest, which reads all of them.
    """

    def __init__(
        self, settings: Settings, source: ShardedSource, registered: Sequence[str], *, verify: bool = False
    ) -> None:
        self.settings = settings
        self.tables = KnownStamps(settings.store, verify=verify)
        self.registered = list(registered)
        self.listed = set(source.shards())
        self._cookbook = Cookbook(settings, self.tables, source)
        self._found: dict[tuple[str, str], Finding] = {}
        self._rows_lost: dict[str, bool] = {}

    @property
    def gone(self) -> list[str]:
        """Registered shards whose file left the source."""
        return [shard for shard in self.registered if shard not in self.listed]

    def unfinished(self, tables: Sequence[str]) -> list[str]:
        """Registered shards that the source still has, of which one of the tables is missing or stale."""
        self.tables.read_ahead(tables, self.registered)
        return [
            shard
            for shard in self.registered
            if shard in self.listed and not all(self.table(name, shard).is_done for name in tables)
        ]

    def table(self, asset: str, shard: str) -> Finding:
        """The state of a shard's table."""
        key = (asset, shard)
        if key not in self._found:
            self._found[key] = self._judge(asset, shard)
        return self._found[key]

    def _judge(self, asset: str, shard: str) -> Finding:
        stored = self.tables.stamp(asset, shard)
        if stored is None:
            return self._not_there(asset, shard)
        if asset in READ_FROM_SOURCE and shard not in self.listed:
            return Finding("stale", ("its file left the source",))
        behind = _behind((name, self.table(name, shard)) for name in RECIPES[asset].inputs)
        if behind:
            return Finding("stale", behind)
        draft = self._cookbook.draft(asset, shard, stored=stored)
        follows = still_follows(stored, draft, self.settings)
        why = self._beside_recipe(stored) if follows else differences(stored, draft, self._cookbook)
        return Finding("stale", why) if why else DONE

    def _not_there(self, asset: str, partition: str = UNPARTITIONED) -> Finding:
        """Return that a table is missing, and why, if its file is there."""
        damage = self.tables.damage(asset, partition)
        return Finding("missing", (damage,)) if damage else MISSING

    def _beside_recipe(self, stored: Stamp) -> tuple[str, ...]:
        """What makes a table stale that still follows from its recipe."""
        if stored.asset == "packed_sequences" and not self.tables.has("packing_leftovers", stored.partition):
            return ("packing_leftovers is missing",)
        if stored.asset != "candidate_contexts" or self._index is None:
            return ()
        if stored.pinned["index_tag"] == self._index.tag:
            return ()
        if self.settings.refresh_candidates:
            return ("the index is newer, and refresh_candidates is set",)
        lost = self._lost(stored)
        return (f"{lost} of its candidates left the index",) if lost else ()

    def _lost(self, stored: Stamp) -> int:
        """Candidates that left the index; looked for only where the index lost rows since they were retrieved."""
        tag = stored.pinned["index_tag"]
        if tag not in self._rows_lost:
            self._rows_lost[tag] = self._lost_rows_since(tag)
        return len(lost_candidates(self.tables, stored.partition, self._chunk_ids)) if self._rows_lost[tag] else 0

    def _lost_rows_since(self, tag: str) -> bool:
        try:
            before = context_store(self.settings).open(tag, hash_bytes=0).shard_fingerprints()
        except ValueError:  # a build that is gone
            return True
        return any(self._indexed.get(shard) != fingerprint for shard, fingerprint in before.items())

    @cached_property
    def _index(self) -> PinnedIndex | None:
        store = context_store(self.settings)
        return store.open(hash_bytes=0) if not self._index_fault and store.is_built() else None

    @cached_property
    def _index_fault(self) -> str:
        """What is wrong with the files of the index, in words."""
        return context_store(self.settings).fault()

    @cached_property
    def _indexed(self) -> dict[str, str]:
        return self._index.shard_fingerprints() if self._index else {}

    @cached_property
    def _chunk_ids(self) -> pl.Series:
        assert self._index, "candidates are looked for in an index"
        return self._index.chunk_ids()["chunk_id"]

    def index(self) -> Finding:
        """The state of `retrieval_index`."""
        if self._index is None:
            why = f"its files are broken: {self._index_fault}; job build_index makes it anew"
            return Finding("missing", (why,)) if self._index_fault else MISSING
        chunks = self._chunk_stamps
        if not self.registered:
            return UNREGISTERED
        if not chunks:
            return Finding("stale", ("no registered shard has context_chunks",))
        if behind := _behind((f"context_chunks/{shard}", self.table("context_chunks", shard)) for shard in chunks):
            return Finding("stale", behind)
        if index_tag(self.settings, chunks) == self._index.tag:
            return DONE
        return Finding("stale", self._index_differences(chunks) or ("its settings changed",))

    def index_misleads(self) -> bool:
        """Whether the index holds rows that are not in context_chunks any more, so that candidates would be lost."""
        wanted = {shard: stamp.fingerprint for shard, stamp in self._chunk_stamps.items()}
        return any(wanted.get(shard) != fingerprint for shard, fingerprint in self._indexed.items())

    @property
    def has_chunks(self) -> bool:
        """Whether there is anything to index."""
        return any(stamp.facts.get("rows") for stamp in self._chunk_stamps.values())

    @cached_property
    def _chunk_stamps(self) -> dict[str, Stamp]:
        return self.tables.stamps("context_chunks", self.registered)

    def _index_differences(self, chunks: Mapping[str, Stamp]) -> tuple[str, ...]:
        full = {shard: stamp.fingerprint for shard, stamp in chunks.items() if stamp.facts.get("rows")}
        held = self._indexed
        counts = {
            "new": len(full.keys() - held.keys()),
            "changed": sum(held[shard] != full[shard] for shard in full.keys() & held.keys()),
            "gone": len(held.keys() - full.keys()),
        }
        return tuple(f"{_shards(count)} of context_chunks {what}" for what, count in counts.items() if count)

    def influence(self) -> Finding:
        """The state of `influence_scores`, over the registered shards that have both scores."""
        stored = self.tables.stamp("influence_scores")
        if stored is None:
            return self._not_there("influence_scores")
        if not self.registered:
            return UNREGISTERED
        try:
            hmg, cam = scored_pool(self.tables, self.registered, with_cam=self.settings.cam)
        except ValueError as error:
            return Finding("stale", (str(error),))
        behind = _behind(
            (f"{name}/{shard}", self.table(name, shard))
            for shard in hmg
            for name in sample_tables(self.settings)
            if name != "instruction_samples"
        )
        return self._over_shards(stored, influence_inputs(hmg, cam), behind)

    def subset(self, fraction: str) -> Finding:
        """The state of a partition of `selected_subsets`."""
        stored, influence = self.tables.stamp("selected_subsets", fraction), self.tables.stamp("influence_scores")
        if stored is None:
            return self._not_there("selected_subsets", fraction)
        behind = _behind([("influence_scores", self.influence())])
        inputs: dict[str, Stamp] = {}
        if influence is not None:
            samples = self.tables.stamps("instruction_samples", influence.facts["shards"])
            inputs = subset_inputs(influence, samples)
        return self._over_shards(stored, inputs, behind)

    def _over_shards(self, stored: Stamp, inputs: Mapping[str, Stamp], behind: tuple[str, ...]) -> Finding:
        if behind:
            return Finding("stale", behind)
        draft = self._cookbook.draft(stored.asset, stored.partition, inputs)
        return DONE if draft.recipe == stored.recipe else Finding("stale", differences(stored, draft, self._cookbook))


def differences(stored: Stamp, draft: Stamp, cookbook: Cookbook) -> tuple[str, ...]:
    """Why a stored table is not the one that would be made now, in words."""
    recipe = RECIPES[stored.asset]
    was, now = stored.made_from, draft.made_from
    parts = [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]
    changed = {name for name in recipe.settings if stored.settings.get(name) != draft.settings[name]}
    told_otherwise = {SCORED_TEXTS}
    if changed & HOW_A_FILE_IS_READ:  # is part of the source's fingerprint
        told_otherwise.add("source")
    parts = [name for name in parts if name not in told_otherwise]
    found = [_part_changed(name, was.get(name), now.get(name)) for name in parts if "/" not in name]
    shards = {name.partition("/")[2] for name in parts if "/" in name}
    if shards:
        found.append(f"the pool changed: {_shards(len(shards))}")
    found += [
        f"setting {name} was {stored.settings.get(name)!r}, is {draft.settings[name]!r}"
        for name in recipe.settings
        if name in changed
    ]
    others = [role for role in recipe.models if stored.settings.get(role) != draft.settings[role]]
    found += list(dict.fromkeys(cookbook.roles.why_other(role, stored, draft.settings[role]) for role in others))
    if not found and stored.asset in READ_FROM_SOURCE:
        found = ["its file, or the bound on bad rows, is another than when it was read"]
    return tuple(found) or ("its stamp does not say what it was made from",)


def _part_changed(name: str, was: str | None, now: str | None) -> str:
    match name:
        case "code_version":
            return f"code version was {was}, is {now}"
        case "set_aside_by":
            return "texts that spell control tokens are set aside by another rule"
        case "full_text_tokenizer":
            return f"setting full_text_tokenizer was {was!r}, is {now!r}"
        case "source":
            return "source changed"
        case "end_of_text":
            return f"groups were set apart by {was or OWN_TOKEN}, are by {now or OWN_TOKEN}"
        case "attention_layers":
            return "a segment's attention is now the mean over the layers that reach it"
        case "roots":
            return f"roots are {'no longer' if now else 'now'} sampled from it"
    return f"input {name} was made anew"


def _behind(inputs: Iterable[tuple[str, Finding]]) -> tuple[str, ...]:
    """What a table waits for: inputs that are not done themselves; the first, and how many more."""
    found = [f"its input {name} is {finding.state}" for name, finding in inputs if not finding.is_done]
    return (found[0] + (f", and {len(found) - 1} more" if len(found) > 1 else ""),) if found else ()


def _shards(count: int) -> str:
    return f"{count} shard{'' if count == 1 else 's'}"
