"""Fixtures that more than one test module uses."""

import gc
import gzip
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

# The suite decides its settings; a developer's own, in the shell or in a `.env` here, would change what it tests.
for name in [name for name in os.environ if name.startswith("EL_")]:
    del os.environ[name]
ELSEWHERE = tempfile.TemporaryDirectory(prefix="entropylong-tests-")
with chdir(ELSEWHERE.name):
    from el_assets.definitions import defs

from el_assets.catalogue import TABLES  # noqa: E402
from el_assets.gateau.assets import open_instructions_of  # noqa: E402
from el_assets.operations.schedules import range_tags  # noqa: E402
from el_assets.partitions import corpus_shards, instruction_shards, register_shards  # noqa: E402
from el_assets.workspace import build_definitions  # noqa: E402
from el_resources.configuration.launching import OF_THE_ENVIRONMENT  # noqa: E402
from el_resources.models.model_files import resolve_model  # noqa: E402
from el_resources.settings import Settings  # noqa: E402
from el_resources.sources.contracts import SourceDocument  # noqa: E402
from el_resources.sources.opening import open_corpus  # noqa: E402
from el_resources.store.shard_tables import ShardTables  # noqa: E402

QUIET = {"console": {"config": {"log_level": "ERROR"}}}
SEQUENCE_ASSETS = ("entropy_maps", "candidate_contexts", "context_scores", "verified_pairs", "packed_sequences")


@pytest.fixture(scope="session", autouse=True)
def elsewhere() -> Iterator[None]:
    """Tests run in a folder of their own, in which there is no `.env`."""
    with chdir(ELSEWHERE.name):
        yield


@pytest.fixture(scope="session", autouse=True)
def quicker_instances() -> Iterator[None]:
    """Dagster's storage keeps its engines, and does not wait for the disk: a run of a test takes a fifth less."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
            patch.setattr(module, "create_engine", engine_of)
        yield


def engine_of(url: str, poolclass: Any, connect_args: dict[str, Any] | None = None) -> sqlalchemy.Engine:
    """Return the engine of a file. Dagster makes one for each statement, which then compiles each statement anew."""
    return _engine(url, poolclass, tuple((connect_args or {}).items()))


@lru_cache(maxsize=256)
def _engine(url: str, poolclass: Any, connect_args: tuple[tuple[str, Any], ...]) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url, poolclass=poolclass, connect_args=dict(connect_args))
    sqlalchemy.event.listen(engine, "connect", lambda opened, _: opened.execute("PRAGMA synchronous=OFF").close())
    return engine


@pytest.fixture(scope="session", autouse=True)
def pictures_drawn_once() -> Iterator[None]:
    """The picture and the numbers of a table are made once for equal tables; drawing is a third of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        for name, table in TABLES.items():
            if table.look:
                patch.setitem(TABLES, name, replace(table, look=drawn_once(table.look)))
        yield


