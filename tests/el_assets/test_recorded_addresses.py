"""Credentials in the sources' addresses: they open the sources, and nothing that a run leaves has them."""

import json
import re
import sqlite3
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import polars as pl
import pyarrow.parquet as pq
import pytest

from el_assets.__main__ import main
from el_resources.store.shard_tables import ShardTables
from tests.conftest import library_documents, library_samples, tiny_model

PASSWORD, SIGNATURE = "hunter2pass", "hunter2sig"
SECRET = re.compile(rb"hunter2", re.IGNORECASE)
SMALL = {
    "EL_ROOTS_PER_SHARD": "2",
    "EL_ROOT_TOKENS_MIN": "32",
    "EL_ROOT_TOKENS_MAX": "400",
    "EL_CANDIDATES_PER_ANCHOR": "2",
    "EL_MAX_ANCHORS": "2",
    "EL_ALPHA": "0.5",
    "EL_EPSILON": "-0.5",
    "EL_BEATS_CONTROLS": "false",
    "EL_SEQUENCE_TOKENS": "512",
    "EL_SHORT_WINDOW": "96",
}


class Site:
    """Files on the web, for those who give user, password and signature."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                _, _, given = self.headers.get("Authorization", "").partition(" ")
                is_known = b64decode(given) in (f"me:{PASSWORD}".encode(), b"other:changed")
                status = 200 if is_known and query.startswith("sig=") else 403
                body = site.files.get(path, b"") if status == 200 else b""
                self.send_response(status if path in site.files else 404)
                for name, value in {"Content-Length": str(len(body)), "ETag": str(hash(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def address(self, path: str, user: str = f"me:{PASSWORD}", signature: str = SIGNATURE) -> str:
        return f"http://{user}@127.0.0.1:{self.server.server_port}{path}?sig={signature}/{signature}"

    def plain(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    for path, rows in (("/corpus.jsonl", library_documents(6)), ("/pool.jsonl", library_samples(10))):
        site.files[path] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def command(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command whose sources are at addresses with credentials; its exit status and all that it printed."""
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    tiny_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    given = {
        **SMALL,
        "DAGSTER_HOME": str(tmp_path),
        "EL_STORE": str(tmp_path / "store"),
        "EL_LONG_MODEL": str(tmp_path / "model"),
        "EL_SHORT_MODEL": str(tmp_path / "model"),
        "EL_CORPUS": f"jsonl:{site.address('/corpus.jsonl')}",
        "EL_INSTRUCTIONS": f"jsonl:{site.address('/pool.jsonl')}",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    def command(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments))
        out, err = capfd.readouterr()
        assert "hunter2" not in out + err
        return code, out + err

    return command


def recorded(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All bytes that the files below a folder hold, packed ones unpacked."""
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        content = path.read_bytes()
        yield f"{path.name} {path}", content
        if path.suffix == ".parquet":
            yield f"{path} rows", repr(pl.read_parquet(path).to_dicts()).encode()
            yield f"{path} metadata", repr(pq.read_schema(path).metadata).encode()
        if content.startswith(b"SQLite format 3"):
            yield from ((str(path), cell) for cell in cells(path))


def cells(database: Path) -> Iterator[bytes]:
    """Every cell of a SQLite file; Dagster packs some."""
    with sqlite3.connect(database) as connection:
        for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in connection.execute(f'select * from "{table}"'):
                for value in row:
                    cell = value if isinstance(value, bytes) else str(value).encode()
                    try:
                        yield zlib.decompress(cell)
                    except zlib.error:
                        yield cell


def assert_no_secret(folder: Path) -> None:
    assert [place for place, content in recorded(folder) if SECRET.search(content)] == []


def test_nothing_that_a_run_leaves_has_the_credentials_of_its_sources(
    command: Callable[..., tuple[int, str]], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = command("run")
    assert code == 0, said
    assert f"jsonl:{site.plain('/corpus.jsonl')}" in said
    tables = ShardTables(str(tmp_path / "store"))
    assert set(tables.read("documents", "corpus.jsonl")["source"]) == {f"jsonl:{site.plain('/corpus.jsonl')}"}
    assert set(tables.read("instruction_samples", "pool.jsonl")["source"]) == {f"jsonl:{site.plain('/pool.jsonl')}"}
    assert (tmp_path / "store" / "reports" / "entropylong_report.html").is_file()
    for arguments in (["status"], ["status", "--json"], ["settings"], ["settings", "--json"], ["register"]):
        assert site.plain("/corpus.jsonl") in command(*arguments)[1]
    # Another user and another signature of the same source: nothing is made again.
    monkeypatch.setenv("EL_CORPUS", f"jsonl:{site.address('/corpus.jsonl', 'other:changed', 'hunter2new')}")
    assert command("status")[0] == 0
    assert_no_secret(tmp_path)
    plain = site.plain("/corpus.jsonl").encode()
    found = {Path(place.split()[0]).suffix for place, content in recorded(tmp_path) if plain in content}
    assert found >= {".parquet", ".db", ".html"}, "where an address is recorded, the search sees it"
    # By a flag, whose value is part of the run's configuration.
    code, said = command("run", "--select", "index", "--corpus", f"jsonl:{site.address('/corpus.jsonl')}")
    assert code == 0, said
    assert f"EL_CORPUS=jsonl:{site.plain('/corpus.jsonl')}" in said
    assert "EL_CORPUS is shown without its credentials" in said
    assert_no_secret(tmp_path)


def test_what_fails_is_told_and_recorded_without_them(
    command: Callable[..., tuple[int, str]], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/corpus.jsonl"] = b"\x89PNG\r\n\x1a\nno JSON at all"
    assert command("run", "--select", "index")[0] == 1
    monkeypatch.setenv("EL_CORPUS", f"jsonl:{site.address('/nowhere.jsonl')}")
    code, said = command("run", "--select", "index")
    assert code == 2
    assert site.plain("/nowhere.jsonl") in said
    monkeypatch.setenv("EL_CORPUS", f"jsonl:{site.address('/corpus.jsonl', 'me:hunter2wrong')}")
    assert command("register")[0] in (1, 2)
    monkeypatch.setenv("EL_CORPUS", f"parquets:{site.address('/corpus.jsonl')}")
    assert command("register")[0] == 2
    assert_no_secret(tmp_path)
