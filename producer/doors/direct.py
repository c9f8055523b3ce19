"""Straight to the database and the bucket, on a machine that may reach them: the operator's way, and the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from common import lifecycle
from common.database import make_engine, transaction
from common.errors import Rejected
from common.lifecycle import NewBatch, Reject
from common.objects import Objects
from common.owners import OwnerNames
from common.settings import Settings
from producer import batches
from producer.batches import Batch, ErrorCause, WorkerLine
from producer.input_files import InputStore, ObjectsStore
from producer.intake import Chunk, Intake, Taken
from producer.keys import ensure_owner
from producer.manifest import BadRow, ManifestRow
from producer.manifest.owner_objects import OwnerObjects
from producer.results.outputs import BucketOutputs, OutputStore
from producer.results.read import ANY, Position, RowFilter, read_jobs
from producer.results.row import flatten
from producer.retries import retry_failed
from producer.webhooks import check_webhook_url

T = TypeVar("T")


class DirectDoor:
    """See Door. It belongs to one owner, known by id or by name."""

    def __init__(self, settings: Settings, owner: UUID | str) -> None:
        """An owner that is named, and not known yet, is made. Raises Unavailable."""
        self._settings = settings
        self._engine = make_engine(settings, application="fillfleet batches")
        self._objects = Objects(settings)
        self._owner = owner if isinstance(owner, UUID) else self._do(partial(ensure_owner, name=owner))

    @cached_property
    def _intake(self) -> Intake:
        # Made by who brings rows alone: a bad PROMPT_DENY_FILE keeps nobody from looking at a batch, or cancelling it.
        return Intake(self._settings, self._objects, self._owner)

    @property
    def name(self) -> str:
        """See Door."""
        return "the database"

    def start(self, new: NewBatch) -> Batch:
        """See Door."""
        if new.webhook_url is not None:
            check_webhook_url(new.webhook_url, self._settings)
        return self._do(lambda connection: self._intake.start(connection, new))

    def send(self, batch: Batch, rows: Sequence[ManifestRow | BadRow], *, upto: int, digest: str) -> Taken:
        """See Door."""
        return self.prepare(batch, rows, upto=upto, digest=digest)()

    def prepare(
        self, batch: Batch, rows: Sequence[ManifestRow | BadRow], *, upto: int, digest: str
    ) -> Callable[[], Taken]:
        """See Door. Rows are judged before their transaction begins, while the database copies the chunk before."""
        good, bad = self._intake.judge(rows, batch.defaults, self._do)
        chunk = Chunk(good, bad, upto, digest)
        return lambda: self._do(lambda connection: self._intake.store(connection, batch.id, chunk))

    def open(self, batch: Batch) -> Batch:
        """See Door."""
        self._do(lambda connection: lifecycle.open_batch(connection, self._owner, batch.id))
        return self._again(batch)

    def find(self, name_or_id: str) -> Batch:
        """See Door."""
        found = self._do(lambda connection: batches.look_up_batch(connection, self._owner, name_or_id))
        if found is None:
            raise Rejected("batch_not_found", f"no batch is named {name_or_id!r}; `fillfleet status` lists yours")
        return found

    def list(self, *, page: int = 1, page_size: int = 20) -> tuple[Sequence[Batch], int]:
        """See Door."""
        return self._do(
            lambda connection: batches.list_batches(connection, self._owner, page=page, page_size=page_size)
        )

    def workers(self, batch: Batch) -> Sequence[WorkerLine]:
        """See Door."""
        return self._do(lambda connection: batches.workers_on(connection, batch.id))

    def causes(self, batch: Batch) -> Sequence[ErrorCause]:
        """See Door."""
        return self._do(lambda connection: batches.error_causes(connection, batch.id))

    def rejects(self, batch: Batch) -> Iterator[Reject]:
        """See Door."""
        after = 0
        while page := self._do(partial(batches.read_rejects, batch=batch.id, after=after)):
            yield from page
            after = page[-1].number

    def pause(self, batch: Batch) -> Batch:
        """See Door."""
        self._do(lambda connection: lifecycle.pause_batch(connection, self._owner, batch.id))
        return self._again(batch)

    def resume(self, batch: Batch) -> Batch:
        """See Door."""
        self._do(lambda connection: lifecycle.resume_batch(connection, self._owner, batch.id))
        return self._again(batch)

    def cancel(self, batch: Batch) -> Batch:
        """See Door."""
        self._do(lambda connection: lifecycle.cancel_batch(connection, self._owner, batch.id))
        return self._again(batch)

    def retry(self, batch: Batch) -> int:
        """See Door."""
        return retry_failed(self._do, self._owner, batch.id)

    def rows(self, batch: Batch, wanted: RowFilter = ANY, *, after: Position | None = None) -> Iterator[dict[str, Any]]:
        """See Door."""
        for job in read_jobs(self._engine, self._owner, batch.id, wanted, after=after):
            yield dict(flatten(job, bucket=self._objects.bucket))

    def check(self, rows: Sequence[ManifestRow | BadRow], defaults: Mapping[str, Any]) -> tuple[int, Sequence[Reject]]:
        """See Door."""
        good, bad = self._intake.judge(rows, defaults, self._do)
        return len(good), bad

    @property
    def inputs(self) -> InputStore:
        """See Door."""
        return ObjectsStore(self._objects, self._owner)

    @property
    def manifests(self) -> OwnerObjects:
        """The buckets that manifests are read from, as this owner may read them; of use while the door is open."""
        return OwnerObjects(self._objects, self._settings, self._owner, OwnerNames(self._engine).name)

    @property
    def outputs(self) -> OutputStore:
        """See Door."""
        return BucketOutputs(self._objects)

    def close(self) -> None:
        """See Door."""
        self._engine.dispose()
        self._objects.close()

    def _again(self, batch: Batch) -> Batch:
        return self.find(batch.id.hex)

    def _do(self, work: Callable[[Connection], T]) -> T:
        with transaction(self._engine) as connection:
            return work(connection)