def drawn_once(look: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a look that remembers its answers by the table's bytes and by the settings that pictures show."""
    known: dict[tuple[bytes, float, int], dict[str, Any]] = {}

    def answer(table: pl.DataFrame, settings: Settings) -> dict[str, Any]:
        shows = SimpleNamespace(epsilon=settings.epsilon, candidates_per_anchor=settings.candidates_per_anchor)
        file = io.BytesIO()
        table.write_ipc(file)
        key = (hashlib.sha256(file.getvalue()).digest(), shows.epsilon, shows.candidates_per_anchor)
        if key not in known:
            known[key] = look(table, shows)
        return known[key]

    return answer


NOT_RUN: list[int] = []
# Modules whose tests take longest together; pytest-xdist hands out modules in this order.
LONGEST = (
    "test_resumption.py",
    "test_checkpoints.py",
    "test_zero_results.py",
    "test_workspace.py",
    "test_damaged_store.py",
    "test_doors.py",
    "test_writer_lock.py",
    "test_index_faults.py",
    "test_oracle.py",
    "test_day_in_the_life.py",
    "test_schedules.py",
    "test_shard_assets.py",
    "test_interrupts.py",
)


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than cores, at most four: some tests wait for servers, clocks and other processes."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take longest first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of garbage collection, which every run ends with."""
    gc.collect()
    gc.freeze()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    NOT_RUN.append(sum(item.get_closest_marker("services") is not None for item in items))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = sum(NOT_RUN)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended; each collects all tests."""
    NOT_RUN[:] = [getattr(node, "workeroutput", {}).get("not_run", 0)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was left out, so that nothing is silently skipped."""
    if sum(NOT_RUN):
        terminalreporter.write_line(
            f"{sum(NOT_RUN)} tests that need a server or a browser were not run; `make services` installs what they "
            "need and runs them"
        )


@dataclass
class Workspace:
    """A store, folders of JSON lines for a corpus and for instruction samples, and a Dagster instance on disk."""

    folder: Path
    instance: dg.DagsterInstance
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = {
            "store": str(self.folder / "store"),
            "corpus": f"jsonl:{self.folder / 'corpus'}",
            "instructions": f"jsonl:{self.folder / 'instructions'}",
            **self.settings,
        }

    @property
    def tables(self) -> ShardTables:
        return ShardTables(self.settings["store"])

    def loaded(self, **overrides: Any) -> Settings:
        """The settings as an object."""
        return Settings.load({}, **{**self.settings, **overrides})

    def write_shard(self, name: str, documents: Sequence[dict[str, Any]]) -> str:
        """A corpus shard's file, plain or .gz; returns its name."""
        write_json_lines(self.folder / "corpus" / name, documents)
        return name

    def write_instructions(self, name: str, samples: Sequence[dict[str, Any]]) -> str:
        """An instruction shard's file, plain or .gz; returns its name."""
        write_json_lines(self.folder / "instructions" / name, samples)
        return name

    def register(self) -> list[str]:
        return register_shards(self.instance, open_corpus(self.settings["corpus"]), may_lose_many=True).shards

    def register_instructions(self) -> list[str]:
        source = open_instructions_of(self.loaded())
        return register_shards(self.instance, source, instruction_shards, may_lose_many=True).shards

    def run(self, job: str, *partitions: str, raises: bool = True, **overrides: Any) -> dg.ExecuteInProcessResult:
        """Execute a job for the partitions from the first to the last given (all where none is)."""
        definition = self.definitions(**overrides).resolve_job_def(job)
        wanted = partitions or self._keys(definition.partitions_def)
        return definition.execute_in_process(
            instance=self.instance,
            tags=range_tags(wanted[0], wanted[-1]),
            raise_on_error=raises,
            run_config=self.launched(**overrides),
        )

    def materialize(self, *assets: str, partitions: Sequence[str] = (), **overrides: Any) -> dg.ExecuteInProcessResult:
        """Execute some assets, with their checks, for a range of partitions; for all of the first's where none is
        given."""
        shards = partitions or self._keys(defs.resolve_asset_graph().get(dg.AssetKey(assets[0])).partitions_def)
        return (
            self.definitions(**overrides)
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                tags=range_tags(shards[0], shards[-1]),
                run_config=self.launched(**overrides),
            )
        )

    def definitions(self, **overrides: Any) -> dg.Definitions:
        """The workspace of an environment that has what a launch cannot give."""
        given = {**self.settings, **overrides}
        return definitions_of(**{name: given[name] for name in OF_THE_ENVIRONMENT if name in given})

    def launched(self, **overrides: Any) -> dict[str, Any]:
        """The configuration of a run with these settings."""
        return {"resources": {"settings": {"config": {**self.settings, **overrides}}}, "loggers": QUIET}

    def _keys(self, partitions: dg.PartitionsDefinition | None) -> list[str]:
        """All keys, in order; those of the corpus for what has no partitions of its own."""
        return list((partitions or corpus_shards).get_partition_keys(dynamic_partitions_store=self.instance))

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Modification time and bytes of every file of the store."""
        root = Path(self.settings["store"])
        return {
            str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


@cache
def definitions_of(**environment: Any) -> dg.Definitions:
    return build_definitions(Settings.load({}, **environment))


def write_json_lines(path: Path, documents: Sequence[dict[str, Any]]) -> None:
    """A JSON lines file, gzipped where its name says so; its folder is made."""
    lines = "".join(json.dumps(document) + "\n" for document in documents).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def library_documents(count: int, *, offset: int = 0) -> list[dict[str, Any]]:
    """Documentation of standard library modules of 400 to 1,400 characters, as JSON-ready documents: real text for
    real models."""
    chosen = _short_library_documents()[offset : offset + count]
    assert len(chosen) == count, len(_short_library_documents())
    return [{"id": document.source_id, "text": document.text} for document in chosen]


def chat(sample_id: str, context: str, instruction: str, response: str) -> dict[str, Any]:
    """An instruction sample in LongAlign's form."""
    turn = f"{context}\n\n{instruction}" if context else instruction
    return {
        "id": sample_id,
        "messages": [{"role": "user", "content": turn}, {"role": "assistant", "content": response}],
    }


def library_samples(count: int, *, offset: int = 0) -> list[dict[str, Any]]:
    """Chat samples over library documents: what is a module for? Its documentation's first line says it."""
    return [
        chat(
            document["id"],
            document["text"],
            f"What is {document['id']} for?",
            document["text"].strip().splitlines()[0],
        )
        for document in library_documents(count, offset=offset)
    ]


@cache
def _short_library_documents() -> list[SourceDocument]:
    source = open_corpus("python-docs:")
    return [document for document in source.documents("python-docs-0") if 400 <= len(document.text) <= 1400]


def tiny_model(folder: Path, config: Any = None, *, seed: int = 0, **shape: int) -> Path:
    """A random model with the reference tokenizer: of a config, or a two-layer Llama."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    small = {
        "vocab_size": 8192,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    AutoModelForCausalLM.from_config(config or LlamaConfig(**{**small, **shape})).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((resolve_model("reference:long") / name).read_bytes())
    return folder


def forwards(result: dg.ExecuteInProcessResult) -> int:
    """Sequences that a run put through the model, as its metadata has it."""
    events = result.get_asset_materialization_events()
    found = [event.materialization.metadata.get("forwards_in_this_run") for event in events]
    return sum(int(value.value) for value in found if value is not None)  # type: ignore[arg-type]


def failed_checks(result: dg.ExecuteInProcessResult) -> set[str]:
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}


@pytest.fixture
def new_workspace(tmp_path: Path) -> Iterator[Callable[..., Workspace]]:
    """Makes workspaces, each in a folder of its own."""
    with workspaces(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def new_module_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Workspace]]:
    """Makes workspaces that the tests of a module share."""
    with workspaces(tmp_path_factory.mktemp("workspaces")) as make:
        yield make


@contextmanager
def workspaces(folder: Path) -> Iterator[Callable[..., Workspace]]:
    """Workspaces under a folder; their instances are closed in the end."""
    with ExitStack() as instances:

        def make(**settings: Any) -> Workspace:
            place = Path(tempfile.mkdtemp(dir=folder))
            (place / "dagster").mkdir()
            instance = instances.enter_context(
                dg.DagsterInstance.local_temp(str(place / "dagster"), overrides={"telemetry": {"enabled": False}})
            )
            return Workspace(place, instance, settings)

        yield make
