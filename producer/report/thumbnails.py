"""Small pictures as data: URIs, fetched from the bucket several at a time.

Nothing is fetched from anywhere else, and never more than the door lets through. A picture that is gone, damaged or too
large becomes words: none of them stops a report.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from typing import Final

from common.errors import FillfleetError, Rejected, Transient, Unavailable
from producer.input_files import MAX_BYTES as MAX_INPUT_BYTES
from producer.report.shrink import NotShown, clear_parts, encode, image, mask
from producer.results.outputs import Output, OutputStore, fetch_output

THREADS: Final = 8
PAGE_BYTES: Final = 6_000_000
"""For all pictures of a page together, before base64 makes them a third larger: a page shall stay below 10 MB."""
_MOST_BYTES: Final = 20_000
_LEAST_BYTES: Final = 2_000
"""A picture of fewer bytes shows nothing; so a page of some thousand pictures may grow beyond PAGE_BYTES."""
_GONE: Final = {
    "object_not_found": "no longer there",
    "input_changed": "no longer there: another file has its name now",
    "object_too_large": "too large to be shown",
    "output_elsewhere": "in another bucket: not fetched",
    "bucket_not_readable": "in a bucket that cannot be read from here",
}


class Kind(Enum):
    """How the file is to be looked at."""

    IMAGE = "image"
    MASK = "mask"
    CLEAR_PARTS = "clear parts"
    """As the mask that an image brings along: white where it is transparent."""


@dataclass(frozen=True)
class Wanted:
    """A picture to fetch."""

    uri: str
    kind: Kind
    sha256: str | None = None
    bytes: int | None = None
    """Its size where that is known, as it is of outputs."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture; or `words` on why there is none."""

    data_uri: str | None = None
    width: int = 0
    height: int = 0
    words: str = ""
    expected: bool = False
    """Whether there was no picture to be had in the first place."""


class Thumbnails:
    """Fetches pictures from one store. Once that store stays away, it is not asked again."""

    def __init__(self, store: OutputStore) -> None:
        self._store = store
        self._away = threading.Event()

    def fetch(self, wanted: Sequence[Wanted], on_done: Callable[[int, int], object]) -> Mapping[Wanted, Thumbnail]:
        """Return a thumbnail for each picture; one that is wanted several times is fetched once.

        `on_done` hears how many are done, of how many.
        """
        numbers = Counter(wanted)
        limit = min(_MOST_BYTES, max(_LEAST_BYTES, PAGE_BYTES // max(1, len(wanted))))
        done: dict[Wanted, Thumbnail] = {}
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails")
        try:
            under_way = {pool.submit(self._make, one, limit): one for one in numbers}
            for future in as_completed(under_way):
                done[under_way[future]] = future.result()
                on_done(len(done), len(numbers))
        finally:
            pool.shutdown(cancel_futures=True)
        return done

    def _make(self, wanted: Wanted, limit: int) -> Thumbnail:
        if self._away.is_set():
            return Thumbnail(words="did not arrive: the object store is away")
        try:
            data = self._fetch(wanted)
            small = {Kind.IMAGE: image, Kind.MASK: mask, Kind.CLEAR_PARTS: clear_parts}[wanted.kind](data)
            if small is None:
                return Thumbnail(words="none: bars around the image are filled", expected=True)
            encoded = base64.b64encode(encode(small, limit)).decode("ascii")
            return Thumbnail(f"data:image/webp;base64,{encoded}", small.width, small.height)
        except Unavailable:
            self._away.set()
            return Thumbnail(words="did not arrive: the object store is away")
        except NotShown as error:
            return Thumbnail(words=str(error))
        except FillfleetError as error:
            return Thumbnail(words=_GONE.get(error.code, "did not arrive"))

    def _fetch(self, wanted: Wanted) -> bytes:
        if wanted.bytes is not None:
            return fetch_output(Output(wanted.uri, wanted.sha256, wanted.bytes), self._store)
        try:
            data = self._store.fetch(wanted.uri, max_bytes=MAX_INPUT_BYTES)
        except (Transient, Unavailable):
            data = self._store.fetch(wanted.uri, max_bytes=MAX_INPUT_BYTES)
        if wanted.sha256 is not None and hashlib.sha256(data).hexdigest() != wanted.sha256:
            raise Rejected("input_changed", "another file lies there now")
        return data
