"""Overhead of a run, a step and a shard, measured by runs over a store in which everything is up to date.

Such a run starts a process, loads the definitions, reads the stamps of its shards, compares fingerprints and writes
events; it loads no model. Runs over 1 and over SHARDS shards of the five EntropyLong tables are timed; from the two
times follow the seconds per run, per step, and per shard and step. A local run is a process of its own (`dagster job
execute`, as the daemon would start it) on SQLite; with --ray a run is a job of a Ray cluster on this machine, launched
by the daemon, on Postgres.

    OMP_NUM_THREADS=1 python benchmarks/overheads.py          # needs nothing
    OMP_NUM_THREADS=1 python benchmarks/overheads.py --ray    # needs the extras cluster and test, and a Postgres server
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import dagster as dg

from tests.conftest import library_documents, write_json_lines
from tests.el_assets.test_workspace import SMALL
from tests.support.cluster import RayCluster, dagster_daemon, postgres_server, wait_for

ROOT = Path(__file__).parents[1]
SHARDS = 16
STEPS = 5  # of build_sequences


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one run.

    Attributes:
        start: from the run's submission to the first event of its process.
        rest: from that event to the run's end.
        steps: in the run's steps, summed.
    """

    start: float
    rest: float
    steps: float

    @property
    def total(self) -> float:
        return self.start + self.rest


def environment_of(folder: Path) -> dict[str, str]:
    """Write a corpus of tiny shards into the folder and return the environment variables of a workspace over it."""
    for number in range(SHARDS):
        write_json_lines(folder / "corpus" / f"{number:02d}.jsonl", library_documents(2, offset=number))
    given = {**SMALL, "store": folder / "store", "corpus": f"jsonl:{folder / 'corpus'}"}
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **{f"EL_{name.upper()}": str(value) for name, value in given.items()},
    }


def cost_of(instance: dg.DagsterInstance, run_id: str, submitted: float, ended: float) -> Cost:
    stats = instance.get_run_stats(run_id)
    steps = [s for s in instance.get_run_step_stats(run_id) if s.start_time and s.end_time]
    assert stats.start_time and len(steps) >= STEPS, (stats, steps)
    return Cost(
        start=stats.start_time - submitted,
        rest=ended - stats.start_time,
        steps=sum((s.end_time or 0) - (s.start_time or 0) for s in steps),
    )


def run_locally(environment: dict[str, str], instance: dg.DagsterInstance, n_shards: int) -> Cost:
    tags = {"dagster/asset_partition_range_start": "00.jsonl"}
    tags["dagster/asset_partition_range_end"] = f"{n_shards - 1:02d}.jsonl"
    before = {run.run_id for run in instance.get_runs()}
    submitted = time.time()
    command = ["job", "execute", "-m", "el_assets.definitions", "-j", "build_sequences", "--tags", json.dumps(tags)]
    subprocess.run([sys.executable, "-m", "dagster", *command], env=environment, check=True, capture_output=True)
    ended = time.time()
    (run,) = [run for run in instance.get_runs() if run.run_id not in before]
    return cost_of(instance, run.run_id, submitted, ended)


def run_on_ray(environment: dict[str, str], instance: dg.DagsterInstance, n_shards: int) -> Cost:
    """Return the cost from the launch on: before it, a backfill waits for the daemon's tick, every 30 seconds."""
    shards = ",".join(f"{number:02d}.jsonl" for number in range(n_shards))
    command = [sys.executable, "-m", "el_assets", "backfill", "--select", "entropylong", "--shards", shards]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=ROOT)
    backfill = next(line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("backfill "))

    def ended() -> dg.DagsterRun | None:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
        return runs[0] if runs and runs[0].is_finished else None

    run = wait_for("the run's end", ended, 300)
    stats = instance.get_run_stats(run.run_id)
    assert run.is_success and stats.launch_time and stats.end_time
    return cost_of(instance, run.run_id, stats.launch_time, stats.end_time)


@contextmanager
def cluster(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start a Ray cluster with one worker on this machine and yield the environment that uses it."""
    home = folder / "ray"
    home.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", home)
    with ExitStack() as running:
        environment = {**environment, "DAGSTER_POSTGRES_URL": running.enter_context(postgres_server())}
        ray = RayCluster({**environment, "RAY_memory_monitor_refresh_ms": "0"})
        running.callback(ray.stop)
        ray.start_head()
        ray.start_worker("worker")
        environment |= {"DAGSTER_HOME": str(home), "RAY_JOBS_ADDRESS": ray.address, "EL_RUNS_AT_ONCE": "1"}
        os.environ.update({k: environment[k] for k in ("DAGSTER_POSTGRES_URL", "RAY_JOBS_ADDRESS", "EL_RUNS_AT_ONCE")})
        running.enter_context(dagster_daemon(environment))
        yield environment


def table(name: str, measure: Callable[[int], Cost], rounds: int) -> str:
    """Return a line of the table: medians over the rounds; a step includes its checks."""
    one, many = ([measure(n) for _ in range(rounds)] for n in (1, SHARDS))
    total, start = median(c.total for c in one), median(c.start for c in one)
    in_steps, all_in_steps = median(c.steps for c in one), median(c.steps for c in many)
    per_shard_step = (all_in_steps - in_steps) / (SHARDS - 1) / STEPS
    per_step = in_steps / STEPS - per_shard_step
    per_run = total - in_steps
    cells = f"{start:.1f} | {per_run:.1f} | {per_step:.2f} | {per_shard_step:.3f} | {STEPS * per_shard_step:.2f}"
    return f"| {name} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ray", action="store_true", help="run as jobs of a Ray cluster on this machine (default: local runs)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each run is timed (default: 3)")
    options = parser.parse_args()
    print(
        "| runs | to the first event, s | a run without its steps, s | a step, s | a shard and step, s | a shard, s |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        environment = {**environment_of(folder), "DAGSTER_HOME": str(home)}
        made = [sys.executable, "-m", "el_assets", "run", "--select", "index,entropylong"]
        subprocess.run(made, env=environment, check=True, capture_output=True, cwd=home)
        measure = run_locally
        if options.ray:
            environment = running.enter_context(cluster(folder, environment))
            measure = run_on_ray
        else:
            os.chdir(home)  # the instance's paths are relative
        instance = running.enter_context(dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]))
        print(table("Ray" if options.ray else "local", lambda n: measure(environment, instance, n), options.rounds))


if __name__ == "__main__":
    main()
