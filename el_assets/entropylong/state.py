"""Rules that make tables of the corpus stale in addition to their recipes."""

from el_assets.corpus.index_state import IndexState
from el_assets.entropylong.candidate_search import lost_candidates
from el_assets.operations.staleness import Finding, Inventory
from el_resources.store.stamps import Stamp


class CorpusRules:
    """Rules of the retrieval index and of the tables made with it (operations.staleness.Rules)."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._index = IndexState(inventory)

    def also_stale(self, stored: Stamp) -> tuple[str, ...]:
        """Return a reason if leftovers are missing, candidates are gone from the index, or newer ones are asked for."""
        if stored.asset == "packed_sequences" and not self._inventory.tables.has("packing_leftovers", stored.partition):
            return ("packing_leftovers is missing",)
        if stored.asset != "candidate_contexts" or self._index.build is None:
            return ()
        if stored.pinned["index_tag"] == self._index.build.tag:
            return ()
        if self._inventory.settings.refresh_candidates:
            return ("the index is newer, and refresh_candidates is set",)
        if not self._index.lost_rows_since(stored.pinned["index_tag"]):
            return ()
        lost = len(lost_candidates(self._inventory.tables, stored.partition, self._index.chunk_ids))
        return (f"{lost} of its candidates are gone from the index",) if lost else ()

    def over_shards(self, asset: str, partition: str) -> Finding:
        """Return the state of `retrieval_index`, or of a table of all shards."""
        return self._index.finding() if asset == "retrieval_index" else self._inventory.of_all_shards(asset)

    def misleads(self, asset: str) -> bool:
        """Return true if the index holds rows that are gone from context_chunks."""
        return self._index.misleads()

    def has_inputs(self, asset: str) -> bool:
        """Return true if there are chunks to index."""
        return self._index.has_chunks
