"""`entropylong ui`: Dagster's web server behind the door (el_assets.server.door), its daemon, and one code server.

It starts what `dagster dev` starts, and the door in addition. Web server and daemon share the code server, so that
a reload in the UI also reloads the code of schedules. All of them end with this process: by Ctrl-C, SIGTERM or, unless
it is ignored, SIGHUP.
"""

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import dagster as dg
import uvicorn
import yaml
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget
from dagster._serdes import serialize_value
from dagster._utils import find_free_port
from dagster._utils.log import configure_loggers
from dagster_shared.ipc import get_ipc_shutdown_pipe, send_ipc_shutdown_message
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from el_assets.operations.homes import opened_instance
from el_assets.operations.in_process import LOCATION, MODULE
from el_assets.server.door import Door

PORT = 3000
POLL_MILLISECONDS = 2000  # interval at which pages ask for news, as in `dagster dev`
# Settings for databases that accept them; the values of `dagster-webserver`.
STATEMENT_MILLISECONDS, RECYCLE_SECONDS, OVERFLOW_CONNECTIONS = 15_000, 3600, 20
SHUTDOWN_SECONDS = 60
LOGGER = logging.getLogger("dagster.entropylong")


class GuardedWebserver(DagsterWebserver):
    """Dagster's web server with the door in front of it.

    Args:
        hosts: host names of the server in addition to loopback.
    """

    def __init__(self, context: WorkspaceProcessContext, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        super().__init__(context, live_data_poll_rate=POLL_MILLISECONDS)

    def build_middleware(self) -> list[Middleware]:
        return [Middleware(Door, hosts=self._hosts), *super().build_middleware()]

    async def download_debug_file_endpoint(self, request: Request) -> Response:
        """Answer with a run's debug file; 404 if there is no such run (Dagster itself would answer with a trace)."""
        run_id = request.path_params["run_id"]
        with self.request_context(request) as context:
            if context.instance.get_run_by_id(run_id) is None:
                return PlainTextResponse(f"there is no run {run_id!r}\n", status_code=404)
        answer: Response = await super().download_debug_file_endpoint(request)
        return answer


def serve(*, address: str, port: int | None, hosts: Sequence[str], with_daemon: bool) -> int:
    """Serve the UI until it is interrupted, and return 0; return 1 if the daemon ended by itself.

    Args:
        address: address of this machine to listen on.
        port: port to listen on; None for 3000, or a free one if that is taken.
        hosts: host names of the UI in addition to loopback.
        with_daemon: also start the daemon, which runs schedules, sensors and backfills.

    Raises:
        OSError: the port is taken.
    """
    if port is None:
        port = find_free_port() if _is_taken(address, PORT) else PORT
    elif _is_taken(address, port):
        raise OSError(f"port {port} of {address} is taken; give another with --port")
    configure_loggers(formatter="colored", log_level="INFO")
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under `nohup`
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    daemon: subprocess.Popen[bytes] | None = None
    with contextlib.suppress(KeyboardInterrupt), ExitStack() as running:
        instance = running.enter_context(opened_instance())
        instance.optimize_for_webserver(STATEMENT_MILLISECONDS, RECYCLE_SECONDS, OVERFLOW_CONNECTIONS)
        workspace = running.enter_context(_code_server(instance))
        if with_daemon:
            daemon = running.enter_context(_daemon(instance, workspace))
        target = WorkspaceFileTarget([str(workspace)])
        context = WorkspaceProcessContext(instance, target, version=__version__, code_server_log_level="warning")
        app = GuardedWebserver(running.enter_context(context), hosts).create_asgi_app()
        LOGGER.info(f"the UI is on {url_of(address, port)}; Ctrl-C stops it")
        _run(app, address, port, daemon)
    ended = daemon is not None and daemon.returncode not in (0, None)
    return 1 if ended else 0


def url_of(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _is_taken(address: str, port: int) -> bool:
    """Return true if a server answers at the port. Dagster's own check also fails for a port that was just closed."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def _run(app: ASGIApp, address: str, port: int, daemon: "subprocess.Popen[bytes] | None") -> None:
    """Serve until a signal comes or the daemon ends."""
    config = uvicorn.Config(app, host=address, port=port, log_level="warning", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    if daemon is not None:
        threading.Thread(target=_stop_with, args=(daemon, server), daemon=True).start()
    server.run()


def _stop_with(daemon: "subprocess.Popen[bytes]", server: uvicorn.Server) -> None:
    """Stop the server when the daemon has ended, since schedules and backfills would silently wait for it."""
    code = daemon.wait()
    if not server.should_exit:
        LOGGER.error(f"Dagster's daemon ended with exit status {code}, so the UI ends too; its last lines say why")
        server.should_exit = True


@contextmanager
def _code_server(instance: dg.DagsterInstance) -> Iterator[Path]:
    """Start the code server, and yield the path of a workspace file that names it."""
    target = ModuleTarget(module_name=MODULE, attribute=None, working_directory=None, location_name=LOCATION)
    with ProxyServerManager(instance, target, "warning") as servers, tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace.yaml"
        workspace.write_text(yaml.safe_dump({"load_from": [dict(spec) for spec in servers.get_code_server_specs()]}))
        yield workspace


@contextmanager
def _daemon(instance: dg.DagsterInstance, workspace: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start Dagster's daemon and yield its process; at the end ask it to stop, and kill it if it does not."""
    reads, writes = get_ipc_shutdown_pipe()
    given = ["--instance-ref", serialize_value(instance.get_ref()), "--workspace", str(workspace)]
    quiet = ["--log-level", "info", "--code-server-log-level", "warning", "--shutdown-pipe", str(reads)]
    process = subprocess.Popen([sys.executable, "-m", "dagster._daemon", "run", *quiet, *given], pass_fds=[reads])
    try:
        yield process
    finally:
        if process.poll() is None:
            send_ipc_shutdown_message(writes)
        try:
            process.wait(timeout=SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does, so that all started processes are ended."""
    raise KeyboardInterrupt
