"""Numbers and times as the report writes them. Times are in UTC, so that a report reads the same everywhere."""

from __future__ import annotations

from datetime import UTC, datetime


def count(number: int, noun: str = "") -> str:
    """Return 12,345, or with a noun "1 row", "12,345 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}" if noun else f"{number:,}"


def duration(milliseconds: float) -> str:
    """Return a duration in one or two units, such as 85 ms, 2.4 s, 3 min 20 s, 4 h 5 min or 2 d 3 h."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.3g} s"
    seconds = round(milliseconds / 1000)
    for unit, small, length in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if seconds >= length:
            inner = seconds % length * {"d": 24, "h": 60, "min": 60}[unit] // length
            return f"{seconds // length} {unit} {inner} {small}" if inner else f"{seconds // length} {unit}"
    return f"{seconds} s"


def rate(number: float) -> str:
    """Return a rate in three digits, such as 0.52, 12.3 or 1,240."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def when(time: datetime | None) -> str:
    """Return a time to the second, or a dash."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else "-"
