"""Manifests that lie in a bucket: names of files below a prefix, and a tar that is read while it comes.

Images that are found there stay there: their rows name them, and nothing is downloaded. Nothing is read or listed but
what the owner of the batch may read; whether that holds for what a row names is judged where rows become jobs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final, cast

from common.contract import shorten
from common.errors import Transient, Unavailable
from common.s3_uri import check_key, is_s3_uri
from common.sources import ObjectSource
from common.urls import BadUrl
from producer.manifest.owner_objects import OwnerObjects
from producer.manifest.row import ManifestError
from producer.manifest.trees import CAPTION, EMPTY, Listing, is_hidden, is_image

_TRIES: Final = 3
"""How often in a row a broken stream is taken up again without a byte having come."""


def is_s3(source: str) -> bool:
    """Whether a manifest's source names a bucket."""
    return is_s3_uri(source)


def location_of(source: str, objects: OwnerObjects | None) -> tuple[OwnerObjects, ObjectSource]:
    """Return what reads `source`, and where that is: an object, or a prefix. Raises ManifestError."""
    if objects is None:
        raise ManifestError(f"{shorten(source)}: manifests in a bucket cannot be read here; name a file or a folder")
    return objects, objects.parse(source)


def prefix_of(source: str, objects: OwnerObjects | None) -> tuple[OwnerObjects, ObjectSource]:
    """Return the same of a prefix, with / at its end ("" is the whole bucket). Raises ManifestError."""
    found, at = location_of(source, objects)
    return found, as_prefix(at)


def as_prefix(at: ObjectSource) -> ObjectSource:
    """Return the location with / at its end, unless it is the whole bucket."""
    return at if not at.key or at.key.endswith("/") else ObjectSource(at.bucket, f"{at.key}/")


def below(prefix: ObjectSource, name: str) -> ObjectSource:
    """Return what `name` is below a prefix."""
    return ObjectSource(prefix.bucket, f"{prefix.key}{name}")


class S3Tree:
    """What lies below a prefix of a bucket; the same files give the same rows as on a disk."""

    def __init__(self, objects: OwnerObjects, prefix: ObjectSource, name: str) -> None:
        self.name = name
        self._objects = objects
        self._prefix = prefix

    def content(self, path: str) -> str:
        """Return the s3:// URI."""
        return below(self._prefix, path).uri

    def text(self, path: str, max_bytes: int) -> bytes:
        """Return the object's bytes. Raises Rejected where they are more than `max_bytes`, Unavailable, Transient."""
        return self._objects.get(below(self._prefix, path), max_bytes=max_bytes)

    def listings(self) -> Iterator[Listing]:
        """Yield each folder that holds anything, sorted by `order`. Raises Unavailable, Transient."""
        # A folder at a time, since stores differ in the order of a whole prefix.
        top, folders = self._list("")
        stack = [(top, iter(folders))]
        while stack:
            listing, rest = stack[-1]
            name = next(rest, None)
            if name is not None:
                inner, folders = self._list(f"{listing.path}{name}")
                stack.append((inner, iter(folders)))
                continue
            stack.pop()
            if listing.images or listing.captions or listing.broken:
                yield listing

    def _list(self, path: str) -> tuple[Listing, list[str]]:
        listing = Listing(path)
        folders = []
        prefix = below(self._prefix, path)
        names = ((key[len(prefix.key) :], size) for key, size in self._objects.list_folder(prefix))
        for name, size in sorted(names, key=lambda entry: entry[0].encode()):
            if size is None:
                if name == "/":
                    listing.broken.append((name, "is a folder without a name, which no request can name; rename it"))
                elif not is_hidden(name[:-1]):
                    try:
                        check_key(f"{prefix.key}{name}x")
                        folders.append(name)
                    except BadUrl as error:
                        listing.broken.append((name, f"{error}, which no request can name; rename the folder"))
            elif is_image(name) and not is_hidden(name):
                listing.images[name] = EMPTY if size == 0 else None
            elif name.endswith(CAPTION) and not is_hidden(name) and size:
                listing.captions.add(name)
        return listing, folders


def has_keys(objects: OwnerObjects, prefix: ObjectSource) -> bool:
    """Return whether anything lies below `prefix`. Raises Unavailable, Transient."""
    return next(objects.list_keys(prefix), None) is not None


class S3File(io.RawIOBase):
    """An object that is read as it comes, front to back; a connection that breaks is taken up where it broke.

    Raises Unavailable and Transient where it keeps breaking, Rejected where there is no such object.
    """

    def __init__(self, objects: OwnerObjects, at: ObjectSource) -> None:
        self._objects = objects
        self._at = at
        self._place = 0
        self._open: AbstractContextManager[object] | None = None
        self._connect()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._next(len(view))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._disconnect()
        super().close()

    def _next(self, size: int) -> bytes:
        for left in reversed(range(_TRIES)):
            try:
                if self._open is None:
                    self._connect()
                return self._read(size)
            except (Unavailable, Transient):  # a reader that pauses long enough is cut off by some stores
                self._disconnect()
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _connect(self) -> None:
        stream = self._objects.stream(self._at, start=self._place)
        self._read = stream.__enter__()
        self._open = stream

    def _disconnect(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
