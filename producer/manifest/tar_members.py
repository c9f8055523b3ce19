"""The members of one tar or tar.gz, as a stream: names and sizes, and the bytes of those that are asked for.

Nothing is written to the disk and no link is followed. What tarfile takes for a silent end (a header that is cut off or
damaged) is an error here, and no header may fill the memory.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Final, Self, cast

from common.contract import shorten
from producer.manifest.row import ManifestError
from producer.manifest.shards import Shard

MAX_HEADER_BYTES: Final = 256 * 1024
"""Of long names and extended attributes, which tarfile reads whole."""
_BLOCK_BYTES: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_EXTENDED: Final = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class TarMembers:
    """One pass over a tar. Its reader sets `row` to the last row that was read whole."""

    def __init__(self, shard: Shard) -> None:
        self.row = 0
        self.last: str | None = None
        """The name of the member that was read last."""
        self._shard = shard
        self._tar: tarfile.TarFile | None = None
        self._plain: gzip.GzipFile | None = None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members in their order. Raises ManifestError where it cannot go on, FillfleetError of the store."""
        try:
            with ExitStack() as stack:
                self._tar = self._open(stack)
                while (member := self._tar.next()) is not None:
                    self._tar.members = []  # type: ignore[attr-defined] # tarfile would keep every one
                    yield member
                    self.last = member.name
                while self._plain is not None and self._plain.read(_BLOCK_BYTES):
                    pass  # the checksum of a gz stands at its end
        except _ERRORS as error:
            raise self._broken(error) from None

    def read(self, member: tarfile.TarInfo) -> bytes:
        """Return the bytes of the member that was yielded last. Raises ManifestError where the tar ends inside it."""
        assert self._tar is not None  # noqa: S101 - it was yielded
        try:
            file = self._tar.extractfile(member)
            data = b"" if file is None else file.read(member.size)
        except _ERRORS as error:
            raise self._broken(error, member.name) from None
        if len(data) < member.size:
            raise self._broken(EOFError(), member.name)
        return data

    def _open(self, stack: ExitStack) -> tarfile.TarFile:
        raw = stack.enter_context(self._shard.open())
        start = raw.peek(2)[:2]
        if not start:
            raise ManifestError(f"{self._shard.name} is empty; copy it again")
        if start == _GZIP:
            self._plain = stack.enter_context(gzip.GzipFile(fileobj=raw))
        file = raw if self._plain is None else cast(BinaryIO, self._plain)
        return stack.enter_context(tarfile.open(fileobj=file, mode="r|", tarinfo=_StrictInfo, errors="surrogateescape"))

    def _broken(self, error: Exception, inside: str | None = None) -> ManifestError:
        name = self._shard.name
        where = f" inside its member {_shown(inside)}" if inside is not None else ""
        if not where and self.last is not None:
            where = f" after its member {_shown(self.last)}"
        if where and self.row:
            where += f" (row {self.row} is the last good one)"
        if isinstance(error, PermissionError):
            return ManifestError(f"{name} may not be read; give yourself the right to read it")
        if isinstance(error, zlib.error | gzip.BadGzipFile):
            return ManifestError(f"{name} is damaged{where}: its gzip data does not add up; copy it again")
        if isinstance(error, _Damaged):
            if self.last is None and not where:
                return ManifestError(f"{name} is not a tar or tar.gz; check the file, or name its form with --form")
            return ManifestError(f"{name} is damaged{where}: {error}; copy it again")
        if isinstance(error, EOFError | tarfile.ReadError):
            return ManifestError(f"{name} ends too early{where}; copy it again")
        return ManifestError(f"{name} cannot be read on{where}; check its disk")


class _Damaged(Exception):
    """Not a HeaderError, which tarfile takes for the end of the archive."""


class _StrictInfo(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _EXTENDED and info.size > MAX_HEADER_BYTES):
            raise _Damaged("a header has an impossible size")
        return info

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            info = super().fromtarfile(tarfile)
        except (EOFHeader, EmptyHeader, TruncatedHeader) as error:
            if isinstance(error, EOFHeader):
                raise  # the two empty blocks that end every tar
            raise EOFError from None
        except (BadHeader, RecursionError):
            raise _Damaged("a header does not make sense") from None
        if info.size < 0:  # an extended header may say so
            raise _Damaged("a header has an impossible size")
        return info


# typeshed knows only the base of these.
EOFHeader: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
EmptyHeader: type[Exception] = tarfile.EmptyHeaderError  # type: ignore[attr-defined]
TruncatedHeader: type[Exception] = tarfile.TruncatedHeaderError  # type: ignore[attr-defined]
BadHeader: type[Exception] = tarfile.HeaderError
_ERRORS: Final = (OSError, EOFError, zlib.error, tarfile.TarError, _Damaged)


def _shown(name: str) -> str:
    return shorten(name.encode(errors="surrogateescape").decode(errors="replace"))
