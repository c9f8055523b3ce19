"""A job as plain Python says that it must be: no SQL and no locks, one dataclass that wishes and workers change."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID


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
    events: list[tuple[str, int]] = field(default_factory=lambda: [("created", 0)])

    @property
    def waits(self) -> bool:
        """Whether it may be published now."""
        return self.status == "created" and self.place is None and self.due

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
        if self.status != "created" or not self.due:
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
        return True

    def delete(self) -> bool:
        """Be hidden."""
        if self.deleted:
            return False
        self.cancel()
        self.deleted = True
        self.happens("deleted")
        return True
