"""A manifest on its way into a batch: the first rows of it only, and how far its reading and its files are."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import islice
from typing import BinaryIO

from producer.input_files import InputStore
from producer.manifest import BadRow, ManifestRow
from producer.manifest.open import Manifest
from producer.manifest.options import Form


class Reading:
    """A manifest, of which at most `limit` rows are read. `read` is how many of them came in this pass."""

    def __init__(self, manifest: Manifest, limit: int | None = None) -> None:
        self._manifest = manifest
        self._limit = limit
        self.read = 0

    @property
    def form(self) -> Form:
        """See Manifest."""
        return self._manifest.form

    @property
    def name(self) -> str:
        """See Manifest; of a part it says so."""
        return self._manifest.name if self._limit is None else f"{self._manifest.name}-first-{self._limit}"

    def rows(self) -> Generator[ManifestRow | BadRow, None, None]:
        """See Manifest."""
        self.read = 0
        for row in islice(self._manifest.rows(), self._limit):
            self.read += 1
            yield row


class CountedStore:
    """An InputStore that counts what was sent. Threads share one; a count may lag by what is sent at the moment."""

    def __init__(self, store: InputStore) -> None:
        self._store = store
        self.files = 0
        self.bytes = 0

    @property
    def name(self) -> str:
        """See InputStore."""
        return self._store.name

    def key(self, sha256: str, extension: str) -> str:
        """See InputStore."""
        return self._store.key(sha256, extension)

    def uri(self, key: str) -> str:
        """See InputStore."""
        return self._store.uri(key)

    def has(self, key: str) -> bool:
        """See InputStore."""
        return self._store.has(key)

    def put(self, key: str, data: Callable[[], BinaryIO], size: int, content_type: str, sha256: str) -> None:
        """See InputStore."""
        self._store.put(key, data, size, content_type, sha256)
        self.files += 1
        self.bytes += size
