"""A batch, its bad rows and what becomes of a chunk, as JSON: the one place for both sides of our batch routes.

The API writes with it and documents itself by it, the HTTP door reads with it, so the two cannot drift apart.
A newer server may say more; what is not known here is ignored.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from pydantic import BaseModel, Field

from common.contract import BatchState
from common.lifecycle import Counts, Reject
from producer.batches import Batch, ErrorCause, WorkerLine
from producer.intake import Taken
from producer.results.read import Position

PREFIX: Final = "/api/v3/batches"
ROWS_TYPE: Final = "application/x-ndjson"
_ID: Final = "0195d3c1c8a67cf0a3f0b0c5a1b2c3d4"


class CountsWire(BaseModel):
    """The rows that became jobs, by state."""

    created: int = Field(examples=[880])
    processing: int = Field(examples=[8])
    completed: int = Field(examples=[110])
    failed: int = Field(examples=[2])
    cancelled: int = Field(description="A part of `failed`.", examples=[0])
    total: int = Field(description="created + processing + completed + failed.", examples=[1000])


class WorkerWire(BaseModel):
    """A worker that has rows of the batch right now."""

    worker: str = Field(examples=["gpu-7-1"])
    hostname: str = Field(examples=["gpu-7"])
    state: str = Field(examples=["ready"])
    jobs: int = Field(examples=[4])
    seconds: float = Field(description="How long it has had the oldest of them.", examples=[3.2])

    def value(self) -> WorkerLine:
        """Return what this says."""
        return WorkerLine(self.worker, self.hostname, self.state, self.jobs, self.seconds)


class CauseWire(BaseModel):
    """One reason why rows failed."""

    code: str = Field(examples=["fetch_not_found"])
    number: int = Field(description="How many rows.", examples=[2])
    example: str = Field(description="What one of them says.", examples=["image: HTTP 404"])

    def value(self) -> ErrorCause:
        """Return what this says."""
        return ErrorCause(self.code, self.number, self.example)


class RejectWire(BaseModel):
    """One bad row: it is no job."""

    row: int = Field(description="Its number in the manifest, from 1.", examples=[17])
    custom_id: str | None = Field(examples=["sku-17"])
    where: str = Field(description="Where it stands.", examples=["products.csv, line 18"])
    field: str = Field(examples=["num_images"])
    value: str = Field(description="What stood there, shortened.", examples=["9"])
    reason: str = Field(examples=["is too large; allowed: an integer from 1 to 4"])

    @classmethod
    def of(cls, reject: Reject) -> Self:
        """Return the wire's form."""
        return cls(
            row=reject.number,
            custom_id=reject.custom_id,
            where=reject.place,
            field=reject.field,
            value=reject.value,
            reason=reject.reason,
        )

    def reject(self) -> Reject:
        """Return what this says."""
        return Reject(self.row, self.custom_id, self.where, self.field, self.value, self.reason)


class TakenWire(BaseModel):
    """What became of the rows of one request."""

    new: int = Field(description="Rows that became jobs.", examples=[4998])
    same: int = Field(description="Rows that the batch had already.", examples=[0])
    rejected: int = Field(description="Bad rows; see …/rejects.", examples=[2])
    cursor: int = Field(description="The batch has all rows up to this number.", examples=[5000])

    @classmethod
    def of(cls, taken: Taken) -> Self:
        """Return the wire's form."""
        return cls(new=taken.new, same=taken.same, rejected=taken.rejected, cursor=taken.cursor)

    def taken(self) -> Taken:
        """Return what this says."""
        return Taken(self.new, self.same, self.rejected, self.cursor)


