"""The two kinds of sources, the corpus and the pool of samples, with everything in which they differ.

Sensors, schedules, status, removal, registration and backfills iterate over `KINDS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dagster as dg

from el_assets.catalogue import ASSETS_OF_JOBS, TABLES, has_table_a_shard, made_under
from el_assets.corpus.assets import open_corpus_of
from el_assets.entropylong.state import CorpusRules
from el_assets.entropylong.summary import entropylong_rows, entropylong_warnings
from el_assets.gateau.assets import open_instructions_of
from el_assets.gateau.state import PoolRules
from el_assets.gateau.summary import gateau_rows, gateau_warnings
from el_assets.operations.staleness import Inventory, Rules
from el_assets.partitions import corpus_shards, instruction_shards, registered_shards
from el_assets.parts import JOBS, SHARDED_PARTS, Job
from el_resources.addresses import without_secrets
from el_resources.configuration.environment import variable_of
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource
from el_resources.store.shard_tables import KnownStamps


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of source that is divided into shards.

    Attributes:
        name: the setting that names the source.
        partitions: its shards, as Dagster knows them.
        open_source: opens the source that the settings name. Raises ValueError (see el_resources.sources.opening).
        rules: returns the rules on the state of its tables.
        rows, warnings: return the rows and the warnings about some of its shards that a run prints at its end.
        called: the name of the source in the descriptions of sensors.
        described: the description of its external asset, `source_NAME`.
        ends_with: the last asset of its part of the graph.
        check, check_described: name and description of the check on that asset that every table is up to date.
    """

    name: str
    partitions: dg.DynamicPartitionsDefinition
    open_source: Callable[[Settings], ShardedSource]
    rules: Callable[[Inventory], Rules]
    rows: Callable[[Settings, KnownStamps, Sequence[str]], list[tuple[str, str]]]
    warnings: Callable[[KnownStamps, Sequence[str]], list[str]]
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
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that make its tables."""
        return tuple(job for job in JOBS if SHARDED_PARTS[job.part][0] == self.name)

    @property
    def assets(self) -> tuple[str, ...]:
        """The tables of its shards and the assets over all shards, in the order in which `status` lists them."""
        return tuple(asset for job in self.jobs for asset in ASSETS_OF_JOBS[job.name])

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table that a shard may have."""
        jobs = {job.name for job in self.jobs}
        side_tables = (table.name for table in TABLES.values() if table.job in jobs and not table.recipe)
        return (*(name for name in self.assets if has_table_a_shard(name)), *side_tables)

    def made_under(self, settings: Settings) -> tuple[str, ...]:
        """Return the assets that are made under the settings."""
        return made_under(self.assets, settings)

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
            rows=entropylong_rows,
            warnings=entropylong_warnings,
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
            rows=gateau_rows,
            warnings=gateau_warnings,
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
