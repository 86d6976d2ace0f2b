"""The job that takes shards out whose files left the source: their tables, then their registration.

The index loses their rows when it is next synced, and shards that quote them are made again after that; the schedules
see to both. A run that dies is made up for by the next: a shard is registered until its tables are gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from el_assets.partitions import (
    deregister_shards,
    registered_shards,
    went_in_masses,
)
from el_assets.sources import KINDS, Kind
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables


@dataclass(frozen=True, kw_only=True)
class Departures:
    """Registered shards that the source does not list.

    Attributes:
        lost: those with a table in the store.
        ghosts: those without any, which another source or store left registered.
        registered: how many shards are registered, ghosts left out.
    """

    lost: Sequence[str]
    ghosts: Sequence[str]
    registered: int

    @classmethod
    def of(cls, kind: Kind, settings: Settings, registered: Sequence[str], went: Sequence[str]) -> "Departures":
        tables = ShardTables(settings.store)
        lost = [shard for shard in went if any(tables.exists(table, shard) for table in kind.tables)]
        kept = set(lost)
        ghosts = [shard for shard in went if shard not in kept]
        return cls(lost=lost, ghosts=ghosts, registered=len(registered) - len(ghosts))

    @property
    def in_masses(self) -> bool:
        """True if more than half of the registered shards are gone, so that the source may be faulty."""
        return went_in_masses(len(self.lost), self.registered)

    def removable(self, settings: Settings) -> list[str]:
        """Shards that may be taken out: ghosts always, for nothing is lost with them; the others within the bound."""
        allowed = settings.remove_many_shards or not self.in_masses
        return [*self.ghosts, *(self.lost if allowed else ())]

    def refusal(self, uri: str) -> str:
        """Return the reason for which shards that went in masses are left."""
        return (
            f"{len(self.lost)} of {self.registered} registered shards are gone from {uri!r}, which is more than half; "
            "set EL_REMOVE_MANY_SHARDS=true to remove them"
        )


class ShardsThatWent(dg.Config):
    """The choice of the shards to take out."""

    kind: str
    shards: list[str]


@dg.op
def remove_tables(context: dg.OpExecutionContext, config: ShardsThatWent, settings: Settings) -> None:
    """Remove tables and registration of shards that the source does not list any more."""
    kind, tables = KINDS[config.kind], ShardTables(settings.store)
    listed = set(kind.open_source(settings).shards())
    registered = set(registered_shards(context.instance, kind.partitions))
    for shard in config.shards:
        if shard in listed or shard not in registered:
            context.log.info(
                f"{shard}: not removed, since it is {'in the source' if shard in listed else 'not registered'}"
            )
            continue
        for table in reversed(kind.tables):
            tables.remove(table, shard)
        deregister_shards(context.instance, [shard], kind.partitions)
        context.log.info(f"{shard}: removed")


@dg.job(
    description="Remove shards that the source no longer lists: their tables and their registration. Started by the "
    "sensors follow_corpus and follow_instructions."
)
def remove_shards() -> None:
    """One op."""
    remove_tables()


def removal_of(kind: str, shards: list[str]) -> dg.RunRequest:
    """A run that takes shards out."""
    config = dg.RunConfig(ops={"remove_tables": ShardsThatWent(kind=kind, shards=shards)})
    return dg.RunRequest(run_config=config, tags={"entropylong/removed": str(len(shards))})