class BatchWire(BaseModel):
    """A batch."""

    id: str = Field(examples=[_ID])
    owner: str = Field(examples=[_ID])
    name: str = Field(examples=["products.csv"])
    state: BatchState = Field(description="Rows run only while it is open; done is where all rows have ended.")
    counts: CountsWire
    progress: float = Field(description="The part of the rows that has ended, 0 to 1.", examples=[0.112])
    rejected: int = Field(description="Bad rows, which are no jobs; see …/rejects.", examples=[2])
    priority: int = Field(description="0 to 9, among your own batches; the higher goes first.", examples=[5])
    strict: bool = Field(description="Whether any bad row stops the batch before anything of it runs.")
    defaults: dict[str, Any] = Field(description="Fields for rows that say nothing of them.", examples=[{}])
    cursor: int = Field(description="The manifest is read up to this row.", examples=[1002])
    digest: str = Field(description="Of the rows up to the cursor, as whoever sent them has it.", examples=[""])
    read_by_server: bool = Field(description="Whether the server reads the manifest; else rows are sent to it.")
    extra_columns: list[str] = Field(description="Passed-through columns.", examples=[["sku", "price"]])
    error: str = Field(description="Why its manifest could not be read, or was refused; empty where all is well.")
    webhook_url: str | None = None
    created_at: datetime = Field(examples=["2026-04-01T12:34:56.789012Z"])
    opened_at: datetime | None = None
    ended_at: datetime | None = None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Return the wire's form."""
        return cls(**_fields(batch))

    def batch(self) -> Batch:
        """Return what this says. Raises ValueError where an id is none."""
        counts = self.counts
        return Batch(
            id=UUID(self.id),
            owner=UUID(self.owner),
            name=self.name,
            state=self.state,
            counts=Counts(counts.created, counts.processing, counts.completed, counts.failed, counts.cancelled),
            rejected=self.rejected,
            priority=self.priority,
            strict=self.strict,
            defaults=self.defaults,
            cursor=self.cursor,
            digest=self.digest,
            read_by_server=self.read_by_server,
            extra_columns=tuple(self.extra_columns),
            error=self.error or None,
            webhook_url=self.webhook_url,
            created_at=self.created_at,
            opened_at=self.opened_at,
            ended_at=self.ended_at,
        )


class BatchDetailWire(BatchWire):
    """A batch, who works on it, and why rows of it failed."""

    workers: list[WorkerWire] = Field(default=[], description="Who has rows of it right now.")
    causes: list[CauseWire] = Field(default=[], description="Why rows failed, the most frequent cause first.")

    @classmethod
    def detailed(cls, batch: Batch, workers: list[WorkerLine], causes: list[ErrorCause]) -> Self:
        """Return the wire's form."""
        return cls(
            **_fields(batch),
            workers=[WorkerWire(**vars(line)) for line in workers],
            causes=[CauseWire(**vars(cause)) for cause in causes],
        )


class BatchPageWire(BaseModel):
    """Some batches, newest first."""

    page: int = Field(examples=[1])
    page_size: int = Field(examples=[20])
    total: int = Field(examples=[1])
    items: list[BatchWire]


class RetriedWire(BaseModel):
    """How many failed rows were put back, and behind which job the next request goes on where some are left."""

    retried: int = Field(examples=[2])
    next: str | None = Field(default=None, examples=[None])


class CheckedWire(BaseModel):
    """How rows were judged; nothing was stored."""

    good: int = Field(examples=[4998])
    rejects: list[RejectWire]


class InputsWire(BaseModel):
    """Where your inputs lie that are known by their content."""

    prefix: str = Field(examples=[f"s3://fillfleet/inputs/{_ID}/"])
    max_bytes: int = Field(description="The largest file taken.", examples=[52428800])


class PutWire(BaseModel):
    """How to send a file: exactly so, within an hour."""

    method: str = Field(examples=["PUT"])
    url: str
    headers: dict[str, str]


class InputWire(BaseModel):
    """Where one input lies, or is to be put."""

    exists: bool
    uri: str = Field(description="How rows name it, once it is there.")
    upload: PutWire | None = Field(default=None, description="Only where it is not there yet.")


class OutputWire(BaseModel):
    """A link to one output, valid for a while."""

    url: str


def position_text(place: Position) -> str:
    """Return a place in the results as the query's `after` has it: ROW.JOB."""
    return f"{place.row}.{place.job.hex}"


def parse_position(text: str) -> Position | None:
    """Return the place that `position_text` wrote, or None where it is none."""
    row, _, job = text.partition(".")
    if not (row.isascii() and row.isdigit() and len(row) <= 18):
        return None
    try:
        return Position(int(row), UUID(job))
    except ValueError:
        return None


def _fields(batch: Batch) -> dict[str, Any]:
    counts = batch.counts
    return {
        "id": batch.id.hex,
        "owner": batch.owner.hex,
        "name": batch.name,
        "state": batch.state,
        "counts": CountsWire(**vars(counts), total=counts.total),
        "progress": round((counts.completed + counts.failed) / counts.total, 6) if counts.total else 0.0,
        "rejected": batch.rejected,
        "priority": batch.priority,
        "strict": batch.strict,
        "defaults": dict(batch.defaults),
        "cursor": batch.cursor,
        "digest": batch.digest,
        "read_by_server": batch.read_by_server,
        "extra_columns": list(batch.extra_columns),
        "error": batch.error or "",
        "webhook_url": batch.webhook_url,
        "created_at": batch.created_at,
        "opened_at": batch.opened_at,
        "ended_at": batch.ended_at,
    }
