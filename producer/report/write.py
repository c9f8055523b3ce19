"""Writes the report of a batch: one pass over all its rows, then the pictures of a few, then the file.

It only reads. Memory does not grow with the number of rows, and nothing is fetched but what lies in the bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from common.atomic_file import atomic_file
from common.errors import Rejected
from producer.batches import Batch
from producer.doors.door import Door
from producer.report.page import Contents, render_page
from producer.report.pictures import pictures_of
from producer.report.sample import Sample
from producer.report.summary import Summary
from producer.report.thumbnails import Thumbnails

MAX_SAMPLE: Final = 2000
"""More rows than a person looks at, and about as many as a browser shows at once."""
_PROGRESS_ROWS: Final = 1000
_SHOWN_REJECTS: Final = 20


@dataclass(frozen=True)
class Progress:
    """How far a report is."""

    rows: int
    """Rows read so far."""
    total: int
    """How many there are, as counted when it began."""
    pictures: int = 0
    """Pictures fetched so far."""
    wanted: int = 0
    """Pictures to fetch in all; 0 while rows are read."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    bytes: int
    rows: int
    """Rows of the batch that it sums up."""
    shown: int
    """Rows that are in it with their pictures."""
    pictures: int
    missing: int
    """Pictures that are gone, or did not arrive."""


def write_report(
    door: Door,
    batch: Batch,
    target: Path,
    *,
    sample: int = 200,
    on_progress: Callable[[Progress], object] = lambda _: None,
) -> Report:
    """Write the report of `batch` to `target`, wholly or not at all, with `sample` of its rows shown.

    The same rows give the same sample. A picture that cannot be had is named as such and stops nothing.
    Raises Rejected (invalid_sample), what door.rows raises, and OSError where `target` cannot be written.
    """
    if not 1 <= sample <= MAX_SAMPLE:
        raise Rejected("invalid_sample", f"sample: {sample} is out of range; allowed: 1 to {MAX_SAMPLE} rows")
    summary, kept = Summary(), Sample(sample)
    total = batch.counts.total
    for row in door.rows(batch):
        summary.add(row)
        kept.add(row)
        if summary.rows % _PROGRESS_ROWS == 0:
            on_progress(Progress(summary.rows, max(total, summary.rows)))
    rows = kept.rows()
    wanted = [picture for row in rows for picture in pictures_of(row).to_fetch]

    def on_picture(done: int, of: int) -> None:
        on_progress(Progress(summary.rows, summary.rows, done, of))

    thumbnails = Thumbnails(door.outputs).fetch(wanted, on_picture)
    rejects = tuple(islice(door.rejects(batch), _SHOWN_REJECTS)) if batch.rejected else ()
    page = render_page(Contents(batch, summary, rows, thumbnails, rejects, datetime.now(UTC))).encode()
    with atomic_file(target) as file:
        file.write(page)
    missing = sum(thumbnail.data_uri is None and not thumbnail.expected for thumbnail in thumbnails.values())
    return Report(target, len(page), summary.rows, len(rows), len(thumbnails) - missing, missing)
