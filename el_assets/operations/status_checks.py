"""Checks that show in the UI what `python -m el_assets status` prints, on the last asset of each half of the graph.

They fail as warnings, since the tables of a run are good even if other shards are missing or stale. Between runs the
sensor `tell_what_changed` records their results.
"""

from dataclasses import dataclass

import dagster as dg

from el_assets.operations.status import SourceStatus, problems, status_of
from el_assets.partitions import HOW_TO_REGISTER
from el_assets.sources import KINDS, Kind
from el_resources.listed_names import listed
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource


@dataclass(frozen=True, kw_only=True)
class StatusCheck:
    """The check of one kind of source."""

    kind: Kind

    @property
    def key(self) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(dg.AssetKey(self.kind.ends_with), self.kind.check)

    def result(
        self, instance: dg.DagsterInstance, settings: Settings, source: ShardedSource | None = None
    ) -> dg.AssetCheckResult:
        """Return the present state as a result; a warning with the reason if source or store cannot be read."""
        try:
            return status_result(status_of(self.kind, instance, settings, source=source))
        except (OSError, ValueError) as error:  # a run that did not need the source must not fail
            return cannot_look(error)

    def definition(self) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset=self.key.asset_key, name=self.key.name, description=self.kind.check_described)
        def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
            return self.result(context.instance, settings)

        return check


def cannot_look(error: Exception) -> dg.AssetCheckResult:
    """Return a warning that the source or the store cannot be read."""
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error))


def status_result(status: SourceStatus) -> dg.AssetCheckResult:
    """Return a status as the result of a check: passed if all is done; else the first reason. Metadata has counts."""
    lines = [f"{a.asset}: {why}: {listed(shards)}" for a in status.assets for why, shards in problems(a).items()]
    if status.not_registered:
        lines.insert(0, f"not registered: {listed(status.not_registered)}; {HOW_TO_REGISTER}")
    if status.gone:
        lines.insert(0, f"gone from the source: {listed(status.gone)}")
    lines[:0] = [f"not read: {problem}" for problem in status.unreadable.values()]
    table = "\n".join(
        ["| asset | done | missing | stale |", "|---|---|---|---|"]
        + [f"| {a.asset} | {a.done} | {len(a.missing)} | {len(a.stale)} |" for a in status.assets]
    )
    return dg.AssetCheckResult(
        passed=status.is_done,
        severity=dg.AssetCheckSeverity.WARN,
        description=lines[0] if lines else None,
        metadata={"tables": dg.MetadataValue.md(table), "not_done": dg.MetadataValue.json(lines)},
    )


STATUS_CHECKS = {name: StatusCheck(kind=kind) for name, kind in KINDS.items()}
CHECKS = [check.definition() for check in STATUS_CHECKS.values()]
