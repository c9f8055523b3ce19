"""Batches for a fleet of real processes: brought in as `fillfleet submit` does, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select

from common.lifecycle import NewBatch
from common.tables import jobs
from producer.batches import Batch
from producer.doors.direct import DirectDoor
from producer.input_files import InputFiles
from producer.input_journal import InputJournal
from producer.manifest import BadRow, ManifestRow
from producer.manifest.options import Form
from producer.submission import submit
from tests.support.fleet import Fleet

QUICK: Final[Mapping[str, Any]] = {"num_inference_steps": 1, "enable_safety_checker": False, "size": "256*256"}
"""Defaults of batches whose jobs cost next to nothing; a worker honours them under ALLOW_SAFETY_CHECKER_OFF."""


@dataclass(frozen=True)
class Rows:
    """A manifest of rows that are made as they are read."""

    name: str
    number: int
    body: Callable[[int], Mapping[str, Any]]
    """What row n says, the first being 1."""
    form: Form = field(default=Form.JSONL)

    def rows(self) -> Iterator[ManifestRow | BadRow]:
        """See Manifest."""
        for number in range(1, self.number + 1):
            yield ManifestRow(number, f"row {number}", dict(self.body(number)), f"{self.name}-{number}")


class Bulk:
    """The batches of a fleet's owner."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.door = DirectDoor(fleet.settings, fleet.owner)
        self._folder = folder
        self._image: str | None = None

    @property
    def image(self) -> str:
        """An input that is all hole: it needs no mask, so a job fetches once."""
        if self._image is None:
            self._image = self.fleet.store_image(mode="RGBA", colour=(0, 0, 0, 0))
        return self._image

    def submit(
        self,
        name: str,
        rows: int,
        body: Callable[[int], Mapping[str, Any]] | None = None,
        *,
        priority: int = 5,
        **defaults: Any,
    ) -> Batch:
        """Bring a batch of so many rows in and start it; without `body` each fills the same image."""
        batch = self.door.start(NewBatch(name, {**QUICK, **defaults}, priority=priority))
        source = {"image": self.image}
        with (
            closing(InputJournal(self._folder / "inputs.sqlite")) as journal,
            InputFiles(journal, self.door.inputs, workers=1) as files,
        ):
            return submit(Rows(name, rows, body or (lambda _: source)), self.door, batch, files)[0]

    def again(self, batch: Batch) -> Batch:
        """Return the batch as it is now."""
        return self.door.find(batch.id.hex)

    def completed(self, batch: Batch) -> int:
        """Return how many of its rows are completed."""
        return self.again(batch).counts.completed

    def seconds_to_complete(self, name: str, rows: int, *, seconds: float = 120.0) -> float:
        """Return how long a batch takes from before its submission until its last row is completed."""
        began = time.monotonic()
        batch = self.submit(name, rows)
        self.fleet.until(lambda: self.completed(batch) == rows, f"{name} is completed", seconds=seconds)
        return time.monotonic() - began

    def column(self, batch: Batch, name: str) -> Sequence[Any]:
        """Return a column of the rows' jobs, by row number."""
        with self.fleet.engine.begin() as connection:
            rows = select(jobs.c[name]).where(jobs.c.batch_id == batch.id).order_by(jobs.c.row_no)
            return connection.execute(rows).scalars().all()

    def in_flight(self, batch: Batch) -> int:
        """Return how many of its rows are published or running."""
        in_flight = (jobs.c.status == "created") & jobs.c.publish_seq.is_not(None) | (jobs.c.status == "processing")
        with self.fleet.engine.begin() as connection:
            count = select(func.count()).select_from(jobs).where(jobs.c.batch_id == batch.id, in_flight)
            return int(connection.execute(count).scalar_one())


@contextmanager
def running_bulk(fleet: Fleet, folder: Path) -> Iterator[Bulk]:
    """Yield the batches of a fleet, and close their connections at the end."""
    bulk = Bulk(fleet, folder)
    try:
        yield bulk
    finally:
        bulk.door.close()
