"""`submit --check`: judges every row and says what the batch would cost. It writes nothing and uploads nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from common.contract import MATCH, MAX_SIDE, parse_size, shorten
from common.lifecycle import Reject
from producer.doors.door import Door
from producer.image_kind import HEAD_BYTES, NOT_AN_IMAGE, image_kind
from producer.input_files import InputStore, os_words
from producer.manifest import BadRow, Content, LocalFile, ManifestRow
from producer.manifest.measure import measure
from producer.manifest.open import Manifest
from producer.submission import chunks

_SAMPLES: Final = 2000
_FILE: Final = "0" * 64
"""The sha256 by which files are named that are not uploaded."""


@dataclass
class Estimate:
    """What a manifest holds, as far as it was read."""

    rows: int = 0
    good: int = 0
    bad: int = 0
    files: int = 0
    """Local files that rows bring along."""
    bytes: int = 0
    """Of those files."""
    images: int = 0
    """Outputs that the good rows ask for."""
    known_pixels: int = 0
    """Of outputs whose size the rows say."""
    sampled: int = 0
    """Outputs of local images with a size of their own…"""
    samples: list[int] = field(default_factory=list)
    """…and the pixels of some of them, spread evenly."""
    unmeasured: int = 0
    """Outputs of remote images with a size of their own: nobody knows before they are fetched."""
    stride: int = 1

    @property
    def megapixels(self) -> float:
        """Of all outputs whose size can be told: what is not measured counts as the mean of what is."""
        mean = sum(self.samples) / len(self.samples) if self.samples else 0.0
        return (self.known_pixels + mean * self.sampled) / 1e6


class Check:
    """Judges the rows of one manifest."""

    def __init__(self, door: Door, defaults: Mapping[str, Any], max_bytes: int) -> None:
        self.estimate = Estimate()
        self._door = door
        self._defaults = defaults
        self._max_bytes = max_bytes
        self._offered = 0
        self._seen = sqlite3.connect("")  # on disk where it grows: a manifest may have ten million ids
        self._seen.execute("CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID")
        self._kind_of_file = lru_cache(1024)(self._look)

    def run(self, manifest: Manifest, on_bad: Callable[[Reject], None]) -> Estimate:
        """Read all rows and return the estimate; `on_bad` gets each bad row. Raises as the door does, ManifestError."""
        for chunk in chunks(manifest):
            self._chunk(chunk, on_bad)
        return self.estimate

    def close(self) -> None:
        """Remove what it has on disk."""
        self._seen.close()

    def _chunk(self, chunk: Sequence[ManifestRow | BadRow], on_bad: Callable[[Reject], None]) -> None:
        rows = [row if isinstance(row, BadRow) else self._without_files(row) for row in chunk]
        _, rejects = self._door.check(rows, self._defaults)
        bad = {reject.number: reject for reject in rejects}
        for row, judged in zip(chunk, rows, strict=True):
            if isinstance(row, ManifestRow) and row.number not in bad and self._is_double(row.custom_id):
                reason = "is the custom_id of an earlier row already; give each row its own"
                bad[row.number] = Reject(
                    row.number, row.custom_id, row.where, "custom_id", shorten(row.custom_id), reason
                )
            if isinstance(row, ManifestRow) and isinstance(judged, ManifestRow) and row.number not in bad:
                self._count(row)
        self.estimate.rows += len(chunk)
        self.estimate.good += len(chunk) - len(bad)
        self.estimate.bad += len(bad)
        for number in sorted(bad):
            on_bad(bad[number])

    def _without_files(self, row: ManifestRow) -> ManifestRow | BadRow:
        """Return the row as it would be once its files are uploaded."""
        if not row.files:
            return row
        uris = {}
        for name, content in row.files.items():
            reason = self._kind_of_file(content) if isinstance(content, LocalFile) else self._look(content)
            if reason:
                return BadRow(row.number, row.where, name, content.name, reason, row.custom_id)
            uris[name] = _uri(self._door.inputs)
        return replace(row, body={**row.body, **uris}, files={})

    def _look(self, content: Content) -> str:
        """Return why a file cannot be an input; empty where it can."""
        try:
            with content.open() as file:
                head = file.read(HEAD_BYTES)
                size = file.seek(0, 2)
        except OSError as error:
            return os_words(error)
        if image_kind(head) is None:
            return NOT_AN_IMAGE if head else "is empty (0 bytes); it has to be an image"
        if size > self._max_bytes:
            return f"is larger than the {self._max_bytes} bytes allowed; make it smaller"
        self.estimate.files += 1
        self.estimate.bytes += size
        return ""

    def _is_double(self, custom_id: str | None) -> bool:
        if custom_id is None:
            return False
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 0

    def _count(self, row: ManifestRow) -> None:
        estimate, asked = self.estimate, {"size": MATCH, "num_images": 1, **self._defaults, **row.body}
        images = int(asked["num_images"])
        estimate.images += images
        size = parse_size(str(asked["size"]))
        if size is not None:
            estimate.known_pixels += images * size.width * size.height
        elif "image" in row.files:
            self._sample(row, images)
        else:
            estimate.unmeasured += images

    def _sample(self, row: ManifestRow, images: int) -> None:
        estimate = self.estimate
        self._offered += 1
        if self._offered % estimate.stride == 0 and (pixels := _pixels(row)):
            estimate.samples.append(pixels)
            if len(estimate.samples) >= _SAMPLES:
                estimate.samples = estimate.samples[::2]
                estimate.stride *= 2
        estimate.sampled += images


def _pixels(row: ManifestRow) -> int:
    """Return the pixels that the output of a row's local image would have; 0 where its header cannot be read."""
    found = measure(row)
    if found is None:
        return 0
    scale = min(1.0, MAX_SIDE / max(found.width, found.height, 1))
    return int(found.width * scale) * int(found.height * scale)


def _uri(store: InputStore) -> str:
    return store.uri(store.key(_FILE, "png"))
