"""Rules that make tables of the pool stale in addition to their recipes."""

from el_assets.gateau.assets import influence_inputs, scored_pool, subset_inputs
from el_assets.gateau.selectors import measured_under, tables_of
from el_assets.operations.staleness import Finding, Inventory, waits_for
from el_resources.store.stamps import Stamp


class PoolRules:
    """Rules of the ranking and the subsets, which are made from all scored shards (operations.staleness.Rules)."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory, self._tables = inventory, inventory.tables

    def also_stale(self, stored: Stamp) -> tuple[str, ...]:
        """Return no reason: the tables of a shard depend on their recipes alone."""
        return ()

    def over_shards(self, asset: str, partition: str) -> Finding:
        """Return the state of `influence_scores`, of a partition of `selected_subsets`, or of a table of all shards."""
        if asset == "selected_subsets":
            return self._subset(partition)
        return self._influence() if asset == "influence_scores" else self._inventory.of_all_shards(asset)

    def misleads(self, asset: str) -> bool:
        """Return false: only the subsets read the ranking, and they are made right after it."""
        return False

    def has_inputs(self, asset: str) -> bool:
        """Return true if a shard is registered."""
        return bool(self._inventory.registered)

    def _influence(self) -> Finding:
        """Return the state of `influence_scores`, over the registered shards that have both scores."""
        registered, names = self._inventory.registered, tables_of(measured_under(self._inventory.settings))
        return self._inventory.of_all_shards(
            "influence_scores", lambda: influence_inputs(scored_pool(self._tables, registered, names))
        )

    def _subset(self, fraction: str) -> Finding:
        """Return the state of a partition of `selected_subsets`."""
        stored = self._tables.stamp("selected_subsets", fraction)
        influence = self._tables.stamp("influence_scores")
        if stored is None:
            return self._inventory.missing("selected_subsets", fraction)
        waits = waits_for([("influence_scores", self._inventory.over_shards("influence_scores"))])
        inputs: dict[str, Stamp] = {}
        if influence is not None:
            samples = self._tables.stamps("instruction_samples", influence.facts["shards"])
            inputs = subset_inputs(influence, samples)
        return self._inventory.against(stored, inputs, waits)
