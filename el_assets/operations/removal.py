"""The job that removes shards whose files are gone from the source: first their tables, then their registration.

The next update of the index removes their rows, and then the shards that quote them are made again; the schedules start
both. If a run dies, the next one finishes its work, since a shard stays registered until its tables are gone.
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
    """Registered shards that the source no longer lists.

    Attributes:
        lost: shards with a table in this store.
        ghosts: shards without any table here; they were registered for another source or store.
        registered: number of registered shards, without ghosts.
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
        """Return the shards that may be removed: all ghosts, and the lost shards unless they are too many."""
        allowed = settings.remove_many_shards or not self.in_masses
        return [*self.ghosts, *(self.lost if allowed else ())]

    def refusal(self, uri: str) -> str:
        """Return the reason why no table is removed if too many shards are gone at once."""
        return (
            f"{len(self.lost)} of {self.registered} registered shards are gone from {uri!r}, which is more than half; "
            "set EL_REMOVE_MANY_SHARDS=true to remove them"
        )


class ShardsThatWent(dg.Config):
    """The shards to remove."""

    kind: str
    shards: list[str]


@dg.op
def remove_tables(context: dg.OpExecutionContext, config: ShardsThatWent, settings: Settings) -> None:
    """Remove the tables and the registration of shards that the source no longer lists."""
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
    """Run the one op of the job."""
    remove_tables()


def removal_of(kind: str, shards: list[str]) -> dg.RunRequest:
    """Return the request of a run that removes these shards."""
    config = dg.RunConfig(ops={"remove_tables": ShardsThatWent(kind=kind, shards=shards)})
    return dg.RunRequest(run_config=config, tags={"entropylong/removed": str(len(shards))})
