"""The files that rows bring along: each goes into the bucket once, under its owner and the sha256 of its content.

In parallel, and resumable: what the journal knows is neither read nor sent again. A file that cannot be an input makes
its row a bad row; trouble of the store ends the call, which may simply be repeated.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self
from uuid import UUID

from common.objects import Objects, input_key
from producer.image_kind import HEAD_BYTES, NOT_AN_IMAGE, ImageKind, image_kind
from producer.input_journal import InputJournal, KnownContent
from producer.manifest.row import BadRow, Content, ManifestRow

WORKERS: Final = 8
MAX_BYTES: Final = 50 * 1024 * 1024
"""The default of UPLOAD_MAX_BYTES."""


class InputStore(Protocol):
    """Where the inputs of one owner go: the bucket itself, or the API in front of it. Threads share one."""

    @property
    def name(self) -> str:
        """Endpoint and bucket: two stores with one name hold the same objects."""

    def key(self, sha256: str, extension: str) -> str:
        """Return the key of this content: common.objects.input_key for the store's owner."""

    def uri(self, key: str) -> str:
        """Return the s3:// URI by which a request names `key`."""

    def has(self, key: str) -> bool:
        """Return whether `key` is there; False where `put` itself looks first. Raises FillfleetError."""

    def put(self, key: str, data: Callable[[], BinaryIO], size: int, content_type: str, sha256: str) -> None:
        """Store under `key` the `size` bytes that `data` opens, each time from the start.

        Raises FillfleetError; may be repeated.
        """


@dataclass(frozen=True)
class ObjectsStore:
    """The bucket itself, for one owner."""

    objects: Objects
    owner: UUID

    @property
    def name(self) -> str:
        """Endpoint and bucket."""
        return f"{self.objects.endpoint} {self.objects.bucket}"

    def key(self, sha256: str, extension: str) -> str:
        """Return the key of this content under the owner."""
        return input_key(self.owner, sha256, extension)

    def uri(self, key: str) -> str:
        """Return the s3:// URI of `key`."""
        return self.objects.uri(key)

    def has(self, key: str) -> bool:
        """Return whether `key` is there. Raises Unavailable, Transient."""
        return self.objects.size(key) is not None

    def put(self, key: str, data: Callable[[], BinaryIO], size: int, content_type: str, sha256: str) -> None:  # noqa: ARG002
        """Store the bytes under `key`. Raises Unavailable, Transient."""
        with data() as file:
            self.objects.put(key, file, content_type)


@dataclass(frozen=True)
class _Stored:
    uri: str


@dataclass(frozen=True)
class _Refused:
    reason: str


class InputFiles:
    """Uploads the files of rows for one owner. Close it, or use it as a context manager: it holds threads."""

    def __init__(
        self, journal: InputJournal, store: InputStore, workers: int = WORKERS, *, max_bytes: int = MAX_BYTES
    ) -> None:
        """`max_bytes` is the largest file taken; at most `workers` files are in memory at a time."""
        self._journal = journal
        self._store = store
        self._max_bytes = max_bytes
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="inputs")
        self._lock = threading.Lock()
        self._sending: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being sent and end the threads. The journal stays open: it is the caller's."""
        self._pool.shutdown(cancel_futures=True)

    def resolve(self, rows: Sequence[ManifestRow | BadRow]) -> list[ManifestRow | BadRow]:
        """Return the same rows in the same order, each file replaced by its s3:// URI in the body.

        A row is a BadRow where one of its files is gone, unreadable, empty, too large or no image. Raises
        FillfleetError where the store has trouble; what was sent until then is remembered.
        """
        contents = {content for row in rows if isinstance(row, ManifestRow) for content in row.files.values()}
        results = self._ensure_all(contents)
        return [row if isinstance(row, BadRow) else _resolved(row, results) for row in rows]

    def _ensure_all(self, contents: set[Content]) -> dict[Content, _Stored | _Refused]:
        futures = {content: self._pool.submit(self._ensure, content) for content in contents}
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # an error ends the call without waiting for the others
            return {content: future.result() for content, future in futures.items()}
        finally:
            for future in futures.values():  # after an error or Ctrl-C nothing more is begun
                future.cancel()

    def _ensure(self, content: Content) -> _Stored | _Refused:
        """Return where the content lies in the store, after putting it there if need be."""
        try:
            identity = content.identity
            known = None if identity is None else self._journal.content(identity)
            if known is not None and self._is_stored(known):
                return _Stored(self._store.uri(self._key(known)))
            read = self._read(content)
            if isinstance(read, _Refused):
                return read
            known, data = read
            if identity is not None and content.identity == identity:  # nobody wrote to it meanwhile
                self._journal.remember_content(identity, known)
        except OSError as error:
            return _Refused(os_words(error))
        self._send_once(known, data)
        return _Stored(self._store.uri(self._key(known)))

    def _read(self, content: Content) -> tuple[KnownContent, bytes] | _Refused:
        # Read once and whole, so that what is sent is what was hashed, whoever writes to the file meanwhile.
        with content.open() as file:
            data = file.read(self._max_bytes + 1)
        kind = image_kind(data[:HEAD_BYTES])
        if kind is None:
            return _Refused(NOT_AN_IMAGE if data else "is empty (0 bytes); it has to be an image")
        if len(data) > self._max_bytes:
            return _Refused(f"is larger than the {self._max_bytes} bytes allowed; make it smaller")
        return KnownContent(hashlib.sha256(data).hexdigest(), kind.value, len(data)), data

    def _is_stored(self, known: KnownContent) -> bool:
        if known.size > self._max_bytes:  # the limit may have become smaller since
            return False
        key = self._key(known)
        if self._journal.has_upload(self._store.name, key):
            return True
        if not self._store.has(key):
            return False
        self._journal.remember_upload(self._store.name, key)
        return True

    def _send_once(self, known: KnownContent, data: bytes) -> None:
        """Put the content unless it is there; equal content of another file waits for the one that is on its way."""
        key = self._key(known)
        with self._lock:
            first = key not in self._sending
            sending = self._sending.setdefault(key, Future())
        if not first:
            sending.result()
            return
        try:
            if not self._is_stored(known):
                kind = ImageKind(known.extension)
                self._store.put(key, lambda: io.BytesIO(data), known.size, kind.content_type, known.sha256)
                self._journal.remember_upload(self._store.name, key)
            sending.set_result(None)
        except BaseException as error:
            sending.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._sending[key]

    def _key(self, known: KnownContent) -> str:
        return self._store.key(known.sha256, known.extension)


def os_words(error: OSError) -> str:
    """Return what an OSError of a user's own file means, to follow after the file's name."""
    if isinstance(error, FileNotFoundError):
        return "does not exist; check the name, or whether it was moved"
    if isinstance(error, PermissionError):
        return "may not be read; check its permissions"
    if isinstance(error, IsADirectoryError):
        return "is a folder; name a file"
    return f"cannot be read ({error.strerror or 'input/output error'})"


def _resolved(row: ManifestRow, results: dict[Content, _Stored | _Refused]) -> ManifestRow | BadRow:
    uris: dict[str, str] = {}
    for field, content in row.files.items():
        result = results[content]
        if isinstance(result, _Refused):
            return BadRow(row.number, row.where, field, content.name, result.reason, row.custom_id)
        uris[field] = result.uri
    return replace(row, body={**row.body, **uris}, files={}) if uris else row
