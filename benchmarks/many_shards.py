"""Measure the cost of a workspace of many shards before any work is done: loading, ticks, status, the UI.

Registers tiny JSON lines files on an instance of its own (SQLite on disk), times the sensor's and schedules' ticks and
`python -m el_assets status` with no table and with every table there (stamps of empty tables), and asks a real
webserver what the asset page and the backfill dialog ask. With `--runs` it builds the index twice from the shell
instead, and says how much memory the largest process took (Linux: KiB of the kernel) and how many bytes Dagster's
database has for a shard after each. Prints a Markdown table.

    python benchmarks/many_shards.py --shards 5000
    python benchmarks/many_shards.py --shards 500 --runs
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
ASSET_PAGE = """{assetNodeOrError(assetKey: {path: ["documents"]}) {... on AssetNode {
  partitionStats {numPartitions numMaterialized numFailed}
  assetPartitionStatuses {... on DefaultPartitionStatuses {materializedPartitions unmaterializedPartitions}}
}}}"""
BACKFILL_DIALOG = """{assetNodeOrError(assetKey: {path: ["documents"]}) {... on AssetNode {
  partitionKeysByDimension {name type partitionKeys}
}}}"""


class Clock:
    """Seconds of named stages, as they are printed."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str]] = []

    def time(self, name: str, work: Callable[[], Any], note: Callable[[Any], str] = lambda _: "") -> Any:
        started = time.monotonic()
        found = work()
        self.rows.append((name, time.monotonic() - started, note(found)))
        print(f"{name}: {self.rows[-1][1]:.2f} s {self.rows[-1][2]}", file=sys.stderr, flush=True)
        return found

    def table(self) -> str:
        lines = [f"| {name} | {seconds:.1f} | {note} |" for name, seconds, note in self.rows]
        return "\n".join(["| what | seconds | |", "|---|---|---|", *lines])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=5000, help="files of the corpus (default: 5000)")
    parser.add_argument("--no-server", action="store_true", help="do not time the web server")
    parser.add_argument(
        "--runs", action="store_true", help="build the index twice instead, and measure memory and Dagster's database"
    )
    options = parser.parse_args()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_home(home, options.shards)
        if options.runs:
            measure_runs(home, options.shards, clock)
        else:
            measure(home, clock)
        if not (options.no_server or options.runs):
            with webserver(home) as ask:
                for name, query in (("asset page", ASSET_PAGE), ("backfill dialog", BACKFILL_DIALOG)):
                    clock.time(f"GraphQL of the {name}", lambda query=query: ask(query), answered)
                    clock.time(f"GraphQL of the {name}, again", lambda query=query: ask(query), answered)
    print(f"\n{options.shards:,} shards\n\n{clock.table()}")


def write_home(home: Path, n_shards: int) -> None:
    """A Dagster home with its instance's configuration and a corpus; the settings lead there."""
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    (home / "corpus").mkdir()
    for number in range(n_shards):
        (home / "corpus" / f"{number:05d}.jsonl").write_text(json.dumps({"id": str(number), "text": "text"}) + "\n")
    os.chdir(home)  # where dagster.yaml's relative folders are
    os.environ |= {
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "EL_STORE": str(home / "store"),
        "EL_CORPUS": f"jsonl:{home / 'corpus'}",
        "PYTHONWARNINGS": "ignore",
    }


def measure_runs(home: Path, n_shards: int, clock: Clock) -> None:
    """Two runs of the index, of which the second finds everything up to date."""

    def build() -> str:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("-m", "el_assets", "run", "--select", "index")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        stored = sum(path.stat().st_size for path in home.rglob("*.db*"))
        return (
            f"{cpu:.0f} CPU s; peak {after.ru_maxrss / 2**10:.0f} MiB; "
            f"Dagster's database {stored / 2**20:.1f} MiB, {stored / n_shards:,.0f} bytes a shard"
        )

    for what in ("build_index", "build_index again"):
        clock.time(what, build, str)


