"""Jobs and a batch as plain Python says that they must be: no SQL, no locks, plain objects that wishes change."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID


@dataclass
class Batch:
    """A batch apart from its rows. Each method returns whether that may happen at all."""

    id: UUID
    state: str = "receiving"
    was_open: bool = False
    ended: bool = False
    webhooks: list[str] = field(default_factory=list)

    def open(self) -> bool:
        """Have all its rows."""
        if self.state == "receiving":
            self.state, self.was_open = "open", True
        return True

    def pause(self) -> bool:
        """Start nothing more."""
        return self._between("open", "paused")

    def resume(self) -> bool:
        """Go on."""
        return self._between("paused", "open")

    def cancel(self) -> bool:
        """Be unwanted."""
        if self.state != "done":
            self.state = "cancelled"
        return True

    def end(self, left: int) -> bool:
        """End where no row is left."""
        if left or self.ended or self.state not in {"open", "cancelled"}:
            return False
        self.state, self.ended = "done" if self.state == "open" else "cancelled", True
        self.webhooks.append(f"batch.{self.state}")
        return True

    def retry(self) -> None:
        """Have a row again that is not over."""
        if self.ended:
            self.state, self.ended = "open" if self.was_open else "receiving", False

    def _between(self, before: str, after: str) -> bool:
        if self.state not in {before, after}:
            return False
        self.state = after
        return True


@dataclass
class Job:
    """One job. Each method does what must happen, and returns whether anything may happen at all."""

    id: UUID
    owner: UUID
    max_failures: int
    status: str = "created"
    attempt: int = 0
    failures: int = 0
    due: bool = True
    place: int | None = None
    number: int = 0
    old_message: bool = False
    expired: bool = False
    on_device: bool = False
    marked: bool = False
    deleted: bool = False
    pins: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    batch: Batch | None = None
    events: list[tuple[str, int]] = field(default_factory=list)

    @property
    def line(self) -> tuple[UUID, bool]:
        """Its owner, and whether it is of a batch: there is one batch."""
        return self.owner, self.batch is not None

    @property
    def held(self) -> bool:
        """Whether its batch keeps it from starting."""
        return self.batch is not None and self.batch.state != "open"

    @property
    def waits(self) -> bool:
        """Whether it may be published now."""
        return self.status == "created" and self.place is None and self.due and not self.held

    @property
    def is_out(self) -> bool:
        """Whether a message of it is out and unclaimed."""
        return self.status == "created" and self.place is not None

    def runs_as(self, attempt: int) -> bool:
        """Whether a worker with this attempt may write."""
        return self.status == "processing" and self.attempt == attempt

    def happens(self, event: str) -> None:
        """Note an event of the current attempt."""
        self.events.append((event, self.attempt))

    def publish(self, place: int) -> None:
        """Send a message."""
        self.place, self.number, self.old_message = place, self.number + 1, False

    def claim(self) -> bool:
        """Be taken by a worker."""
        if self.status != "created" or not self.due or self.held:
            return False
        self.status, self.attempt = "processing", self.attempt + 1
        self.expired = self.on_device = False
        self.happens("claimed")
        return True

    def end(self, status: str, error: str | None = None) -> None:
        """Come to an end."""
        self.status, self.error, self.place = status, error, None
        self.expired = self.on_device = False
        self.happens(status)

    def give_back(self, event: str, *, counts: bool) -> None:
        """Leave its worker, one way or the other."""
        if self.marked:
            self.end("failed", "cancelled")
            return
        self.failures += counts
        if counts and self.failures >= self.max_failures:
            self.end("failed", "tried")
            return
        self.status, self.place, self.due = "created", None, not counts
        self.expired = self.on_device = False
        self.happens(event)

    def cancel(self) -> bool:
        """Be unwanted."""
        if self.deleted or self.status not in {"created", "processing"}:
            return False
        if self.status == "created":
            self.marked = True
            self.end("failed", "cancelled")
        elif not self.marked:
            self.marked = True
            self.happens("cancel_requested")
        return True

    def retry(self) -> bool:
        """Be wanted again."""
        if self.deleted or self.status != "failed":
            return False
        self.status, self.failures, self.due, self.marked, self.error = "created", 0, True, False, None
        self.pins = {}
        self.happens("retried")
        if self.batch is not None:
            self.batch.retry()
        return True

    def delete(self) -> bool:
        """Be hidden."""
        if self.deleted:
            return False
        self.cancel()
        self.deleted = True
        self.happens("deleted")
        return True
