"""Errors that mean something to the caller. They are raised where the fact is known and turned into words at the edge.

Every message here may be shown to the user who sent the job: none may name an internal host, a path or a secret.
"""

from __future__ import annotations

from typing import Any


class FillfleetError(Exception):
    """Base of all errors of our own. `code` is a stable snake_case word, `message` is for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[FillfleetError], tuple[str, str], dict[str, Any]]:
        # Survives pickling by pools and test runners; what a subclass adds travels in the last part.
        return (type(self), (self.code, self.message), self.__dict__)


class Rejected(FillfleetError):
    """The request or one of its inputs can never work: fail at once, never retry."""


class Transient(FillfleetError):
    """Trouble that passes (network, 5xx, time-out): release with backoff; it counts as a failure of the job.

    With a `host` (lower case, host[:port]) it is that host which asks to be left alone for a while (HTTP 429 or 503),
    for `retry_after_seconds` where it said so: no fault of the job, so at first it does not count.
    """

    def __init__(
        self, code: str, message: str, *, retry_after_seconds: float | None = None, host: str | None = None
    ) -> None:
        super().__init__(code, message)
        self.retry_after_seconds = retry_after_seconds
        self.host = host


class Unavailable(FillfleetError):
    """Our own bucket or database does not answer: nobody's fault, so the job is released without counting."""


class LeaseLost(FillfleetError):
    """This attempt no longer owns its job. Whoever gets this stops at once and writes nothing more."""

    def __init__(self, code: str = "lease_lost", message: str = "this attempt no longer owns the job") -> None:
        super().__init__(code, message)


class Cancelled(FillfleetError):
    """The job's owner cancelled it while it ran."""

    def __init__(self, code: str = "cancelled", message: str = "cancelled") -> None:
        super().__init__(code, message)


class Draining(FillfleetError):
    """The worker is shutting down and this job had not reached the device: release it, free of charge."""

    def __init__(self, code: str = "draining", message: str = "the worker is shutting down") -> None:
        super().__init__(code, message)


class JobFailed(FillfleetError):
    """Raised by the Celery task after the failed row is committed, so that Flower shows the task as failed."""
