"""How long a server asks to be left alone: its Retry-After header, which a stranger wrote and may say anything."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

SHORTEST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 3600.0
"""A header may hold a job back no longer than this."""
_SECONDS: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)


def retry_after_seconds(header: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds that `header` (a number of seconds or an HTTP date) asks for, between 1 s and 1 h.

    None where there is no header, or it is neither.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return _bounded(float(text))
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)  # "-0000" is UTC, too
    return _bounded((date - (now or datetime.now(UTC))).total_seconds())


def _bounded(seconds: float) -> float:
    return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, seconds))
