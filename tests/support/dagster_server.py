"""The UI and daemon of `python -m el_assets ui`, on the repository's own workspace, for the tests that talk to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[2]


class Server:
    """A server with a home, a store and sources of its own.

    Attributes:
        home: the instance's folder; the store is its `store`, sources its `corpus` and `instructions`.
        settings: EL_* variables in addition to those.
    """

    def __init__(self, home: Path, settings: dict[str, str] | None = None) -> None:
        self.home = home
        if home != ROOT:
            shutil.copy(ROOT / "dagster.yaml", home)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "EL_STORE": str(home / "store"),
            "EL_CORPUS": f"jsonl:{home / 'corpus'}",
            **(settings or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *arguments: str, code: int = 0) -> str:
        """Return the output of `python -m el_assets` in this home; it must end with this code."""
        done = subprocess.run(
            [sys.executable, "-m", "el_assets", *arguments],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Start it and wait for its first answer."""
        command = [sys.executable, "-m", "el_assets", "ui", "--port", str(self.port)]
        with (self.home / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.home,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_for("the first page", lambda: self.ask("{ version }"), seconds=120)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                # It interrupts its children, which a shell's background jobs are deaf to.
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(timeout=20)

    def ask(self, query: str, **variables: Any) -> Any:
        """Data of a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def wait_for(self, what: str, condition: Any, seconds: float) -> Any:
        """The condition's first true value; the server's log if none comes in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
            except (URLError, ConnectionError):
                pass
            time.sleep(0.5)
        raise AssertionError(f"{what} did not happen: {(self.home / 'server.log').read_text()[-3000:]}")

    def finished_runs(self) -> list[dict[str, Any]]:
        """Status and tags of every run that has ended."""
        query = "{ runsOrError { ... on Runs { results { status tags { key value } } } } }"
        runs = self.ask(query)["runsOrError"]["results"]
        return [run for run in runs if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]
