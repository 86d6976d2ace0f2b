"""Comparison of the retrieval index with the chunks of the registered shards."""

from collections.abc import Mapping
from functools import cached_property

import polars as pl

from el_assets.corpus.assets import context_store, index_tag
from el_assets.operations.staleness import DONE, MISSING, UNREGISTERED, Finding, Inventory, n_shards, waits_for
from el_resources.store.pinned_index import PinnedIndex
from el_resources.store.stamps import Stamp


class IndexState:
    """The state of the current build of the index, which is read once.

    Args:
        inventory: the corpus, whose chunks the index should hold.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._settings = inventory.settings
        self._rows_lost: dict[str, bool] = {}

    def lost_rows_since(self, tag: str) -> bool:
        """Return true if rows of the build with this tag are gone from the current build, or may be."""
        if tag not in self._rows_lost:
            self._rows_lost[tag] = self._compared_with(tag)
        return self._rows_lost[tag]

    def _compared_with(self, tag: str) -> bool:
        try:
            before = context_store(self._settings).open(tag, hash_bytes=0).shard_fingerprints()
        except ValueError:  # a build that is gone
            return True
        return any(self._indexed.get(shard) != fingerprint for shard, fingerprint in before.items())

    @cached_property
    def build(self) -> PinnedIndex | None:
        store = context_store(self._settings)
        return store.open(hash_bytes=0) if not self._fault and store.is_built() else None

    @cached_property
    def _fault(self) -> str:
        """The fault of the index's files in words; empty if there is none."""
        return context_store(self._settings).fault()

    @cached_property
    def _indexed(self) -> dict[str, str]:
        return self.build.shard_fingerprints() if self.build else {}

    @cached_property
    def chunk_ids(self) -> pl.Series:
        assert self.build, "candidates are looked for in an index"
        return self.build.chunk_ids()["chunk_id"]

    def finding(self) -> Finding:
        """Return the state of `retrieval_index`."""
        if self.build is None:
            why = f"its files are broken: {self._fault}; job build_index builds it again"
            return Finding("missing", (why,)) if self._fault else MISSING
        chunks = self._chunk_stamps
        if not self._inventory.registered:
            return UNREGISTERED
        if not chunks:
            return Finding("stale", ("no registered shard has context_chunks",))
        found = ((f"context_chunks/{shard}", self._inventory.table("context_chunks", shard)) for shard in chunks)
        if waits := waits_for(found):
            return Finding("stale", waits)
        if index_tag(self._settings, chunks) == self.build.tag:
            return DONE
        return Finding("stale", self._differences(chunks) or ("its settings changed",))

    def misleads(self) -> bool:
        """Return true if the index holds rows that are gone from context_chunks: candidates that cannot be scored."""
        wanted = {shard: stamp.fingerprint for shard, stamp in self._chunk_stamps.items()}
        return any(wanted.get(shard) != fingerprint for shard, fingerprint in self._indexed.items())

    @property
    def has_chunks(self) -> bool:
        """True if a registered shard has chunks."""
        return any(stamp.facts.get("rows") for stamp in self._chunk_stamps.values())

    @cached_property
    def _chunk_stamps(self) -> dict[str, Stamp]:
        return self._inventory.tables.stamps("context_chunks", self._inventory.registered)

    def _differences(self, chunks: Mapping[str, Stamp]) -> tuple[str, ...]:
        full = {shard: stamp.fingerprint for shard, stamp in chunks.items() if stamp.facts.get("rows")}
        held = self._indexed
        counts = {
            "new": len(full.keys() - held.keys()),
            "changed": sum(held[shard] != full[shard] for shard in full.keys() & held.keys()),
            "gone": len(held.keys() - full.keys()),
        }
        return tuple(f"{n_shards(count)} of context_chunks {what}" for what, count in counts.items() if count)
