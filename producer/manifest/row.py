"""One row of any manifest, whatever form it came in, and what may be wrong with it before its fields are judged."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from common.errors import FillfleetError


class ManifestError(FillfleetError):
    """The manifest as a whole cannot be read (on). The message names file, place and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__("manifest_unreadable", message)


class NoRows(ManifestError):
    """The manifest is in order, but empty."""


class Content(Protocol):
    """A file that a row brings along; it is uploaded into the bucket under the sha256 of its bytes."""

    @property
    def name(self) -> str:
        """What to call it in messages, such as photos/a.png."""

    @property
    def identity(self) -> str | None:
        """Changes whenever the bytes may have changed, so that a known sha256 can be used again; None: unknown."""

    def open(self) -> BinaryIO:
        """Return the bytes, from the start. Raises OSError."""


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    path: Path
    name: str

    @property
    def identity(self) -> str | None:
        """Absolute path, size and time of the last change. Raises OSError where it is gone."""
        stat = self.path.stat()
        return f"{self.path.absolute()}\x00{stat.st_size}\x00{stat.st_mtime_ns}"

    def open(self) -> BinaryIO:
        """Return the bytes, from the start. Raises OSError."""
        return self.path.open("rb")


@dataclass(frozen=True, eq=False)
class InlineContent:
    """Bytes that came inside the manifest, such as a member of a tar."""

    data: bytes = field(repr=False)
    name: str

    @property
    def identity(self) -> str | None:
        """Unknown: it has to be hashed."""
        return None

    def open(self) -> BinaryIO:
        """Return the bytes, from the start."""
        return io.BytesIO(self.data)


@dataclass(frozen=True)
class ManifestRow:
    """One row: `body` holds fields of the contract as the row says them, `files` those that it brings as bytes."""

    number: int
    """1 for the first row of data; the same in every reading of the same manifest."""
    where: str
    """For messages, such as "products.csv, line 18"."""
    body: Mapping[str, Any]
    """Fields of the contract, JSON values; what the row leaves out is not in it."""
    custom_id: str | None = None
    files: Mapping[str, Content] = field(default_factory=dict)
    """By field (image, mask_image); such a field is not in `body`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Passthrough columns, JSON values: they come back in the results."""


@dataclass(frozen=True)
class BadRow:
    """One row that cannot become a job."""

    number: int
    where: str
    field: str
    """The field or column to mend; "row" where it is the row as a whole."""
    value: str
    """What stood there, shortened; empty where there was nothing."""
    reason: str
    """What is wrong and what to do, such as "names no file below photos/; check the path"."""
    custom_id: str | None = None
