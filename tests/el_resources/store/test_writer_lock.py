"""One writer at a time: real processes that sync the same index, killed holders, and holders elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from el_resources.store.context_store import ContextStore
from el_resources.store.index_rows import rows_in
from el_resources.store.object_stores import open_filesystem
from el_resources.store.writer_lock import LockedError, WriterLock
from tests.support.made_chunks import SETTINGS, shard
from tests.support.s3_server import BUCKET

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from el_resources.store.writer_lock import WriterLock
with WriterLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
SYNC = """
import sys
from el_resources.store.context_store import ContextStore
from tests.support.made_chunks import SETTINGS, shard
store = ContextStore(sys.argv[1])
store.sync({f"s{n}": shard(f"s{n}") for n in range(6)}, settings=SETTINGS)
"""


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The place of the index: a folder, or a prefix in a bucket."""
    if request.param == "disk":
        return str(tmp_path / "context_store")
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/store/context_store"


def started(code: str, place: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, place], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_writers_at_once_leave_every_row_once(place: str) -> None:
    writers = [started(SYNC, place) for _ in range(3)]
    told = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 3, told
    index = ContextStore(place).open()
    assert rows_in(index._table) == {f"s{n}": {"1": 10} for n in range(6)}
    assert not ContextStore(place).sync({f"s{n}": shard(f"s{n}") for n in range(6)}, settings=SETTINGS).changed


def test_a_holder_is_waited_for_and_a_killed_one_is_not(place: str) -> None:
    lock, told = f"{place}.lock", list[str]()
    holder = started(HOLD, lock)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} on .* has held .*context_store.lock"):
            WriterLock(lock, wait_seconds=1.5, tell=told.append).__enter__()
        assert len(told) == 1 and f"waiting for another writer of the index: process {holder.pid}" in told[0]
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    began = time.monotonic()
    with WriterLock(lock, wait_seconds=20) as held:
        held.still_held()
    assert time.monotonic() - began < 15
    with WriterLock(lock, wait_seconds=0):
        pass


def test_a_holder_on_another_machine_counts_until_its_beat_stands_still(place: str) -> None:
    lock = f"{place}.lock"
    files, path = open_filesystem(lock)
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    files.pipe_file(path, json.dumps({"machine": "elsewhere 1", "process": 7, "token": "t", "beat": 3}).encode())
    with pytest.raises(LockedError, match="process 7 on elsewhere has held"):
        WriterLock(lock, wait_seconds=0.5, expires_seconds=30).__enter__()
    with WriterLock(lock, wait_seconds=20, expires_seconds=1.5):
        assert json.loads(files.cat_file(path))["process"] == os.getpid()
    assert files.cat_file(path) == b"{}"


def test_a_writer_keeps_its_lock_by_its_beat_and_notices_its_loss(place: str) -> None:
    lock = f"{place}.lock"
    files, path = open_filesystem(lock)
    with WriterLock(lock, expires_seconds=1.5, beat_seconds=0.2) as held:
        with pytest.raises(LockedError):
            WriterLock(lock, wait_seconds=2.5, expires_seconds=1.5).__enter__()
        held.still_held()
        files.pipe_file(path, b"{}")
        time.sleep(1.0)
        with pytest.raises(LockedError, match=r"another writer has taken .*context_store\.lock over"):
            held.still_held()
    assert files.cat_file(path) == b"{}", "what another holds is not given up"


def test_a_store_that_does_not_answer_for_a_beat_takes_no_lock_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = WriterLock(str(tmp_path / "lock"), beat_seconds=0.05, expires_seconds=20.0)
    with lock:
        read, replace = lock._object.read, lock._object.replace

        def down(*_: object) -> None:
            raise OSError("no answer")

        monkeypatch.setattr(lock._object, "read", down)
        monkeypatch.setattr(lock._object, "replace", down)
        time.sleep(0.3)
        monkeypatch.setattr(lock._object, "read", read)
        monkeypatch.setattr(lock._object, "replace", replace)
        before = lock._last_beat
        time.sleep(0.3)
        lock.still_held()
        assert lock._last_beat > before
