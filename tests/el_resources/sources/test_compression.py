"""Compressed JSON lines: by content, whole, in bounded memory, and refused if they are something else."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from el_resources.sources.contracts import CorruptShardError
from el_resources.sources.opening import open_corpus

Pack = Callable[[bytes], bytes]
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


PACKS: dict[str, Pack] = {"gz": gzip.compress, "zst": zstd, "bz2": bz2.compress, "xz": partial(lzma.compress, preset=0)}
every_pack = pytest.mark.parametrize("suffix", PACKS)


def lines(first: int, last: int) -> bytes:
    return b"".join(b'{"text": "%d"}\n' % number for number in range(first, last))


def read(path: Path) -> list[str]:
    (shard,) = (corpus := open_corpus(f"jsonl:{path}")).shards()
    return [document.text for document in corpus.documents(shard)]


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


@every_pack
@pytest.mark.parametrize("plain", ["jsonl", "ndjson"])
def test_a_folder_holds_files_of_every_compression(tmp_path: Path, plain: str, suffix: str) -> None:
    (tmp_path / f"A.{plain.upper()}.{suffix}").write_bytes(PACKS[suffix](lines(0, 5)))
    assert open_corpus(f"jsonl:{tmp_path}").shards() == [f"A.{plain.upper()}.{suffix}"]
    assert read(tmp_path) == numbers(0, 5)


@every_pack
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson.zst", "a.txt"])
def test_content_counts_and_not_the_name(tmp_path: Path, name: str, suffix: str) -> None:
    (tmp_path / name).write_bytes(PACKS[suffix](lines(0, 5)))
    assert read(tmp_path / name) == numbers(0, 5)


def test_a_name_that_says_compressed_may_hold_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.bz2").write_bytes(lines(0, 3))
    assert read(tmp_path) == numbers(0, 3)


@every_pack
def test_parts_one_after_another_are_one_text(tmp_path: Path, suffix: str) -> None:
    pack, text = PACKS[suffix], lines(0, 40_000)
    cuts = [0, 1, 17, 200_000, 200_000, len(text)]  # within a line, and an empty part
    parts = [pack(text[start:end]) for start, end in pairwise(cuts)]
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(b"".join(parts))
    assert read(tmp_path) == numbers(0, 40_000)


def test_frames_to_skip_and_padding_are_skipped(tmp_path: Path) -> None:
    frames = SKIPPABLE_FRAME + zstd(lines(0, 2)) + SKIPPABLE_FRAME + zstd(lines(2, 4)) + SKIPPABLE_FRAME
    streams = lzma.compress(lines(0, 2)) + bytes(8) + lzma.compress(lines(2, 4)) + bytes(4)
    for name, content in (("a.jsonl.zst", frames), ("b.jsonl.xz", streams)):
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name) == numbers(0, 4)


@every_pack
@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-3],
        lambda packed: packed + b"something else",
        lambda packed: packed + packed[: len(packed) // 2],
    ],
    ids=["half", "without its end", "with a tail", "with a half part"],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, suffix: str, damage: Pack) -> None:
    text = os.urandom(300_000).hex().encode()
    packed = PACKS[suffix](b'{"text": "first"}\n{"text": "' + text + b'"}\n')
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(damage(packed))
    with pytest.raises(CorruptShardError, match=rf"a\.jsonl\.{suffix}: .+"):
        read(tmp_path)


def tar(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@every_pack
def test_what_is_packed_twice_or_packs_an_archive_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    for content, complaint in (
        (gzip.compress(lines(0, 3)), r"compressed twice \(gzip within \w+\); decompress it once"),
        (tar(lines(0, 3)), r"is a tar archive; unpack it, .* within \w+"),
        (b"%PDF-1.7\n", r"is a PDF; .* within \w+"),
        (json.dumps([{"text": "a"}]).encode(), r"is a JSON array, .* within \w+"),
    ):
        path.write_bytes(PACKS[suffix](content))
        with pytest.raises(CorruptShardError, match=complaint):
            read(path)


def test_a_zip_file_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.jsonl", "w") as archive:
        archive.writestr("a.jsonl", lines(0, 3))
    with pytest.raises(CorruptShardError, match="is a zip archive; unpack it, and name the files"):
        read(tmp_path)


@every_pack
def test_an_empty_file_named_compressed_is_a_broken_download(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(b"")
    with pytest.raises(CorruptShardError, match=r"empty \(0 bytes\)"):
        read(tmp_path)


def test_a_window_larger_than_the_bound_is_refused_and_said(tmp_path: Path) -> None:
    # A frame's header alone: window descriptor 0xa8 is a window of 2 GiB (10 + 21 bits).
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00")
    (tmp_path / "b.jsonl.xz").write_bytes(xz_that_asks_for_a_gibibyte())
    for name in ("a.jsonl.zst", "b.jsonl.xz"):
        with pytest.raises(CorruptShardError, match="compress it with a window of at most 128 MiB"):
            read(tmp_path / name)


def xz_that_asks_for_a_gibibyte() -> bytes:
    """A small file whose block header is changed; writing with such a dictionary would take 10 GB."""
    small = bytearray(lzma.compress(lines(0, 2)))
    header = slice(12, 12 + (small[12] + 1) * 4)
    block = small[header]
    assert block[2:4] == b"\x21\x01", "one filter, LZMA2, with one byte of properties"
    block[4] = 36  # a dictionary of 1 GiB
    block[-4:] = zlib.crc32(block[:-4]).to_bytes(4, "little")
    small[header] = block
    return bytes(small)


@every_pack
def test_memory_does_not_follow_the_content(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(PACKS[suffix](lines(10_000_000, 10_500_000)))
    code = (
        "import resource, sys; from el_resources.sources.file_formats import json_lines\n"
        "from el_resources.sources.row_limits import RowLimits\n"
        "from fsspec.implementations.local import LocalFileSystem\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "rows = json_lines(LocalFileSystem(), 'a', sys.argv[1], RowLimits()); next(rows); before = used()\n"
        "print(sum(1 for _ in rows), used() - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / f"a.jsonl.{suffix}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    n_rows, grown_kib = map(int, done.stdout.split())
    assert n_rows == 499_999
    assert grown_kib < 6_000  # of 10 MB
