"""Recognition of a file by its first bytes: its compression, or its kind in words if it is not data.

The name is not used: downloads, clones and exports leave error pages, pointers and archives under the names of data
files. The cost is a read of HEAD_BYTES bytes of a file.
"""

import json
import re
from pathlib import Path
from typing import Literal

HEAD_BYTES = 1 << 16
POINTER_BYTES = 1024  # Git LFS writes no larger pointer
MAX_CONTROL_SHARE = 0.05  # share of bytes that do not occur in text; random bytes have 0.11

Compression = Literal["gzip", "bzip2", "xz", "zstd"]
COMPRESSIONS: dict[Compression, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # the second: a frame to be skipped
}
PARQUET = re.compile(rb"PAR[1E]")
UNPACK = "unpack it, and name the files that were in it"
DOWNLOAD = "download the file itself"

POINTERS: dict[str, re.Pattern[bytes]] = {
    "a Git LFS pointer; fetch its content with `git lfs pull` in the repository": re.compile(
        rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/"
    ),
    "a Xet pointer; fetch its content with `git xet` or `hf download`": re.compile(rb"# xet version "),
    "a git-annex pointer; fetch its content with `git annex get`": re.compile(rb"/annex/objects/"),
}
OTHERS: dict[str, re.Pattern[bytes]] = {
    **POINTERS,
    f"an HTML or XML page, as a server sends for an error or a login; {DOWNLOAD}": re.compile(
        rb"<(?:!doctype|!--|\?xml|html|head|body|meta|script|error)\b", re.IGNORECASE
    ),
    "a PDF; extract its text first": re.compile(rb"%PDF-"),
    f"a zip archive; {UNPACK}": re.compile(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)"),
    f"a 7z archive; {UNPACK}": re.compile(rb"7z\xbc\xaf\x27\x1c"),
    f"a RAR archive; {UNPACK}": re.compile(rb"Rar!\x1a\x07"),
    f"a tar archive; {UNPACK}": re.compile(rb"(?s:.{257})ustar"),
    "compressed with lz4, which is not read; compress it with gzip or zstd": re.compile(rb"\x04\x22\x4d\x18"),
    "compressed with snappy, which is not read; compress it with gzip or zstd": re.compile(rb"\xff\x06\0\0sNaPpY"),
    "compressed with `compress`, which is not read; compress it with gzip or zstd": re.compile(rb"\x1f\x9d"),
    "an Arrow file; write it as Parquet": re.compile(rb"ARROW1"),
    "an ORC file; write it as Parquet": re.compile(rb"ORC"),
    "an Avro file; write it as Parquet": re.compile(rb"Obj\x01"),
    "an SQLite database; export its table as Parquet or JSON lines": re.compile(rb"SQLite format 3\0"),
    "an HDF5 file; write it as Parquet": re.compile(rb"\x89HDF\r\n"),
    "a NumPy array; write its texts as Parquet or JSON lines": re.compile(rb"\x93NUMPY"),
    "a picture; remove it": re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8"),
}
UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|[\[{]\0|\0[\[{]|\0\0\xfe\xff|\0\0\0[\[{]")
MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
OTHER_WEIGHTS = {"onnx", "openvino", ".git", ".cache"}
CONTROLS = bytes({*range(32), 127} - set(b"\t\n\v\f\r\x1b"))


def compression_of(head: bytes) -> Compression | None:
    """Return the compression of a file that begins with these bytes; None if it has none."""
    return next((name for name, magic in COMPRESSIONS.items() if magic.match(head)), None)


def pointer(head: bytes) -> str | None:
    """Name the kind of pointer that begins with these bytes; None if they do not begin a pointer."""
    return _first(POINTERS, head)


def other_than_data(head: bytes) -> str | None:
    """Return the kind and the remedy of a file that holds neither rows nor a model; None if it may hold either."""
    return _first(OTHERS, head) or _first(OTHERS, _text_start(head))


def other_than_json_lines(head: bytes) -> str | None:
    """Return the kind and the remedy of a file that is not JSON lines; None if it may be JSON lines.

    Args:
        head: first bytes of the file, after decompression.
    """
    if PARQUET.match(head):
        return "Parquet; read it by parquet:"
    if known := other_than_data(head):
        return known
    if UTF_16.match(head):
        return "text in UTF-16 or UTF-32; convert it with `iconv -t UTF-8`"
    if len(head.translate(None, CONTROLS)) < (1 - MAX_CONTROL_SHARE) * len(head):
        return "not text, but binary data of an unknown kind; remove it, or fetch it again"
    return _json_document(_text_start(head))


def other_than_parquet(head: bytes) -> str | None:
    """Return the kind and the remedy of a file that is not Parquet; None if it begins like Parquet."""
    if not head:
        return "an empty file; fetch it again, or remove it"
    if PARQUET.match(head):
        return None
    if compression := compression_of(head):
        return f"compressed with {compression} as a whole; decompress it, Parquet compresses its own columns"
    if known := other_than_data(head):
        return known
    if _text_start(head)[:1] in (b"{", b"["):
        return "JSON, not Parquet; read JSON lines by jsonl:"
    return "not Parquet, which begins with PAR1; fetch it again, or remove it"


def refuse_other_than_data(path: Path) -> None:
    """Raise ValueError with the path if a model's file is empty, compressed, or of another kind, such as a web page."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    compression = compression_of(head)
    problem = f"compressed with {compression}; decompress it" if compression else other_than_data(head)
    if not head:
        problem = "an empty file; fetch it again"
    if problem:
        raise ValueError(f"{path} is {problem}")


def refuse_pointers(folder: Path) -> None:
    """Raise ValueError with the path if a file that is read to load a model is a pointer without its content.

    Pointers to weights in other formats are allowed, since those are not read.
    """
    files = (path for path in folder.rglob("*") if path.suffix in MODEL_SUFFIXES and path.is_file())
    for path in sorted(files):
        is_read = not OTHER_WEIGHTS.intersection(path.relative_to(folder).parts)
        if is_read and path.stat().st_size < POINTER_BYTES and (words := pointer(path.read_bytes())):
            raise ValueError(f"{path} is {words}")


def _first(kinds: dict[str, re.Pattern[bytes]], head: bytes) -> str | None:
    return next((words for words, magic in kinds.items() if magic.match(head)), None)


def _text_start(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()


def _json_document(text: bytes) -> str | None:
    """Return the kind of a JSON text that is one document instead of lines of objects; None for others.

    Several lines that are arrays are not one document but bad rows.
    """
    line, _, rest = text.partition(b"\n")
    if line.strip() == b"{":
        return "one JSON object over many lines, not JSON lines; write an object a line (`jq -c . FILE`)"
    if not text.startswith(b"[") or not _holds_objects(text):
        return None
    if rest.strip() and _is_json(line):
        return None
    return "a JSON array, not JSON lines; write an object a line (`jq -c '.[]' FILE`)"


def _holds_objects(array: bytes) -> bool:
    return array[1:].lstrip()[:1] in (b"{", b"]", b"")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
