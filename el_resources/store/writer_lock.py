"""Lock object in a store: one writer at a time, in whatever process or on whatever machine.

Algorithm: the object contains the name of its holder and a beat, which the holder changes every few seconds. It is
written only if its content is still the one that was read: by a conditional put in S3, and under `flock` on disk. A
waiting writer takes the holder for dead if the beat stays the same for `EXPIRES_SECONDS` by its own clock, or if the
holder was a process of the same machine that is gone.

Guarantees: there is at most one holder. A holder that is suspended for longer than `EXPIRES_SECONDS` may find that
another has taken over, so it calls `still_held` before each commit. A killed writer never blocks the others for good.
Object stores other than S3 have no conditional put here: the lock is written, and read back after a pause; two writers
that start within that pause could both pass.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from el_resources.store.object_stores import faults_named, is_remote, is_s3, open_filesystem
from el_resources.store.passing_faults import Tell, silent

EXPIRES_SECONDS = 60.0
BEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0
TELL_SECONDS = 30.0
WAIT_SECONDS = 3600.0
READ_BACK_SECONDS = 2.0


class LockedError(RuntimeError):
    """Another writer holds the lock, or has taken it over."""


class WriterLock:
    """Lock for a `with` statement.

    Args:
        place: path or address of the object; after use it stays, without a holder.
        wait_seconds: longest wait for another holder.
        tell: called with a line every half minute of waiting.
    """

    def __init__(
        self,
        place: str,
        *,
        wait_seconds: float = WAIT_SECONDS,
        expires_seconds: float = EXPIRES_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
        tell: Tell = silent,
    ) -> None:
        self._object = _open(place)
        self._place, self._wait, self._expires, self._every = place, wait_seconds, expires_seconds, beat_seconds
        self._tell = tell
        self._me = {"machine": _machine(), "process": os.getpid(), "token": uuid.uuid4().hex}
        self._beat = 0
        self._stop = threading.Event()
        self._last_beat = 0.0
        self._is_lost = False

    def __enter__(self) -> "WriterLock":
        started = seen_at = time.monotonic()
        told_at, seen = started - TELL_SECONDS, b""
        while True:
            content = self._object.read()
            now = time.monotonic()
            if content != seen:
                seen, seen_at = content, now
            holder = _holder(content)
            if holder is None or _is_gone(holder) or now - seen_at > self._expires:
                if self._object.replace(content, self._content()):
                    break
                continue
            if now - started > self._wait:
                raise LockedError(
                    f"{_in_words(holder)} has held {self._place} for {now - started:.0f} s; wait until it has ended, "
                    "then run again"
                )
            if now - told_at >= TELL_SECONDS:
                self._tell(f"waiting for another writer of the index: {_in_words(holder)} holds {self._place}")
                told_at = now
            time.sleep(LOOK_SECONDS)
        self._last_beat = time.monotonic()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._is_lost:
            return
        with contextlib.suppress(OSError):  # the work is done; the lock expires by itself
            content = self._object.read()
            if self._is_mine(content):
                self._object.replace(content, b"{}")

    def still_held(self) -> None:
        """Raise LockedError if another writer may have taken the lock over."""
        if self._is_lost or time.monotonic() - self._last_beat > self._expires:
            raise LockedError(
                f"another writer has taken {self._place} over, because this one did not renew its lock; run again"
            )

    def _keep(self) -> None:
        while not self._stop.wait(self._every):
            # If the store does not answer before the lock expires, `still_held` raises.
            with contextlib.suppress(OSError):
                content = self._object.read()
                if not self._is_mine(content):
                    self._is_lost = True
                    return
                self._beat += 1
                if self._object.replace(content, self._content()):
                    self._last_beat = time.monotonic()

    def _is_mine(self, content: bytes) -> bool:
        holder = _holder(content)
        return holder is not None and holder["token"] == self._me["token"]

    def _content(self) -> bytes:
        return json.dumps({**self._me, "beat": self._beat}).encode()


class _LocalObject:
    """File that is compared and replaced under `flock`."""

    def __init__(self, place: str) -> None:
        self._path = Path(place.removeprefix("file://"))

    def read(self) -> bytes:
        with self._opened() as file:
            return os.pread(file, 4096, 0)

    def replace(self, expected: bytes, content: bytes) -> bool:
        with self._opened() as file:
            if os.pread(file, 4096, 0) != expected:
                return False
            os.ftruncate(file, 0)
            os.pwrite(file, content, 0)
            return True

    @contextmanager
    def _opened(self) -> Iterator[int]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


class _S3Object:
    """An object that is put only if it has the entity tag that was read."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._files, path = open_filesystem(place)
        self._bucket, _, self._key = path.partition("/")
        self._tag: str | None = None

    def read(self) -> bytes:
        path = f"{self._bucket}/{self._key}"
        with faults_named(self._place):
            try:
                self._tag = self._files.info(path, refresh=True)["ETag"]  # read first, so that newer content stays
                return bytes(self._files.cat_file(path))
            except FileNotFoundError:
                self._tag = None
                return b""

    def replace(self, expected: bytes, content: bytes) -> bool:
        with faults_named(self._place):
            if self.read() != expected:
                return self._is(content)
            condition = {"IfMatch": self._tag} if self._tag else {"IfNoneMatch": "*"}
            try:
                self._files.call_s3("put_object", Bucket=self._bucket, Key=self._key, Body=content, **condition)
            except (OSError, ValueError):  # the condition failed, or an answer was lost; the object tells which
                return self._is(content)
            return True

    def _is(self, content: bytes) -> bool:
        return self.read() == content


class _OtherObject:
    """Object in a store without conditional puts."""

    def __init__(self, place: str) -> None:
        self._files, self._path = open_filesystem(place)

    def read(self) -> bytes:
        return self._files.cat_file(self._path) if self._files.exists(self._path) else b""

    def replace(self, expected: bytes, content: bytes) -> bool:
        if self.read() != expected:
            return False
        self._files.pipe_file(self._path, content)
        time.sleep(READ_BACK_SECONDS if not expected or expected == b"{}" else 0)
        return self.read() == content


def _open(place: str) -> Any:
    if is_s3(place):
        return _S3Object(place)
    return _OtherObject(place) if is_remote(place) else _LocalObject(place)


def _holder(content: bytes) -> Mapping[str, Any] | None:
    """Return the holder of the lock; None if the content is empty or broken."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"machine", "process", "token"} <= found.keys() else None


def _is_gone(holder: Mapping[str, Any]) -> bool:
    """Return true if the holder was a process of this machine that has ended."""
    if holder["machine"] != _machine():
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, ValueError):
        return False
    return False


def _machine() -> str:
    """Return the machine's name, on Linux with its process namespace, since containers may share a name."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _in_words(holder: Mapping[str, Any]) -> str:
    return f"process {holder['process']} on {str(holder['machine']).split()[0]}"
