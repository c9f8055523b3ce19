"""Numbers, sizes and times as people read them in a terminal. Machines get the plain numbers with --json."""

from __future__ import annotations

from datetime import datetime
from typing import Final

_UNITS: Final = ("bytes", "KB", "MB", "GB", "TB")


def count(number: int, noun: str | None = None) -> str:
    """Return 12,345, or with a noun "1 row", "12,345 rows"."""
    if noun is None:
        return f"{number:,}"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size_text(number: float) -> str:
    """Return a number of bytes such as 45.2 MB (a million bytes each)."""
    for unit in _UNITS[:-1]:
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} {_UNITS[-1]}"


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units, such as 3 h 12 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    for unit, small, length in (("min", "s", 60), ("h", "min", 3600), ("d", "h", 86400)):
        if whole < length * (24 if unit == "h" else 60) or unit == "d":
            inner = (whole % length) * {"min": 60, "h": 60, "d": 24}[unit] // length
            return f"{whole // length} {unit} {inner} {small}" if inner else f"{whole // length} {unit}"
    raise AssertionError("days take every duration")


def rate_text(per_second: float, noun: str = "rows") -> str:
    """Return 12.3 rows/s, or below one a second 14.2 rows/min."""
    if per_second >= 1 or per_second == 0:
        return f"{per_second:,.0f} {noun}/s" if per_second >= 100 else f"{per_second:.1f} {noun}/s"
    return f"{per_second * 60:.1f} {noun}/min"


def when(time: datetime | None) -> str:
    """Return a time in the reader's own zone, to the minute."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else "-"
