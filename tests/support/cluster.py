"""A cluster on this machine: a Postgres server, Ray with a head and worker nodes, and Dagster's daemon."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
OBJECT_STORE_BYTES = 80_000_000  # Ray's minimum is 75 MB; runs put nothing there


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any], seconds: float, log: Path | None = None) -> Any:
    """The condition's first true value; the log's end if none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen in {seconds} s: {log.read_text()[-4000:] if log else ''}")


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all below it, as when the machine is gone."""
    tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for one in [psutil.Process(process.pid), *tree] if process.poll() is None else tree:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


@contextmanager
def postgres_server() -> Iterator[str]:
    """A running server with an empty database; yields its URL. As user postgres if this one is root, whom Postgres
    refuses."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    user = None
    if os.getuid() == 0:
        user = "postgres"
        shutil.chown(folder, user)
    subprocess.run(
        [programs / "initdb", "-D", folder / "data", "-U", "dagster", "--auth=trust", "-E", "UTF8"],
        user=user,
        check=True,
        capture_output=True,
        cwd="/",
    )
    port = free_port()
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-p", str(port), *options],
            user=user,
            stdout=log,
            stderr=log,
            cwd="/",
        )
    try:
        wait_for("Postgres", lambda: b"ready to accept" in (folder / "log").read_bytes(), 60, folder / "log")
        yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # "fast shutdown": closes the connections that are left
        server.wait(timeout=60)
        shutil.rmtree(folder)


@dataclass
class RayCluster:
    """Nodes by name: a head without cores, and workers of one core and one GPU each, which exists on paper only. Runs
    start `dagster`, which is found by their PATH."""

    environment: Mapping[str, str]
    # Not under pytest's folder: Ray's sockets are made below it, and their paths may have 107 characters.
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ray", dir="/tmp")))
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: token_hex(32))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def authentication(self) -> dict[str, str]:
        """Variables of whoever may use it, as deploy/environment.example has them."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def ask(self, path: str, body: Any = None, token: str | None = None) -> Any:
        """Answer of the dashboard's server.

        Args:
            token: the cluster's if None; none for the empty text.
        """
        given = self.token if token is None else token
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {given}"} if given else {})}
        content = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.address}{path}", content, headers), timeout=30) as answer:
            return json.load(answer)

    def start_head(self) -> None:
        self._start(
            "head",
            "--head",
            f"--port={self.port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self.folder}",
            "--num-cpus=0",
            "--num-gpus=0",
            "--disable-usage-stats",
        )
        wait_for("Ray's dashboard", self._answers, 120, self.log("head"))

    def start_worker(self, name: str) -> None:
        self._start(name, f"--address=127.0.0.1:{self.port}", "--num-cpus=1", "--num-gpus=1")

    def kill(self, name: str) -> None:
        kill_tree(self.nodes.pop(name))

    def node_of(self, run_id: str) -> str | None:
        """The node on which the run's process is."""
        for name, process in self.nodes.items():
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    command = child.cmdline()
                except psutil.Error:
                    continue
                if "execute_run" in command and any(run_id in word for word in command):
                    return name
        return None

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def stop(self) -> None:
        for process in reversed(self.nodes.values()):
            kill_tree(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, *options: str) -> None:
        shared = [f"--object-store-memory={OBJECT_STORE_BYTES}", "--dashboard-agent-listen-port=0", "--block"]
        with self.log(name).open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                [BIN / "ray", "start", *options, *shared],
                env={**self.environment, **self.authentication, "PATH": f"{BIN}:{self.environment['PATH']}"},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(f"the start of {name}", lambda: self._has_started(name), 120, self.log(name))

    def _has_started(self, name: str) -> bool:
        assert self.nodes[name].poll() is None, f"{name} ended: {self.log(name).read_text()[-2000:]}"
        return "Ray runtime started" in self.log(name).read_text()

    def _answers(self) -> bool:
        try:
            return bool(self.ask("/api/version"))
        except (URLError, ConnectionError, TimeoutError):
            return False


@contextmanager
def dagster_daemon(environment: Mapping[str, str]) -> Iterator[Path]:
    """The daemon on the instance of DAGSTER_HOME, with its code server; yields its log."""
    log = Path(environment["DAGSTER_HOME"]) / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-w", ROOT / "workspace.yaml"],
            env=environment,
            cwd=environment["DAGSTER_HOME"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        kill_tree(process)
