"""Both halves as backfills on a Ray cluster, with Dagster on Postgres and the store on S3: the tables of one machine.

The files of deploy/ are used as they are. A worker node is lost in the middle.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import polars.testing
import pytest

from el_assets.corpus.assets import context_store
from el_assets.operations.failed_runs import FIRST, LAST
from el_assets.parts import REPORTS
from el_assets.reports.assets import report_path
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from tests.conftest import Workspace, library_documents, library_samples
from tests.support.cluster import ROOT, RayCluster, dagster_daemon, postgres_server, wait_for
from tests.support.s3_server import BUCKET, S3, s3_server
from tests.support.small_settings import SMALL

pytestmark = pytest.mark.services

SHARDS = [f"{number}.jsonl" for number in range(8)]
PLACES = {"corpus": f"jsonl:s3://{BUCKET}/corpus", "instructions": f"jsonl:s3://{BUCKET}/instructions"}
# Two runs of four shards in each wave, one for each worker.
CLUSTER = {"store": f"s3://{BUCKET}/store", "shards_per_run": 4, "cores_per_run": 1, "gpus_per_run": 1}
CORPUS_TABLES = ("documents", "context_chunks", "entropy_maps", "candidate_contexts")
SCORED_TABLES = ("context_scores", "verified_pairs", "packed_sequences", "packing_leftovers")
SAMPLE_TABLES = ("instruction_samples", "hmg_scores", "cam_scores")
FRACTIONS = ("top_10_percent", "top_30_percent", "top_50_percent")
TABLES = [
    *((table, shard) for table in (*CORPUS_TABLES, *SCORED_TABLES, *SAMPLE_TABLES) for shard in SHARDS),
    ("influence_scores", "all"),
    *(("selected_subsets", fraction) for fraction in FRACTIONS),
]


@dataclass
class Deployment:
    """The cluster, Dagster's instance on Postgres and the environment of both."""

    ray: RayCluster
    instance: dg.DagsterInstance
    environment: dict[str, str]
    daemon_log: Path

    @property
    def tables(self) -> ShardTables:
        return ShardTables(str(CLUSTER["store"]))

    def submit(self, *parts: str) -> list[str]:
        """Backfills of all shards, by the command that a user has."""
        done = subprocess.run(
            [sys.executable, "-m", "el_assets", "backfill", "--select", ",".join(parts)],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "RayRunLauncher" in done.stdout
        return [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("backfill ")]

    def finish(self, backfills: Sequence[str], seconds: float) -> None:
        def all_done() -> bool:
            statuses = [self.instance.get_backfill(backfill).status.value for backfill in backfills]  # type: ignore[union-attr]
            assert not {"FAILED", "COMPLETED_FAILED", "CANCELED"} & set(statuses), self.failures(backfills)
            return set(statuses) == {"COMPLETED_SUCCESS"}

        wait_for("the end of the backfills", all_done, seconds, self.daemon_log)

    def runs(self, *backfills: str) -> list[dg.DagsterRun]:
        """The backfills' runs, oldest first."""
        found = [self.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill})) for backfill in backfills]
        return [run for runs in found for run in reversed(runs)]

    def failures(self, backfills: Sequence[str]) -> list[str]:
        """Return the errors of the failed runs."""
        failed = [run for run in self.runs(*backfills) if run.status == dg.DagsterRunStatus.FAILURE]
        return [entry.message for run in failed for entry in self.instance.all_logs(run.run_id)][-40:]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as s3:
        s3.empty()
        yield s3


@pytest.fixture(scope="module")
def alone(s3: S3, new_module_workspace: Callable[..., Workspace]) -> Workspace:
    """Both halves on this machine alone, from the same sources."""
    workspace = new_module_workspace(**SMALL, **PLACES)
    for number, shard in enumerate(SHARDS):
        workspace.write_shard(shard, library_documents(4, offset=4 * number))
        workspace.write_instructions(shard, library_samples(2, offset=2 * number))
    for kind in ("corpus", "instructions"):
        s3.filesystem().put(f"{workspace.folder}/{kind}/", f"{BUCKET}/{kind}/", recursive=True)
    assert workspace.register() == workspace.register_instructions() == SHARDS
    for job in ("build_index", "build_sequences", "score_samples", "select_samples"):
        assert workspace.run(job).success
    return workspace


@pytest.fixture(scope="module")
def deployment(s3: S3, alone: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "deploy" / "dagster.yaml", home)
    settings = {f"EL_{name.upper()}": str(value) for name, value in {**SMALL, **PLACES, **CLUSTER}.items()}
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_memory_monitor_refresh_ms": "0",  # this machine is shared, and what is tested is not its memory
    }
    with ExitStack() as running:
        environment["DAGSTER_POSTGRES_URL"] = running.enter_context(postgres_server())
        ray = RayCluster(dict(environment))
        running.callback(ray.stop)
        ray.start_head()
        ray.start_worker("worker-1")
        ray.start_worker("worker-2")
        environment |= (
            settings
            | ray.authentication
            | {
                "DAGSTER_HOME": str(home),
                "RAY_JOBS_ADDRESS": ray.address,
                "EL_RUNS_AT_ONCE": "2",
                "EL_EXECUTION": "ray",
            }
        )
        patch = running.enter_context(pytest.MonkeyPatch.context())
        for name in ("DAGSTER_POSTGRES_URL", "RAY_JOBS_ADDRESS", "EL_RUNS_AT_ONCE"):
            patch.setenv(name, environment[name])
        log = running.enter_context(dagster_daemon(environment))
        instance = running.enter_context(dg.DagsterInstance.from_config(str(home)))
        yield Deployment(ray, instance, environment, log)


