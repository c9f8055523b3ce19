"""The bytes of a text manifest as lines: unzipped, decoded, numbered and bounded.

Whatever the bytes are, at most one line's bound of them is in memory: a line of 2 GB, and a small gz that expands
without end, are errors with a line number.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

from producer.manifest.row import ManifestError

MAX_RECORD_BYTES: Final = 16 * 2**20
_BUFFER_BYTES: Final = 256 * 1024
_START_BYTES: Final = 64 * 1024
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = "\ufeff"
_OTHER_KINDS: Final = (
    (b"PK\x03\x04", "a Zip file or an Excel workbook; unpack it, or save it as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook; save it as CSV in UTF-8"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; unpack it, or compress it with gzip"),
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", "compressed with xz; unpack it, or compress it with gzip"),
    (b"PAR1", "a Parquet file; name it .parquet, or say --form parquet"),
    (b"\xff\xfe", "text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save it as UTF-8"),
)


class ByteSource(Protocol):
    """Where the bytes of a manifest come from."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def open(self) -> io.BufferedReader[Any]:
        """Return the bytes from the start, as they lie there. Raises OSError, and ManifestError for a second pass."""


@dataclass(frozen=True)
class FileSource:
    """A file, which may be called otherwise than it is on the disk."""

    path: Path
    called: str = ""

    @property
    def name(self) -> str:
        """Its name without the folders."""
        return self.called or self.path.name

    def open(self) -> io.BufferedReader[Any]:
        """Return the bytes from the start. Raises OSError."""
        return io.BufferedReader(io.FileIO(self.path), _BUFFER_BYTES)


class StdinSource:
    """A stream that can be read once; looking at its start does not use it up."""

    name = "stdin"

    def __init__(self, stream: BinaryIO) -> None:
        self._start = b""
        while len(self._start) < _START_BYTES and (block := stream.read(_START_BYTES - len(self._start))):
            self._start += block
        self._rest = stream
        self._used = False

    def start(self) -> bytes:
        """Return the first bytes."""
        return self._start

    def open(self) -> io.BufferedReader[Any]:
        """Return the bytes, once. Raises ManifestError after that."""
        if self._used:
            raise ManifestError("stdin can be read only once; write it to a file and name that")
        self._used = True
        return io.BufferedReader(_Joined(self._start, self._rest), _BUFFER_BYTES)


class _Joined(io.RawIOBase):
    """What was read ahead, then the rest of the stream."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._start[: len(view)] or self._rest.read(len(view))
        self._start = self._start[len(data) :]
        view[: len(data)] = data
        return len(data)


class _Unzipped(io.RawIOBase):
    """What a gz holds, given out as it comes: where the gz breaks off, all before that has been read."""

    def __init__(self, zipped: gzip.GzipFile) -> None:
        self._zipped = zipped

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._zipped.read1(len(view))
        view[: len(data)] = data
        return len(data)


def first_bytes(source: ByteSource) -> bytes:
    """Return the first few thousand bytes of `source`, unzipped. Raises ManifestError."""
    try:
        if isinstance(source, StdinSource):
            file = io.BufferedReader(_Joined(source.start(), io.BytesIO()))
        else:
            file = source.open()
        with file, _unzipped(file) as plain:
            return plain.read1(_START_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(source.name, error, "") from None


class TextLines:
    """The lines of one pass. After each record its reader sets `pending` to 0, and `row` to the record's number."""

    def __init__(self, source: ByteSource) -> None:
        self.name = source.name
        self.number = 0
        """Of the line that was given last; the first is 1."""
        self.pending = 0
        """Bytes given since the last record ended."""
        self.row = 0
        """The last row that was read whole."""
        self.flaws: list[str] = []
        """What is wrong with lines given since this was emptied; their text has a mark in place of the bad bytes."""
        self._source = source

    def __iter__(self) -> Iterator[str]:
        """Yield the lines with their ends. Raises ManifestError where it cannot go on."""
        try:
            with self._source.open() as file, _unzipped(file) as plain:
                self._check_kind(plain.peek(8))
                while raw := plain.readline(MAX_RECORD_BYTES + 1):
                    yield self._decoded(raw)
        except (OSError, EOFError, zlib.error) as error:
            place = f" after line {self.number}" + (f" (row {self.row} is the last good one)" if self.row else "")
            raise _unreadable(self.name, error, place) from None

    def _decoded(self, raw: bytes) -> str:
        self.number += 1
        self.pending += len(raw)
        if self.pending > MAX_RECORD_BYTES:
            raise ManifestError(
                f"{self.name}, line {self.number}: this row is longer than {MAX_RECORD_BYTES // 2**20} MiB; "
                "is a line end or a closing quotation mark missing?"
            )
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            self.flaws.append(f"line {self.number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8")
            text = raw.decode(errors="replace")
        if "\x00" in text:
            self.flaws.append(f"line {self.number} holds a NUL character; take it out")
        return text.removeprefix(_BOM) if self.number == 1 else text

    def _check_kind(self, start: bytes) -> None:
        for magic, words in _OTHER_KINDS:
            if start.startswith(magic):
                raise ManifestError(f"{self.name} is {words}")


def _unzipped(file: io.BufferedReader[Any]) -> io.BufferedReader[Any]:
    """Return the plain bytes of `file`, which may be gzipped: told by its first bytes, as names may lie."""
    if file.peek(2)[:2] != _GZIP:
        return file
    return io.BufferedReader(_Unzipped(gzip.GzipFile(fileobj=file, mode="rb")), _BUFFER_BYTES)


def _unreadable(name: str, error: Exception, place: str) -> ManifestError:
    if isinstance(error, EOFError):
        return ManifestError(f"{name} ends too early{place}; copy it again")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return ManifestError(f"{name} is damaged{place}: its gzip data does not add up; copy it again")
    if isinstance(error, PermissionError):
        return ManifestError(f"{name} may not be read; give yourself the right to read it")
    return ManifestError(f"{name} cannot be read{place}: {error.strerror if isinstance(error, OSError) else ''}")
