"""Streams of text that may be compressed: gzip, bzip2, xz and Zstandard, recognised by content and not by name.

Guarantees:
- Consecutive members, frames and streams are read as one. Other bytes after the last one are an error, and so is a
  stream that is cut short.
- Memory is bounded for every file: windows have at most 128 MiB (`zstd --long=27`; `xz -9` needs 64 MiB).
"""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from el_resources.store.file_kinds import Compression

READ_BUFFER_BYTES = 1 << 20
PACKED_BLOCK_BYTES = 1 << 16
XZ_MEMORY_BYTES = 160 << 20  # a dictionary of 128 MiB and some more

Decoder = bz2.BZ2Decompressor | lzma.LZMADecompressor


def decompressed(file: io.BufferedReader, compression: Compression) -> io.BufferedReader:
    """Return a stream of the content of a compressed file."""
    match compression:
        case "gzip":
            return buffered(gzip.GzipFile(fileobj=file))
        case "bzip2":
            return buffered(PackedStreams(file, bz2.BZ2Decompressor))
        case "xz":
            return buffered(PackedStreams(file, _xz_decoder))
        case "zstd":  # Python 3.11 reads none; this decoder's own bound is 128 MiB
            return buffered(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))


def buffered(raw: Any) -> io.BufferedReader:
    """Return a buffered file or stream, whose first bytes can be read ahead."""
    return io.BufferedReader(raw, READ_BUFFER_BYTES)


class PackedStreams(io.RawIOBase):
    """The content of consecutive compressed streams.

    Python's BZ2File and LZMAFile ignore a broken tail, and the latter has no limit on memory.
    """

    def __init__(self, file: io.BufferedReader, new_decoder: Callable[[], Decoder]) -> None:
        self._file = file
        self._new_decoder = new_decoder
        self._decoder = new_decoder()
        self._ahead = b""  # bytes of the file that the decoder has not been given

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the whole buffer unless the content ends, so that reading ahead gives all first bytes."""
        filled = 0
        while filled < len(buffer) and (content := self._next(len(buffer) - filled)):
            buffer[filled : filled + len(content)] = content
            filled += len(content)
        return filled

    def _next(self, max_bytes: int) -> bytes:
        """Return the next part of the content; empty at its end."""
        while not self._decoder.eof or self._begin_next():
            if self._decoder.needs_input and not self._ahead and not self._read_on():
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            given, self._ahead = (self._ahead, b"") if self._decoder.needs_input else (b"", self._ahead)
            if content := self._decoder.decompress(given, max_bytes):
                return content
        return b""

    def _begin_next(self) -> bool:
        """Start the next stream; return False at the end of the file. Zeros between streams are padding."""
        self._ahead = self._decoder.unused_data.lstrip(b"\0")
        while not self._ahead and self._read_on():
            self._ahead = self._ahead.lstrip(b"\0")
        if self._ahead:
            self._decoder = self._new_decoder()
        return bool(self._ahead)

    def _read_on(self) -> bool:
        self._ahead = self._file.read(PACKED_BLOCK_BYTES)
        return bool(self._ahead)


def _xz_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
