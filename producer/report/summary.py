"""Sums up all rows of a batch as they pass: counts, causes, versions, LoRAs, workers, times. It keeps no row.

Whatever rows name freely is kept in bounded tables: of the names that come after those only the number is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from common.contract import Status
from common.lifecycle.counts import CANCELLED
from producer.report.latencies import Latencies
from producer.report.markup import clip
from producer.report.timeline import Timeline
from producer.results.columns import Row
from producer.results.ndjson import to_json

_MAX_NAMES: Final = 200
_EXAMPLE_CHARACTERS: Final = 500
_TIMINGS: Final = ("queue_ms", "fetch_ms", "wait_ms", "inference_ms", "upload_ms")


@dataclass
class Cause:
    """Why some rows failed."""

    rows: int = 0
    retryable: int = 0
    """Of these, rows for which the same again may work."""
    example: str = ""
    """What the first of them says."""
    example_row: int | None = None


@dataclass
class WorkerSums:
    """What one worker did, by the rows that it had last."""

    completed: int = 0
    failed: int = 0
    images: int = 0
    device_ms: int = 0
    first: datetime | None = None
    last: datetime | None = None

    @property
    def device_share(self) -> float | None:
        """The part of the time from its first start to its last end that the device computed."""
        if self.first is None or self.last is None or self.last <= self.first or not self.completed:
            return None
        return min(1.0, self.device_ms / 1000 / (self.last - self.first).total_seconds())


class LoraFile(NamedTuple):
    """A LoRA as it was used."""

    path: str
    sha256: str | None
    revision: str | None


@dataclass
class Summary:
    """All of a batch but its rows."""

    rows: int = 0
    states: dict[str, int] = field(default_factory=dict)
    """Rows by status; cancelled ones apart from the other failed ones."""
    images: int = 0
    flagged: int = 0
    """Images that the safety checker flagged."""
    started: datetime | None = None
    ended: datetime | None = None
    causes: dict[str, Cause] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """Model version as JSON → rows."""
    loras: dict[LoraFile, int] = field(default_factory=dict)
    workers: dict[str, WorkerSums] = field(default_factory=dict)
    unnamed: int = 0
    """Times that something was left out of the tables because they were full."""
    timeline: Timeline = field(default_factory=Timeline)
    queue: Latencies = field(default_factory=Latencies)
    inference: Latencies = field(default_factory=Latencies)
    total: Latencies = field(default_factory=Latencies)

    def add(self, row: Row) -> None:
        """Take one more row in."""
        self.rows += 1
        state = state_of(row)
        self.states[state] = self.states.get(state, 0) + 1
        started, ended = row.get("started_at"), row.get("ended_at")
        if started is not None and (self.started is None or started < self.started):
            self.started = started
        if ended is not None and state in {Status.COMPLETED, Status.FAILED}:
            self.ended = ended if self.ended is None else max(self.ended, ended)
            self.timeline.add(ended, completed=state == Status.COMPLETED)
        if row.get("status") == Status.FAILED:
            self._add_cause(row)
        if state == Status.COMPLETED:
            self._add_result(row)
        if state in {Status.COMPLETED, Status.FAILED}:
            self._add_work(row)

    @property
    def seconds(self) -> float | None:
        """From the first start to the last end; None before something ended."""
        if self.started is None or self.ended is None:
            return None
        return max(0.0, (self.ended - self.started).total_seconds())

    @property
    def images_per_minute(self) -> float | None:
        """Over all that time, pauses included."""
        return 60 * self.images / self.seconds if self.images and self.seconds else None

    def _add_cause(self, row: Row) -> None:
        cause = self._entry(self.causes, str(row.get("error_code")), Cause())
        if cause is None:
            return
        cause.rows += 1
        cause.retryable += row.get("retryable") is True
        if cause.rows == 1:
            cause.example = clip(str(row.get("error") or ""), _EXAMPLE_CHARACTERS)
            cause.example_row = row.get("row")

    def _add_result(self, row: Row) -> None:
        self.images += len(row.get("outputs") or ())
        self.flagged += sum(flag is True for flag in row.get("nsfw") or ())
        self.queue.add(row.get("queue_ms"))
        self.inference.add(row.get("inference_ms"))
        timings = [row.get(name) for name in _TIMINGS]
        self.total.add(None if None in timings else sum(value for value in timings if value is not None))
        version = row.get("model_version")
        if isinstance(version, Mapping):
            self._count(self.versions, to_json(dict(sorted(version.items()))))
        for lora in row.get("loras") or ():
            self._count(self.loras, LoraFile(str(lora.get("path")), lora.get("sha256"), lora.get("revision")))

    def _add_work(self, row: Row) -> None:
        name = row.get("worker")
        worker = self._entry(self.workers, name, WorkerSums()) if isinstance(name, str) else None
        if worker is None:
            return
        completed = row.get("status") == Status.COMPLETED
        worker.completed += completed
        worker.failed += not completed
        worker.images += len(row.get("outputs") or ())
        worker.device_ms += row.get("inference_ms") or 0
        started, ended = row.get("started_at"), row.get("ended_at")
        if started is not None and ended is not None:
            worker.first = started if worker.first is None else min(worker.first, started)
            worker.last = ended if worker.last is None else max(worker.last, ended)

    def _count(self, table: dict[Any, int], name: object) -> None:
        if self._entry(table, name, 0) is not None:
            table[name] += 1

    def _entry(self, table: dict[Any, Any], name: object, new: Any) -> Any:
        if name not in table and len(table) >= _MAX_NAMES:
            self.unnamed += 1
            return None
        return table.setdefault(name, new)


def state_of(row: Row) -> str:
    """Return created, processing, completed, failed, or cancelled."""
    cancelled = row.get("status") == Status.FAILED and row.get("error_code") == CANCELLED
    return CANCELLED if cancelled else str(row.get("status"))
