"""Text that may be compressed, as a stream: gzip, bzip2, xz and Zstandard, told by content and not by name.

Guarantees:
- Members, frames and streams one after another are read as one; what follows the last and is none is an error, as is an
  end before the end.
- Memory is bounded whatever the file asks for: windows of at most 128 MiB (`zstd --long=27`; `xz -9` has 64 MiB).
"""

import gzip
import io
import lzma
from typing import Any

import pyarrow as pa

from el_resources.file_kinds import Compression

READ_BUFFER_BYTES = 1 << 20
XZ_READ_BYTES = 1 << 16
XZ_MEMORY_BYTES = 160 << 20  # a dictionary of 128 MiB and its book-keeping
ARROW_CODECS = {"bzip2": "bz2", "zstd": "zstd"}


def decompressed(file: io.BufferedReader, compression: Compression) -> io.BufferedReader:
    """The content of a compressed file."""
    raw: Any
    if compression == "gzip":
        raw = gzip.GzipFile(fileobj=file)
    elif compression == "xz":
        raw = XzStreams(file)
    else:  # Python 3.11 reads no Zstandard, and its bz2 passes over broken later members
        raw = pa.CompressedInputStream(pa.PythonFile(file, "r"), ARROW_CODECS[compression])
    return buffered(raw)


def buffered(raw: Any) -> io.BufferedReader:
    """A file or stream with a buffer, whose first bytes can be looked at."""
    return io.BufferedReader(raw, READ_BUFFER_BYTES)


class XzStreams(io.RawIOBase):
    """The content of xz streams one after another. Python's LZMAFile takes no bound of memory."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decoder = _xz_decoder()
        self._ahead = b""  # bytes of the file that the decoder has not been given

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = memoryview(buffer).nbytes
        while not self._decoder.eof or self._begin_next():
            if self._decoder.needs_input and not self._ahead and not self._read_on():
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            given, self._ahead = (self._ahead, b"") if self._decoder.needs_input else (b"", self._ahead)
            content = self._decoder.decompress(given, size)
            if content:
                buffer[: len(content)] = content
                return len(content)
        return 0

    def _begin_next(self) -> bool:
        """Start with the next stream; False at the file's end. Zeros between streams are padding."""
        self._ahead = self._decoder.unused_data.lstrip(b"\0")
        while not self._ahead and self._read_on():
            self._ahead = self._ahead.lstrip(b"\0")
        if self._ahead:
            self._decoder = _xz_decoder()
        return bool(self._ahead)

    def _read_on(self) -> bool:
        self._ahead = self._file.read(XZ_READ_BYTES)
        return bool(self._ahead)


def _xz_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
