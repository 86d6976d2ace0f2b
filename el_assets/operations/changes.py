"""A sensor that shows in the UI, between runs, which tables became stale and which files of the sources changed.

It is switched on by default, since it changes nothing: it records results of the status checks, and observations of the
sources. It checks again only if a source's listing, the settings or the number of ended runs differ from the last tick,
and records a result only if it differs from the last one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from el_assets.operations.schedules import UNDER_WAY
from el_assets.operations.sensors import Changes, cursor_of, find_changes, listing
from el_assets.operations.status_checks import STATUS_CHECKS, StatusCheck, cannot_look
from el_assets.partitions import registered_shards
from el_assets.sources import KINDS
from el_assets.tables.shown_versions import VERSIONED, shown_version
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource
from el_resources.store.stamps import digest

SHARDS_LISTED = 50
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
Event = dg.AssetObservation | dg.AssetCheckEvaluation


@dataclass(frozen=True, kw_only=True)
class Look:
    """The state of a source and its tables at the last tick, as the cursor stores it.

    Attributes:
        shards: the source's listing as a cursor (`sensors.cursor_of`).
        seen: digest of everything on which the check's result depends.
        told: digest of the result that was recorded last.
    """

    shards: str = ""
    seen: str = ""
    told: str = ""


def observation(kind: str, changes: Changes, fingerprints: Mapping[str, str]) -> dg.AssetObservation:
    """Return the observation for a source's page: new, changed and removed shards.

    It has no data version: with one, Dagster would show every shard as stale, not only those that changed.
    """
    listed = {name: list(getattr(changes, name)) for name in ("came", "changed", "went")}
    return dg.AssetObservation(
        f"source_{kind}",
        description=changes.in_words(),
        metadata={
            "shards": len(fingerprints),
            **{name: len(shards) for name, shards in listed.items()},
            **{f"shards_{name}": dg.MetadataValue.json(shards[:SHARDS_LISTED]) for name, shards in listed.items()},
        },
    )


def evaluation(check: StatusCheck, found: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a result of a check in the form in which it is recorded outside a run."""
    return dg.AssetCheckEvaluation(
        asset_key=check.key.asset_key,
        check_name=check.key.name,
        passed=found.passed,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
    )


def _look(context: dg.SensorEvaluationContext, settings: Settings, kind: str, last: Look) -> tuple[Look, list[Event]]:
    check, events = STATUS_CHECKS[kind], list[Event]()
    problem: OSError | ValueError | None = None
    source: ShardedSource | None = None
    # List the source.
    try:
        source, fingerprints = listing(kind, settings)
    except (OSError, ValueError) as error:
        context.log.warning(f"{kind}: {error}")
        problem, shards, fingerprints = error, last.shards, {"": str(error)}
    else:
        registered = registered_shards(context.instance, KINDS[kind].partitions)
        changes = find_changes(fingerprints, registered, last.shards or None, source.passed_over())
        shards = cursor_of(fingerprints)
        context.log.info(f"{kind}: {changes.in_words()}")
        if changes and last.shards != shards:
            events.append(observation(kind, changes, fingerprints))
    # Skip an unchanged state.
    seen = _digest_of_inputs(context.instance, settings, fingerprints)
    if context.instance.get_runs_count(dg.RunsFilter(statuses=UNDER_WAY)):
        context.log.info(f"{check.key.name}: will be checked when no run is queued or running")
        return Look(shards=shards, seen=last.seen, told=last.told), events
    if seen == last.seen:
        return Look(shards=shards, seen=seen, told=last.told), events
    # Check, and record a new result.
    found = cannot_look(problem) if problem else check.result(context.instance, settings, source)
    told = digest([found.passed, found.description, repr(found.metadata)])
    if told != last.told:
        events.append(evaluation(check, found))
    context.log.info(f"{check.key.name}: {'passed' if found.passed else found.description}")
    return Look(shards=shards, seen=seen, told=told), events


def _digest_of_inputs(instance: dg.DagsterInstance, settings: Settings, fingerprints: Mapping[str, str]) -> str:
    """Return a digest of all that a status depends on; only runs write tables, so it holds the number of ended runs."""
    versions = {name: shown_version(name, settings) for name in sorted(VERSIONED)}
    registered = [registered_shards(instance, kind.partitions) for kind in KINDS.values()]
    ended = instance.get_runs_count(dg.RunsFilter(statuses=ENDED))
    return digest([versions, settings.store, dict(fingerprints), registered, ended])


def tell_what_changed(every_seconds: int) -> dg.SensorDefinition:
    """Return the sensor that records changes at this interval."""

    @dg.sensor(
        name="tell_what_changed",
        minimum_interval_seconds=every_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {every_seconds} s (EL_WATCH_EVERY_SECONDS): records new, changed and removed files as "
        "observations of source_corpus and source_instructions, and records which tables are missing or stale, and "
        "why, as results of the checks every_shard_is_current and the_selection_is_current. Registers nothing, removes "
        "nothing and makes no tables.",
    )
    def sensor(context: dg.SensorEvaluationContext, settings: Settings) -> dg.SensorResult:
        cursor = json.loads(context.cursor) if context.cursor else {}
        looks, events = {}, list[Event]()
        for kind in KINDS:
            look, found = _look(context, settings, kind, Look(**cursor.get(kind, {})))
            looks[kind] = vars(look)
            events += found
        words = f"recorded {len(events)} events" if events else "nothing changed since the last tick"
        return dg.SensorResult(skip_reason=words, cursor=json.dumps(looks), asset_events=events)

    return sensor
