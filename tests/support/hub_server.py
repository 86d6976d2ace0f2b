"""A hub on loopback: repositories of data sets in memory, spoken to as huggingface_hub speaks, failing on demand."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import quote, unquote, urlsplit

LFS_FROM_BYTES = 100  # the real hub's is 10 MiB; small, so that tests see both kinds of files


@dataclass
class Fault:
    """Set the answer to the next `times` requests whose path holds `where`: a status, no answer or half a body."""

    where: str
    kind: str
    times: int


@dataclass
class FakeHub:
    """Its commits, the faults to come, and what it was asked."""

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    heads: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    endpoint: str = ""
    bytes_served: int = 0

    def commit(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make `files` the whole of a new commit; returns its hash."""
        content = repr((repository, branch, sorted(files.items()), self.heads.get((repository, branch))))
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits.setdefault(repository, {})[sha] = files
        self.heads[repository, branch] = sha
        return sha

    def fail(self, where: str, kind: str, times: int = 1) -> None:
        self.faults.append(Fault(where, kind, times))

    def paths(self, method: str = "GET") -> list[str]:
        return [path for verb, path, _ in self.requests if verb == method]

    def files_of(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.heads.get((repository, revision), revision)
        files = self.commits.get(repository, {}).get(sha)
        return None if files is None else (sha, files)


def tree_entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as the `tree` listing has it."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "oid": git, "size": len(content), "path": path}
    if len(content) >= LFS_FROM_BYTES:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def tree(files: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries below a folder; [] if there is none."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            directory = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(directory.encode()).hexdigest()
            entries.setdefault(directory, {"type": "directory", "oid": oid, "size": 0, "path": directory})
        if recursive or len(parts) == 1:
            entries[path] = tree_entry(path, content)
    return list(entries.values())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        fault = next((fault for fault in self.hub.faults if fault.times and fault.where in path), None)
        if fault:
            fault.times -= 1
            if fault.kind == "drop":
                self.close_connection = True
                return
            if fault.kind.isdigit():
                self.answer(int(fault.kind), b"on demand")
                return
        self.half = fault is not None
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self.api("/".join(parts[2:4]), parts[4:], recursive="recursive=true" in url.query.lower())
        elif parts[0] == "cdn":
            self.content("/".join(parts[1:3]), parts[3], "/".join(parts[4:]))
        elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            self.resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        else:
            self.answer(404, b"")

    def api(self, repository: str, rest: list[str], *, recursive: bool) -> None:
        if repository not in self.hub.commits:
            self.error(401, "RepoNotFound")
            return
        kind, revision = (rest[0], rest[1]) if rest else ("revision", "main")
        found = self.hub.files_of(repository, revision)
        if found is None:
            self.error(404, "RevisionNotFound")
        elif kind == "revision":
            siblings = [{"rfilename": path} for path in found[1]]
            self.json({"id": repository, "sha": found[0], "private": False, "tags": [], "siblings": siblings})
        elif entries := tree(found[1], "/".join(rest[2:]), recursive=recursive):
            self.json(entries)
        else:
            self.error(404, "EntryNotFound")

    def resolve(self, repository: str, revision: str, path: str) -> None:
        found = self.hub.files_of(repository, revision)
        if found is None or path not in found[1]:
            self.error(404, "EntryNotFound" if found else "RevisionNotFound")
            return
        entry = tree_entry(path, found[1][path])
        if "lfs" in entry:  # large files are stored elsewhere
            place = quote(f"/cdn/{repository}/{found[0]}/{path}")
            linked = {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(entry["size"])}
            self.answer(302, b"", {"X-Repo-Commit": found[0], "Location": self.hub.endpoint + place, **linked})
        else:
            self.content(repository, found[0], path)

    def content(self, repository: str, commit: str, path: str) -> None:
        content = self.hub.commits[repository][commit][path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tree_entry(path, content)["oid"]}"', "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self.answer(206, content[start : end + 1], headers)
        else:
            self.answer(200, content, headers)

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def error(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if getattr(self, "half", False):
            body, self.close_connection = body[: len(body) // 2], True
        self.hub.bytes_served += len(body)
        self.wfile.write(body)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running hub."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
