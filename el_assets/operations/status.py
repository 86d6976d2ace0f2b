"""The state of the workspace: for each asset, the shards that are done, missing and stale, and why."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dagster as dg

from el_assets.catalogue import TABLES, has_table_a_shard
from el_assets.operations.staleness import Finding, Inventory, n_shards
from el_assets.partitions import HOW_TO_REGISTER
from el_assets.sources import KINDS, Kind
from el_resources.listed_names import NAMES_SHOWN, listed
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource
from el_resources.store.shard_tables import UNPARTITIONED


@dataclass(kw_only=True)
class AssetStatus:
    """The states of an asset's partitions.

    Attributes:
        missing_because: reason by partition, for partitions whose file exists but does not count.
        stale: reasons by partition.
    """

    asset: str
    done: int = 0
    missing: list[str] = field(default_factory=list)
    missing_because: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stale: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, asset: str, findings: Iterable[tuple[str, Finding]]) -> "AssetStatus":
        status = cls(asset=asset)
        for partition, finding in findings:
            if finding.is_done:
                status.done += 1
            elif finding.state == "missing":
                status.missing.append(partition)
                status.missing_because |= {partition: finding.why} if finding.why else {}
            else:
                status.stale[partition] = finding.why
        return status

    @property
    def is_done(self) -> bool:
        return not (self.missing or self.stale)


@dataclass(frozen=True, kw_only=True)
class SourceStatus:
    """The status of the assets made from a source, and how the source differs from the registered shards.

    Attributes:
        not_registered: shards of the source that are not registered.
        gone: registered shards that the source no longer lists.
        unreadable: reason by shard; such a shard has its earlier tables, or empty ones.
    """

    uri: str
    shards: int
    not_registered: Sequence[str]
    gone: Sequence[str]
    unreadable: Mapping[str, str]
    assets: Sequence[AssetStatus]

    @property
    def is_done(self) -> bool:
        return not (self.not_registered or self.gone or self.unreadable) and all(asset.is_done for asset in self.assets)

    def only(self, names: Container[str]) -> "SourceStatus":
        """Return the status with these assets only."""
        return replace(self, assets=[asset for asset in self.assets if asset.asset in names])

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.uri,
            "shards": self.shards,
            "not_registered": list(self.not_registered),
            "gone": list(self.gone),
            "unreadable": dict(self.unreadable),
            "assets": {
                a.asset: {
                    "done": a.done,
                    "missing": a.missing,
                    "missing_because": a.missing_because,
                    "stale": a.stale,
                }
                for a in self.assets
            },
        }


def status_of(
    kind: Kind,
    instance: dg.DagsterInstance,
    settings: Settings,
    *,
    subsets: Sequence[str] | None = None,
    source: ShardedSource | None = None,
    verify: bool = False,
) -> SourceStatus:
    """Return the state of all tables that are made from a source.

    Args:
        subsets: partitions to look at of assets over all shards; None for all.
        source: the opened source; opened here if None.
        verify: read every table and compare it with its digest.
    """
    inventory = kind.inventory(instance, settings, source, verify=verify)
    made = kind.made_under(settings)
    inventory.tables.read_ahead([name for name in made if has_table_a_shard(name)], inventory.registered)
    return _status(kind.uri(settings), inventory, [_asset_status(inventory, name, subsets) for name in made])


def _asset_status(inventory: Inventory, name: str, subsets: Sequence[str] | None) -> AssetStatus:
    if has_table_a_shard(name):
        return AssetStatus.of(name, ((shard, inventory.table(name, shard)) for shard in inventory.registered))
    keys = TABLES[name].partitions if name in TABLES else ()
    chosen = [key for key in keys if subsets is None or key in subsets] if keys else [UNPARTITIONED]
    return AssetStatus.of(name, ((key, inventory.over_shards(name, key)) for key in chosen))


def _status(uri: str, inventory: Inventory, assets: Sequence[AssetStatus]) -> SourceStatus:
    registered = set(inventory.registered)
    stamps = ((shard, inventory.tables.stamp(assets[0].asset, shard)) for shard in inventory.registered)
    return SourceStatus(
        uri=uri,
        shards=len(registered),
        not_registered=sorted(inventory.listed - registered),
        gone=inventory.gone,
        unreadable={shard: s.facts["unreadable"] for shard, s in stamps if s and "unreadable" in s.facts},
        assets=assets,
    )


def made_again(
    instance: dg.DagsterInstance,
    settings: Settings,
    sources: Mapping[str, ShardedSource],
    chosen: Mapping[str, Sequence[str]],
    assets: Container[str],
) -> Iterator[str]:
    """Yield a line for each asset whose tables a run makes again, with the reasons; none if `force` is set.

    Args:
        sources: opened sources, by kind.
        chosen: shards of the run, by kind.
        assets: assets that the run makes.

    Example:
        entropy_maps: 4 tables made again: setting alpha was 1.5, is 1.25
    """
    for kind, source in sources.items() if not settings.force else ():
        made = KINDS[kind].made_under(settings)
        tables = [name for name in made if name in assets and has_table_a_shard(name)]
        try:
            yield from _made_again(KINDS[kind].inventory(instance, settings, source), chosen[kind], tables)
        except (OSError, ValueError):  # the steps of the run report the same error
            continue


def _made_again(inventory: Inventory, shards: Sequence[str], tables: Sequence[str]) -> Iterator[str]:
    inventory.tables.read_ahead(tables, shards)
    for name in tables:
        status = AssetStatus.of(name, ((shard, inventory.table(name, shard)) for shard in shards))
        causes = Counter("; ".join(why) for why in (*status.stale.values(), *status.missing_because.values()))
        told = [cause if len(causes) == 1 else f"{cause} ({count})" for cause, count in causes.most_common()]
        if told:
            n_tables = causes.total()
            yield f"{name}: {n_tables} table{'s' * (n_tables > 1)} made again: {'; '.join(told)}"


def in_words(status: SourceStatus, *, all_names: bool = False) -> Iterator[str]:
    """Yield lines for a terminal: the counts of every asset, then the partitions that are not done, by reason."""
    shown = None if all_names else NAMES_SHOWN
    yield f"{n_shards(status.shards)} of {status.uri} registered"
    if status.not_registered:
        new = status.not_registered
        yield f"  {len(new)} not registered: {listed(new, shown)}; {HOW_TO_REGISTER}"
    if status.gone:
        yield f"  {len(status.gone)} gone from the source: {listed(status.gone, shown)}"
    for problem in list(status.unreadable.values())[:shown]:
        yield f"  not read: {problem}"
    if shown and (more := len(status.unreadable) - shown) > 0:
        yield f"  not read: {more} more; --shards names them"
    width = max(len(asset.asset) for asset in status.assets)
    yield f"  {'':<{width}}  {'done':>7}  {'missing':>7}  {'stale':>7}"
    for asset in status.assets:
        yield f"  {asset.asset:<{width}}  {asset.done:>7,}  {len(asset.missing):>7,}  {len(asset.stale):>7,}"
    for asset in status.assets:
        for reason, partitions in problems(asset).items():
            where = "" if partitions == [UNPARTITIONED] else f": {listed(partitions, shown)}"
            yield f"  {asset.asset}: {reason}{where}"


def problems(asset: AssetStatus) -> dict[str, list[str]]:
    """Return the partitions that are not done, by reason; several reasons of one partition are joined."""
    found = defaultdict[str, list[str]](list)
    for partition in asset.missing:
        why = asset.missing_because.get(partition)
        found[f"missing: {'; '.join(why)}" if why else "missing"].append(partition)
    for partition, why in asset.stale.items():
        found[f"stale: {'; '.join(why)}"].append(partition)
    return found
