"""`enable_sync_mode`: answers a submit only when its job is over, or the time that it may wait is.

The wait holds neither a thread nor a database connection, and ends early when the client goes or the process stops.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from starlette.requests import Request

from common.errors import Unavailable
from common.telemetry import get_logger
from producer.api.envelope import VendorCode
from producer.api.services import Services
from producer.jobs import Job

log = get_logger(__name__)

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_GROWTH: Final = 1.3


async def wait_until_over(job: Job, look: Callable[[], Awaitable[Job]], request: Request, services: Services) -> Job:
    """Return the job as it is when it is over, or as it was last seen when its time was. Raises what `look` raises.

    A database that does not answer is waited out: the job exists, and a client that is told otherwise sends it again.
    """
    end = time.monotonic() + services.settings.sync_mode_seconds
    pause = _FIRST_PAUSE
    while not job.status.is_terminal and (left := end - time.monotonic()) > 0:
        await anyio.sleep(min(pause, left))
        if services.stopping.is_set() or await request.is_disconnected():
            break
        try:
            job = await look()
        except Unavailable:
            log.warning("api.sync_wait_without_database", job=job.id.hex)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
    return job


def timed_out(data: dict[str, Any]) -> dict[str, Any]:
    """Return a job's `data` in the form by which clients recognise that the wait ended before the job."""
    error = f"Sync mode timed out; the job goes on, query the result later at: {data['urls']['get']}"
    return {**data, "status": "processing", "code": int(VendorCode.TIMED_OUT), "error": error}
