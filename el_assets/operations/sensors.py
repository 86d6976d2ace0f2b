"""Sensors that follow a source: they register new shards, log changed ones, and have those removed that are gone.

A tick compares the source's listing with the registered shards, and each shard's fingerprint (hash or entity tag of its
content) with the one in the cursor. The tick itself writes nothing, so it is safe to evaluate one by hand: Dagster
registers new shards, and a run of `remove_shards` removes the others. The schedules make the tables of new and changed
shards, which they recognise by the tables' stamps.

If a source cannot be listed, the tick fails. If more than half of the registered shards are gone at once, the source is
probably faulty: no table is removed unless `remove_many_shards` is set. Shards without any table do not count, since
nothing is lost with them.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import dagster as dg

from el_assets.operations.removal import Departures, removal_of, remove_shards
from el_assets.operations.schedules import UNDER_WAY
from el_assets.partitions import registered_shards
from el_assets.sources import KINDS, Kind
from el_resources.listed_names import listed
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource
from el_resources.sources.shard_files import still_there

# Bytes of the hashes of a shard's name and content. They are few because every tick stores the cursor again.
NAME_BYTES, CONTENT_BYTES = 5, 3
REMOVALS_UNDER_WAY = dg.RunsFilter(job_name=remove_shards.name, statuses=UNDER_WAY)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Differences between a source and the registered shards, and since the last tick: names of shards, in order."""

    came: Sequence[str]
    changed: Sequence[str]
    went: Sequence[str]
    registered: Sequence[str]
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.came or self.changed or self.went)

    def in_words(self) -> str:
        found = [
            f"{len(shards)} {what}: {listed(shards)}"
            for what, shards in (("new", self.came), ("changed", self.changed), ("gone", self.went))
            if shards
        ]
        found += [
            f"{shard} is no longer a shard, and keeps its tables: {why}" for shard, why in self.passed_over.items()
        ]
        return "; ".join(found) or f"nothing changed in {len(self.registered)} shards"


def find_changes(
    fingerprints: Mapping[str, str],
    registered: Sequence[str],
    cursor: str | None,
    passed_over: Mapping[str, str] | None = None,
) -> Changes:
    """Return how a listing differs from the registered shards and from a cursor.

    Args:
        fingerprints: fingerprint of every shard that the source lists.
        cursor: result of `cursor_of` at the last tick; None at the first tick, at which no shard counts as changed.
        passed_over: files of the source that are no shards, with the reason; a registered shard whose file is among
            them does not count as gone.
    """
    unlisted = [shard for shard in registered if shard not in fingerprints]
    held = still_there(unlisted, passed_over or {})
    known, remembered = set(registered), _remembered(cursor)
    return Changes(
        came=[shard for shard in fingerprints if shard not in known],
        changed=[
            shard
            for shard, fingerprint in fingerprints.items()
            if shard in known and remembered.get(_short(shard, NAME_BYTES), b"") not in (b"", _content(fingerprint))
        ],
        went=[shard for shard in unlisted if shard not in held],
        registered=registered,
        passed_over=held,
    )


def cursor_of(fingerprints: Mapping[str, str]) -> str:
    """Return a cursor of 11 characters per shard. Its short hashes show nearly every change, but prove nothing."""
    entries = sorted(_short(shard, NAME_BYTES) + _content(fingerprint) for shard, fingerprint in fingerprints.items())
    return json.dumps({"version": 1, "shards": b64encode(b"".join(entries)).decode()})


def _remembered(cursor: str | None) -> dict[bytes, bytes]:
    if not cursor:
        return {}
    packed, size = b64decode(json.loads(cursor)["shards"]), NAME_BYTES + CONTENT_BYTES
    entries = (packed[start : start + size] for start in range(0, len(packed), size))
    return {entry[:NAME_BYTES]: entry[NAME_BYTES:] for entry in entries}


def _content(fingerprint: str) -> bytes:
    return _short(fingerprint, CONTENT_BYTES)


def _short(text: str, n_bytes: int) -> bytes:
    return blake2b(text.encode(), digest_size=n_bytes).digest()


def listing(name: str, settings: Settings) -> tuple[ShardedSource, dict[str, str]]:
    """Open a source, and return it with the fingerprint of each shard that it lists.

    Raises:
        ValueError: the source lists no shard.
    """
    source = KINDS[name].open_source(settings)
    fingerprints = {shard: source.shard_fingerprint(shard) for shard in source.shards()}
    if not fingerprints:
        raise ValueError(f"{source.uri!r} lists no shard; check {KINDS[name].variable}")
    return source, fingerprints


def _answer(context: dg.SensorEvaluationContext, settings: Settings, name: str) -> dg.SensorResult:
    """Return the result of a tick over one kind of source."""
    kind, (source, fingerprints) = KINDS[name], listing(name, settings)
    registered = registered_shards(context.instance, kind.partitions)
    changes = find_changes(fingerprints, registered, context.cursor, source.passed_over())
    # Choose shards to remove.
    departures = Departures.of(kind, settings, changes.registered, changes.went)
    going, words, runs = departures.removable(settings), changes.in_words(), list[dg.RunRequest]()
    # Say what happens.
    if departures.ghosts:
        words += f". Without tables in this store, so only deregistered: {listed(departures.ghosts)}"
    if len(going) < len(changes.went):
        words += f". No table is removed: {departures.refusal(source.uri)}"
    if going and not context.instance.get_runs_count(REMOVALS_UNDER_WAY):
        runs = [removal_of(name, [shard for shard in changes.went if shard in set(going)])]
    context.log.info(words)
    return dg.SensorResult(
        skip_reason=None if runs else words,
        run_requests=runs,
        cursor=cursor_of(fingerprints),
        dynamic_partitions_requests=[kind.partitions.build_add_request(list(changes.came))] if changes.came else [],
    )


def _sensor(kind: Kind, every_seconds: int) -> dg.SensorDefinition:
    """Return a sensor that is off until a person switches it on."""

    @dg.sensor(
        name=f"follow_{kind.name}",
        job=remove_shards,
        minimum_interval_seconds=every_seconds,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Every {every_seconds} s (EL_WATCH_EVERY_SECONDS): registers shards for new files of "
        f"{kind.called} ({kind.variable}), logs which files changed, and starts remove_shards for files that are "
        "gone. If more than half of the shards are gone at once it removes nothing, unless EL_REMOVE_MANY_SHARDS=true. "
        "Makes no tables: the schedules do. If the source cannot be listed, the tick fails and changes nothing.",
    )
    def sensor(context: dg.SensorEvaluationContext, settings: Settings) -> dg.SensorResult:
        return _answer(context, settings, kind.name)

    return sensor


def sensors(every_seconds: int) -> list[dg.SensorDefinition]:
    """Return a sensor for each kind of source."""
    return [_sensor(kind, every_seconds) for kind in KINDS.values()]
