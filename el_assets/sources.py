"""The two kinds of sources, the corpus and the pool of samples, with everything in which they differ.

Sensors, schedules, status, removal, registration and backfills iterate over `KINDS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import dagster as dg

from el_assets.catalogue import CORPUS_TABLES, SAMPLE_TABLES, SEQUENCE_TABLES, made_under
from el_assets.corpus.assets import open_corpus_of
from el_assets.entropylong.state import CorpusRules
from el_assets.gateau.assets import open_instructions_of
from el_assets.gateau.state import PoolRules
from el_assets.operations.staleness import Inventory, Rules
from el_assets.partitions import corpus_shards, instruction_shards, registered_shards, selected_fractions
from el_resources.addresses import without_secrets
from el_resources.configuration.environment import variable_of
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of source that is divided into shards.

    Attributes:
        name: the setting that names the source.
        partitions: its shards, as Dagster knows them.
        open_source: opens the source that the settings name. Raises ValueError (see el_resources.sources.opening).
        rules: returns the rules on the state of its tables.
        shard_tables: the tables that are made for each shard, in the graph's order.
        side_tables: tables that are written together with one of the shard tables.
        whole: assets that are made from all shards together, with the partitions of each.
        order: all of these tables and assets, in the order in which `status` lists them.
        called: the name of the source in the descriptions of sensors.
        described: the description of its external asset, `source_NAME`.
        ends_with: the last asset of its part of the graph.
        check, check_described: name and description of the check on that asset that every table is up to date.
    """

    name: str
    partitions: dg.DynamicPartitionsDefinition
    open_source: Callable[[Settings], ShardedSource]
    rules: Callable[[Inventory], Rules]
    shard_tables: tuple[str, ...]
    side_tables: tuple[str, ...] = ()
    whole: Mapping[str, dg.PartitionsDefinition | None]
    order: tuple[str, ...]
    called: str
    described: str
    ends_with: str
    check: str
    check_described: str

    @property
    def variable(self) -> str:
        """The variable that names the source."""
        return variable_of(self.name)

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table that a shard may have."""
        return (*self.shard_tables, *self.side_tables)

    def made_under(self, settings: Settings) -> tuple[str, ...]:
        """Return the tables that are made for each shard under the settings."""
        return made_under(self.shard_tables, settings)

    def uri(self, settings: Settings) -> str:
        """Return the source's address without credentials."""
        return without_secrets(str(getattr(settings, self.name)))

    def inventory(
        self,
        instance: dg.DagsterInstance,
        settings: Settings,
        source: ShardedSource | None = None,
        *,
        verify: bool = False,
    ) -> Inventory:
        """Return the state of the registered shards; the source is opened unless it is given."""
        registered = registered_shards(instance, self.partitions)
        return Inventory(settings, source or self.open_source(settings), registered, self.rules, verify=verify)

    def external_asset(self, settings: Settings) -> dg.AssetSpec:
        """Return the external asset of the source, at which lineage starts.

        Its metadata shows the source that the environment names when definitions load. A run may be launched with
        another one; each table records its source in the column `source`, and the source's content in its fingerprint.
        """
        return dg.AssetSpec(
            f"source_{self.name}",
            group_name="sources",
            kinds={"file"},
            description=self.described,
            metadata={"uri": self.uri(settings)},
        )


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="corpus",
            partitions=corpus_shards,
            open_source=open_corpus_of,
            rules=CorpusRules,
            shard_tables=(*CORPUS_TABLES, *SEQUENCE_TABLES),
            side_tables=("packing_leftovers",),
            whole={"retrieval_index": None},
            order=(*CORPUS_TABLES, "retrieval_index", *SEQUENCE_TABLES),
            called="the corpus",
            ends_with="packed_sequences",
            check="every_shard_is_current",
            check_described="Every table of every registered corpus shard, and the index, exists and is up to date "
            "with source, settings and models.",
            described="The documents of the corpus (`EL_CORPUS`): Parquet or JSON lines files, on disk, in an object "
            "store or on the Hugging Face hub, each file a shard; or the embedded documentation of Python's standard "
            "library. This workspace never writes to it.",
        ),
        Kind(
            name="instructions",
            partitions=instruction_shards,
            open_source=open_instructions_of,
            rules=PoolRules,
            shard_tables=SAMPLE_TABLES,
            whole={"influence_scores": None, "selected_subsets": selected_fractions},
            order=(*SAMPLE_TABLES, "influence_scores", "selected_subsets"),
            called="the pool of instruction samples",
            ends_with="selected_subsets",
            check="the_selection_is_current",
            check_described="Every table of every registered instruction shard, the ranking and the subsets exist "
            "and are up to date with source, settings and models.",
            described="The instruction samples that GATEAU chooses from (`EL_INSTRUCTIONS`): Parquet or JSON lines "
            "files, on disk, in an object store or on the Hugging Face hub, each file a shard; or the embedded "
            "questions about Python's documentation. This workspace never writes to it.",
        ),
    )
}
