"""The Dagster instance that a command uses: that of DAGSTER_HOME, else of the working directory or of its deploy/.

Opening an instance creates its databases if there are none, and two processes that create the same SQLite files at once
damage them for good (two heads in `alembic_version`). So processes take turns by lock files, at a cost of a
millisecond; the system releases a lock if its holder dies. The commands of this project lock a file in the home,
whatever its dagster.yaml says. Dagster's own programs (`dg launch`, `dagster job launch`, the daemon, the web server)
open the instance before they load this code, so the repository's dagster.yaml names `SqliteStorageInTurn`, which locks
another file.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from filelock import FileLock, Timeout

from el_resources.addresses import one_line
from el_resources.configuration.environment import refuse_bad_values

# EL_EXECUTION -> folder of the Dagster instance whose launcher executes runs there.
HOMES = {"local": Path(), "ray": Path("deploy")}
# Word in an instance's dagster.yaml -> modules of the extra `cluster` that it needs.
NEEDS = {"ray_launcher": ("dagster_ray", "ray"), "postgres_url": ("dagster_postgres", "psycopg2")}

# In the folder that git ignores, next to the databases of the repository's own dagster.yaml.
LOCK = Path(".dagster") / "opening.lock"
# A first opening takes a second or two on a busy machine.
LONGEST_WAIT_SECONDS = 120.0


def set_home(variables: Mapping[str, str]) -> None:
    """Set DAGSTER_HOME, unless it is set, to the working directory, or to its deploy/ if EL_EXECUTION=ray.

    Raises:
        ValueError: there is no instance, or its dagster.yaml is broken or needs missing packages or variables.
    """
    refuse_bad_values(variables)
    execution = variables.get("EL_EXECUTION", "local")
    if home := variables.get("DAGSTER_HOME"):
        folder = Path(home).expanduser().absolute()
        if not folder.is_dir():
            raise ValueError(f"DAGSTER_HOME={home!r} is not a folder; create it or unset it")
    else:
        folder = HOMES[execution].absolute()
        if not (folder / "dagster.yaml").is_file():
            raise ValueError(
                f"no {HOMES[execution] / 'dagster.yaml'} here; run from the repository's root, or set DAGSTER_HOME to "
                "a folder that has one"
            )
    _refuse_broken(folder / "dagster.yaml", variables)
    os.environ["DAGSTER_HOME"] = str(folder)


def _refuse_broken(file: Path, variables: Mapping[str, str]) -> None:
    if not file.is_file():
        return  # an instance needs no file
    try:
        text = file.read_text(encoding="utf-8")
        asked = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read ({one_line(error)}); repair it") from error
    if not isinstance(asked, dict | None):
        raise ValueError(f"{file} holds a {type(asked).__name__}, and not Dagster's settings by name; repair it")
    missing = sorted({name for words, names in NEEDS.items() if words in text for name in names if not find_spec(name)})
    if missing:
        raise ValueError(f"{file} needs {', '.join(missing)}; install them with `pip install 'entropylong[cluster]'`")
    if unset := sorted({name for name in _variables(asked) if name not in variables}):
        raise ValueError(
            f"{file} needs the variables {', '.join(unset)}, which are not set; see deploy/environment.example"
        )


def _variables(asked: Any) -> Iterator[str]:
    """Yield the variables that a dagster.yaml refers to as `{env: NAME}`."""
    if isinstance(asked, dict):
        if list(asked) == ["env"]:
            yield str(asked["env"])
        for value in asked.values():
            yield from _variables(value)


@contextmanager
def opened_instance() -> Iterator[dg.DagsterInstance]:
    """Yield the instance of DAGSTER_HOME. The lock is held only while it is opened.

    Raises:
        ValueError: another process has held the lock for two minutes; the error names the lock file.
    """
    with opening(Path(os.environ["DAGSTER_HOME"])):
        opened = dg.DagsterInstance.get()
    with opened as instance:
        yield instance


@contextmanager
def opening(home: Path) -> Iterator[None]:
    """Hold the lock of a home while its instance is opened."""
    with _turn(home / LOCK, f"the Dagster instance of {str(home)!r}"):
        yield


class SqliteStorageInTurn(DagsterSqliteStorage):
    """Dagster's SQLite storage, opened by one process at a time; named in dagster.yaml under `storage: custom:`."""

    def __init__(self, base_dir: str, inst_data: Any = None) -> None:
        with _turn(Path(base_dir) / LOCK.name, f"Dagster's databases in {base_dir!r}"):
            super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "SqliteStorageInTurn":
        return cls(config_value["base_dir"], inst_data)


@contextmanager
def _turn(path: Path, opened: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LONGEST_WAIT_SECONDS)
    except Timeout:
        raise ValueError(
            f"another process has been opening {opened} for {LONGEST_WAIT_SECONDS:.0f} s; end it, or delete "
            f"{str(path)!r} if there is none"
        ) from None
    try:
        yield
    finally:
        lock.release()
