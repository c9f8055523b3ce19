"""The buckets as one owner may read them: what manifests are read through.

Each look at an object or a prefix is judged by itself, right before it happens, so that no way of writing a manifest's
source leads to what belongs to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import UUID

from common.errors import Rejected
from common.objects import Objects
from common.read_prefixes import NameOf
from common.settings import Settings
from common.sources import HttpSource, ObjectSource, check_source_owner, parse_source
from producer.manifest.row import ManifestError

_WHAT = "manifest"


class OwnerObjects:
    """See Objects, whose errors these methods raise; and ManifestError, in words, where the owner may not read it."""

    def __init__(self, objects: Objects, settings: Settings, owner: UUID, name_of: NameOf) -> None:
        self._objects = objects
        self._settings = settings
        self._owner = owner
        self._name_of = name_of

    def parse(self, uri: str) -> ObjectSource:
        """Return the object, prefix or bucket that an s3:// URI names; whether it may be read is judged later.

        Raises ManifestError where it is none, or nobody may read its bucket.
        """
        try:
            source = parse_source(uri, self._settings, what=_WHAT, folders=True)
        except Rejected as error:
            raise ManifestError(error.message) from None
        if isinstance(source, HttpSource):
            raise ValueError("a URL is no object")
        return source

    def size(self, at: ObjectSource) -> int | None:
        """See Objects."""
        self._check(at)
        return self._objects.size(at.key, bucket=at.bucket)

    def get(self, at: ObjectSource, *, max_bytes: int) -> bytes:
        """See Objects."""
        self._check(at)
        return self._objects.get(at.key, max_bytes=max_bytes, bucket=at.bucket)

    def download(self, at: ObjectSource, target: Path, *, max_bytes: int) -> str:
        """See Objects."""
        self._check(at)
        return self._objects.download(at.key, target, max_bytes=max_bytes, bucket=at.bucket)

    def stream(self, at: ObjectSource, *, start: int = 0) -> AbstractContextManager[Callable[[int], bytes]]:
        """See Objects."""
        self._check(at)
        return self._objects.stream(at.key, start=start, bucket=at.bucket)

    def list_keys(self, prefix: ObjectSource) -> Iterator[tuple[str, int]]:
        """See Objects; the prefix is a whole folder, with / at its end, or the whole bucket."""
        self._check_folder(prefix)
        return self._objects.list_keys(prefix.key, bucket=prefix.bucket)

    def list_folder(self, prefix: ObjectSource) -> Iterator[tuple[str, int | None]]:
        """See Objects; the prefix is a whole folder, with / at its end, or the whole bucket."""
        self._check_folder(prefix)
        return self._objects.list_folder(prefix.key, bucket=prefix.bucket)

    def _check_folder(self, prefix: ObjectSource) -> None:
        if prefix.key and not prefix.key.endswith("/"):  # it would list the folders beside it that begin alike
            raise ValueError("a prefix ends with /")
        self._check(prefix)

    def _check(self, at: ObjectSource) -> None:
        try:
            check_source_owner(at, self._owner, self._settings, name_of=self._name_of, what=_WHAT, folders=True)
        except Rejected as error:
            raise ManifestError(error.message) from None
