"""Rules that make tables of the pool stale in addition to their recipes."""

from el_assets.catalogue import SAMPLE_TABLES, made_under
from el_assets.gateau.assets import influence_inputs, scored_pool, subset_inputs
from el_assets.operations.staleness import UNREGISTERED, Finding, Inventory, waits_for
from el_resources.store.stamps import Stamp


class PoolRules:
    """Rules of the ranking and the subsets, which are made from all scored shards (operations.staleness.Rules)."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory, self._tables = inventory, inventory.tables

    def also_stale(self, stored: Stamp) -> tuple[str, ...]:
        """Return no reason: the tables of a shard depend on their recipes alone."""
        return ()

    def over_shards(self, asset: str, partition: str) -> Finding:
        """Return the state of `influence_scores`, or of a partition of `selected_subsets`."""
        return self._influence() if asset == "influence_scores" else self._subset(partition)

    def misleads(self, asset: str) -> bool:
        """Return false: only the subsets read the ranking, and they are made right after it."""
        return False

    def has_inputs(self, asset: str) -> bool:
        """Return true if a shard is registered."""
        return bool(self._inventory.registered)

    def _influence(self) -> Finding:
        """Return the state of `influence_scores`, over the registered shards that have both scores."""
        stored = self._tables.stamp("influence_scores")
        if stored is None:
            return self._inventory.missing("influence_scores")
        if not self._inventory.registered:
            return UNREGISTERED
        try:
            hmg, cam = scored_pool(self._tables, self._inventory.registered, with_cam=self._inventory.settings.cam)
        except ValueError as error:
            return Finding("stale", (str(error),))
        waits = waits_for(
            (f"{name}/{shard}", self._inventory.table(name, shard))
            for shard in hmg
            for name in made_under(SAMPLE_TABLES, self._inventory.settings)
            if name != "instruction_samples"
        )
        return self._inventory.against(stored, influence_inputs(hmg, cam), waits)

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