@pytest.fixture(scope="module")
def finished(deployment: Deployment) -> list[str]:
    """Backfills of both halves and their reports, at their end."""
    backfills = deployment.submit("index", "entropylong", "gateau", "reports")
    assert len(backfills) == 2
    deployment.finish(backfills, seconds=900)
    return backfills


def test_tables_equal_those_of_one_machine(deployment: Deployment, finished: list[str], alone: Workspace) -> None:
    for table, partition in TABLES:
        assert_equal(deployment.tables.read(table, partition), alone.tables.read(table, partition), (table, partition))
    settings = Settings.load({}, **CLUSTER)
    index = context_store(settings).open().chunk_ids()
    assert index.equals(context_store(alone.loaded()).open().chunk_ids())
    assert [name for name in REPORTS.values() if not report_path(settings, name).exists()] == []


def assert_equal(found: pl.DataFrame, expected: pl.DataFrame, which: tuple[str, str]) -> None:
    try:
        polars.testing.assert_frame_equal(found, expected, abs_tol=1e-4)
    except AssertionError as error:
        raise AssertionError(f"{which}: {error}") from error


def test_a_run_is_a_ray_job_of_many_shards_that_asks_for_what_it_needs(
    deployment: Deployment, finished: list[str]
) -> None:
    runs = deployment.runs(*finished)
    assert asked_of_ray(deployment.ray) == {run.run_id: {"CPU": 1.0, "GPU": 1.0} for run in runs}
    sizes = Counter((run.tags.get(FIRST), run.tags.get(LAST)) for run in runs)
    whole = {(FRACTIONS[0], FRACTIONS[-1]): 1, (None, None): 4}  # subsets; index, ranking and two reports
    assert sizes == {(SHARDS[0], SHARDS[3]): 3, (SHARDS[4], SHARDS[7]): 3, **whole}
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}


def asked_of_ray(ray: RayCluster) -> dict[str, dict[str, float]]:
    """Resources of each run's job, by run id."""
    actors = ray.ask("/api/v0/actors?detail=true&limit=1000")["data"]["result"]["result"]
    jobs = [actor for actor in actors if actor["class_name"] == "JobSupervisor"]
    return {actor["name"].partition("dagster-run-")[2]: dict(actor["required_resources"]) for actor in jobs}


def test_a_lost_node_costs_a_retry_and_doubles_nothing(
    deployment: Deployment, finished: list[str], alone: Workspace, s3: S3
) -> None:
    for table in SCORED_TABLES:
        for shard in SHARDS:
            deployment.tables.remove(table, shard)
    before = len(s3.requests)
    (backfill,) = deployment.submit("entropylong")
    run, done = wait_for("a scored shard", lambda: halfway(deployment, backfill), 180, deployment.daemon_log)
    node = deployment.ray.node_of(run.run_id)
    assert node is not None
    deployment.ray.kill(node)
    deployment.finish([backfill], seconds=300)

    lost, *others = sorted(deployment.runs(backfill), key=lambda one: one.run_id != run.run_id)
    assert lost.status == dg.DagsterRunStatus.FAILURE
    held = f"failed with 4 shards, {lost.tags[FIRST]} to {lost.tags[LAST]}, in "
    wait_for("a message", lambda: [text for text in deployment.failures([backfill]) if held in text], 90)
    assert {one.status for one in others} == {dg.DagsterRunStatus.SUCCESS}
    assert [one.parent_run_id for one in others].count(lost.run_id) == 1, "one retry"
    for table, partition in TABLES:
        assert_equal(deployment.tables.read(table, partition), alone.tables.read(table, partition), (table, partition))
    written = Counter(path.split("?")[0] for method, path in s3.requests[before:] if method == "PUT")
    assert {
        shard: written[f"/{BUCKET}/store/tables/context_scores/{shard}.parquet"] for shard in done
    } == dict.fromkeys(done, 1), "what the lost run had finished is not made again"


def halfway(deployment: Deployment, backfill: str) -> tuple[dg.DagsterRun, list[str]] | None:
    """A run that has scored some of its shards, and those shards."""
    for run in deployment.runs(backfill):
        first = run.tags[FIRST]
        shards = SHARDS[SHARDS.index(first) :][:4]
        done = [shard for shard in shards if deployment.tables.exists("context_scores", shard)]
        if done and run.status == dg.DagsterRunStatus.STARTED:
            return run, done
    return None
