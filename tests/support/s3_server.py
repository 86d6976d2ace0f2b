"""S3 on loopback: moto's server behind a proxy that fails on demand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from socket import SHUT_RDWR
from threading import Thread
from time import sleep
from typing import Any
from urllib.parse import unquote
from urllib.request import urlopen

import pytest
import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "bucket"
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "server", "date")


@dataclass
class Fault:
    """Set the answer to the next `times` requests of a method whose path holds `where`.

    A status, `slow` (a pause in the middle of the body), `half` of the body, `reset` (the connection ends without an
    answer) or `reset after` (the same, but the request has taken effect).
    """

    where: str
    kind: str
    times: int
    method: str


@dataclass
class S3:
    """The proxy's address, the faults to come and what was asked."""

    endpoint: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    chance: tuple[str, float, Random] | None = None
    n_reset: int = 0

    def reset_at_random(self, where: str, *, share: float, seed: int) -> None:
        """Reset a share of the requests whose path holds `where`, half of them after they have taken effect."""
        self.chance, self.n_reset = (where, share, Random(seed)), 0

    def lot(self, path: str) -> str:
        """The fault that chance gives a request, or none."""
        if self.chance is None or self.chance[0] not in unquote(path) or self.chance[2].random() > self.chance[1]:
            return ""
        self.n_reset += 1
        return self.chance[2].choice(["reset", "reset after"])

    def fail(self, where: str, kind: str, *, times: int = 1, method: str = "GET") -> None:
        self.faults.append(Fault(where, kind, times, method))

    def empty(self) -> None:
        """One empty bucket, no faults, nothing asked."""
        with urlopen(f"{self.endpoint}/moto-api/reset", data=b"") as answer:  # moto's state is the process's
            answer.read()
        self.filesystem().mkdir(BUCKET)
        self.faults.clear()
        self.requests.clear()
        self.chance = None

    def filesystem(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(use_listings_cache=False)

    def written(self) -> list[str]:
        """Paths that were asked to change."""
        return [path for method, path in self.requests if method in ("PUT", "POST", "DELETE")]


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: S3
    target: tuple[str, int]

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one(self) -> None:
        self.state.requests.append((self.command, self.path))
        body, lot = self.body(), self.state.lot(self.path)
        fault = next(
            (f for f in self.state.faults if f.times and f.method == self.command and f.where in self.path), None
        )
        if lot == "reset" or (fault and fault.kind == "reset"):
            if not lot and fault:
                fault.times -= 1
            self.hang_up()
            return
        if fault:
            fault.times -= 1
            if fault.kind.isdigit():
                code = b"AccessDenied" if fault.kind == "403" else b"InternalError"
                self.send(int(fault.kind), [], b"<Error><Code>" + code + b"</Code></Error>")
                return
        connection = HTTPConnection(*self.target)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        connection.request(self.command, self.path, body=body, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        if lot or (fault and fault.kind == "reset after"):
            self.hang_up()
            return
        self.send(answer.status, answer.getheaders(), content, fault.kind if fault else "")
        connection.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(SHUT_RDWR)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str = "") -> None:
        self.send_response(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD, whose content is not sent
            elif name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        half = len(content) // 2 if fault else 0
        self.wfile.write(content[:half])
        if fault == "half":
            self.close_connection = True
            return
        if fault == "slow":
            self.wfile.flush()
            sleep(1.0)
        self.wfile.write(content[half:])


@contextmanager
def s3_server() -> Iterator[S3]:
    """A running server, to be emptied before use; the AWS_* variables lead to it."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    state = S3()
    proxy = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("BoundProxy", (Proxy,), {"state": state, "target": moto.get_host_and_port()})
    )
    proxy.daemon_threads = True
    state.endpoint = f"http://127.0.0.1:{proxy.server_port}"
    thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    variables = {
        "AWS_ENDPOINT_URL": state.endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            yield state
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.shutdown()
        proxy.server_close()
        moto.stop()
        thread.join()
