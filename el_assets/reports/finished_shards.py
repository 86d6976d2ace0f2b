"""The tables of the shards that EntropyLong has finished, as its report reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from el_assets.catalogue import SEQUENCE_TABLES
from el_assets.entropylong.selection import KeepRule, over_shards
from el_assets.reports.common import refuse_torn_chain
from el_resources.store.shard_tables import MissingTableError, ShardTables
from el_resources.store.stamps import Stamp, refuse_mixed_settings


@dataclass(frozen=True, kw_only=True)
class FinishedShards:
    """The shards that have all of EntropyLong's tables, with the tables and their stamps.

    Attributes:
        stamps: stamp of every table of SEQUENCE_TABLES, by asset and shard.
        scores: `context_scores` of all shards, with root ids as `over_shards` makes them.
        pairs, sequences, leftovers: the tables of all shards, with `shard`.
    """

    tables: ShardTables
    shards: list[str]
    stamps: Mapping[str, Mapping[str, Stamp]]
    scores: pl.DataFrame
    pairs: pl.DataFrame
    sequences: pl.DataFrame
    leftovers: pl.DataFrame

    @classmethod
    def of(cls, tables: ShardTables, registered: Sequence[str]) -> Self:
        """Read the tables of the registered shards that are finished.

        Raises:
            MissingTableError: no shard is finished.
            MixedSettingsError: shards were made under different settings.
            ValueError: tables of one shard contradict each other.
        """
        shards = [shard for shard in registered if all(tables.has(asset, shard) for asset in SEQUENCE_TABLES)]
        if not shards:
            raise MissingTableError(
                f"no shard in store {str(tables.store)!r} has all tables from entropy_maps to packed_sequences; "
                "run job build_sequences first"
            )
        stamps = {asset: tables.stamps(asset, shards) for asset in SEQUENCE_TABLES}
        for of_asset in stamps.values():
            refuse_mixed_settings(of_asset)
        for shard in shards:
            refuse_torn_chain([stamps[asset][shard] for asset in SEQUENCE_TABLES])
        return cls(
            tables=tables,
            shards=shards,
            stamps=stamps,
            scores=over_shards(tables.scan_many("context_scores", shards)),
            pairs=tables.scan_many("verified_pairs", shards).collect(),
            sequences=tables.scan_many("packed_sequences", shards).collect(),
            leftovers=tables.scan_many("packing_leftovers", shards).collect(),
        )

    @property
    def made_under(self) -> Mapping[str, Any]:
        """Settings of `packed_sequences`, which include those of all tables before it."""
        return self.stamps["packed_sequences"][self.shards[0]].settings

    @property
    def rule(self) -> KeepRule:
        names = ("epsilon", "criterion", "beats_controls")
        return KeepRule(**{name: self.made_under[name] for name in names})

    def total(self, asset: str, fact: str) -> int:
        return sum(int(stamp.facts[fact]) for stamp in self.stamps[asset].values())