def measure(home: Path, clock: Clock) -> None:
    """Ticks and commands, with no table and then with all of them."""
    load = "import el_assets.definitions as d; d.defs.get_repository_def()"
    import dagster as dg

    from el_assets.definitions import defs
    from el_resources.settings import Settings

    settings = Settings.load()
    resources = {"settings": settings}
    with dg.DagsterInstance.get() as instance:

        def watch(cursor: str | None) -> Any:
            with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
                return defs.resolve_sensor_def("follow_corpus").evaluate_tick(context)

        def ask(schedule: str) -> Any:
            context = dg.build_schedule_context(
                instance=instance, scheduled_execution_time=datetime(2026, 1, 2, tzinfo=UTC), resources=resources
            )
            return defs.resolve_schedule_def(schedule).evaluate_tick(context)

        def register(tick: Any) -> None:
            for request in tick.dynamic_partitions_requests:
                instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)

        first = clock.time("sensor, first tick", lambda: watch(None), lambda t: f"cursor {len(t.cursor):,} characters")
        clock.time("registration by the daemon", lambda: register(first))
        clock.time("definitions in a fresh process", lambda: python("-c", load))
        clock.time("sensor, second tick", lambda: watch(first.cursor), lambda tick: tick.skip_message)
        clock.time("backfill_index, no table there", lambda: ask("backfill_index"), asked)
        clock.time("backfill_sequences, no table there", lambda: ask("backfill_sequences"), asked)
        clock.time("status command, no table there", lambda: python("-m", "el_assets", "status"))
        clock.time("(writing the tables, not part of it)", lambda: write_tables(settings))
        clock.time("(reporting materializations, not part of it)", lambda: report_materializations(instance))
        clock.time("backfill_index, all done", lambda: ask("backfill_index"), asked)
        clock.time("backfill_sequences, all done", lambda: ask("backfill_sequences"), asked)
        clock.time("status command, all done", lambda: python("-m", "el_assets", "status"))


def asked(tick: Any) -> str:
    return tick.skip_message or f"asks for {len(tick.run_requests)} runs"


def python(*arguments: str) -> None:
    """A fresh process; what `status` finds is no failure."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def write_tables(settings: Any) -> None:
    """Empty tables with the stamps that a finished shard has."""
    import polars as pl

    from el_assets.catalogue import CORPUS_TABLES, SEQUENCE_TABLES
    from el_assets.corpus.assets import open_corpus_of
    from el_assets.tables.recipes import Cookbook
    from el_assets.tables.schemas import polars_schema
    from el_resources.store.shard_tables import ShardTables

    tables, source = ShardTables(settings.store), open_corpus_of(settings)
    cookbook = Cookbook(settings, tables, source)
    for shard in source.shards():
        for name in (*CORPUS_TABLES, *SEQUENCE_TABLES):
            stamp = replace(cookbook.draft(name, shard), facts={"rows": 0})
            tables.write(pl.DataFrame(schema=polars_schema(name)), stamp)
        leftovers = replace(stamp, asset="packing_leftovers")
        tables.write(pl.DataFrame(schema=polars_schema("packing_leftovers")), leftovers)


def report_materializations(instance: Any) -> None:
    """Every other shard of `documents`, as far as Dagster knows."""
    import dagster as dg

    from el_assets.partitions import registered_shards

    for shard in registered_shards(instance)[::2]:
        instance.report_runless_asset_event(dg.AssetMaterialization("documents", partition=shard))


@contextmanager
def webserver(home: Path) -> Iterator[Callable[[str], Any]]:
    """Yields a function that asks a webserver on this instance."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "dagster-webserver"), "-w", str(ROOT / "workspace.yaml")]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen([*command, "-h", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)

    def ask(query: str) -> Any:
        body = json.dumps({"query": query}).encode()
        request = Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as response:
            return json.load(response)

    try:
        for _ in range(120):
            try:
                ask("{version}")
                break
            except (URLError, ConnectionError):
                time.sleep(0.5)
        yield ask
    finally:
        server.terminate()
        server.wait(timeout=60)


def answered(answer: Any) -> str:
    """Return the data of an answer; raise if it holds an error."""
    assert "errors" not in answer, answer["errors"]
    node = answer["data"]["assetNodeOrError"]
    if "partitionStats" in node:
        return (
            f"{node['partitionStats']['numMaterialized']:,} of {node['partitionStats']['numPartitions']:,} materialized"
        )
    return f"{len(node['partitionKeysByDimension'][0]['partitionKeys']):,} names"


if __name__ == "__main__":
    main()
