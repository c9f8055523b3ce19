"""Charts as inline SVG: bars without any text in them, so that they stretch to any width, and labels in HTML beside.

Colours are classes of the page's style. Every bar has a title with its numbers.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import log
from typing import Final

from producer.report.figures import count, duration, rate
from producer.report.latencies import Latencies
from producer.report.timeline import Bin, Timeline

_HEIGHT: Final = 100
_COLUMNS: Final = 40
_LABELS: Final = 4
"""Along an axis; more would run into one another on a phone."""


def timeline_chart(timeline: Timeline) -> str:
    """Return how many rows ended a minute, over time; nothing where none has."""
    bins = timeline.bins()
    if not bins:
        return ""
    top = max(one.completed + one.failed for one in bins)
    per_minute = 60 / timeline.seconds
    bars = "".join(_stacked(place, one, top, timeline.seconds) for place, one in enumerate(bins))
    end = bins[-1].start + timedelta(seconds=timeline.seconds)
    fastest = max(bins, key=lambda one: one.completed)
    said = (
        f"{rate(fastest.completed * per_minute)} rows a minute at most, at {_clock(fastest.start, bins[0].start, end)} "
        f"UTC; one bar is {duration(timeline.seconds * 1000)}"
    )
    with_failed = any(one.failed for one in bins)
    key = (
        '<span class="key"><i class="completed"></i>completed <i class="failed"></i>failed</span>'
        if with_failed
        else ""
    )
    axis = [bins[0].start + (end - bins[0].start) * part / (_LABELS - 1) for part in range(_LABELS)]
    return _figure(
        "Completed per minute",
        f"{said}. {key}",
        _svg(len(bins), bars, f"Rows that ended per minute, over time. {said}"),
        [_clock(time, bins[0].start, end) for time in axis],
        top=f"{rate(top * per_minute)} a minute",
    )


def latency_chart(title: str, meaning: str, latencies: Latencies) -> str:
    """Return a histogram with p50 and p95; nothing where there are no durations."""
    columns = latencies.columns(_COLUMNS)
    if not columns:
        return ""
    top = max(column.number for column in columns)
    bars = "".join(
        _bar("latency", place, 0, column.number / top, _column_title(column.start, column.end, column.number))
        for place, column in enumerate(columns)
        if column.number
    )
    p50, p95 = latencies.quantile(0.5), latencies.quantile(0.95)
    low, high = columns[0].start, columns[-1].end
    wide = len(columns)
    marks = "".join(
        f'<line class="{name}" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{_HEIGHT}">'
        f"<title>{name} {duration(value)}</title></line>"
        for name, value in (("p50", p50), ("p95", p95))
        for x in [wide * _part(value, low, high)]
    )
    said = f"p50 {duration(p50)}, p95 {duration(p95)}, longest {duration(latencies.longest)}"
    numbers = (
        f'<b class="p50">p50 {duration(p50)}</b> <b class="p95">p95 {duration(p95)}</b> '
        f"longest {duration(latencies.longest)}"
    )
    axis = [low * (high / low) ** (part / (_LABELS - 1)) for part in range(_LABELS)]
    return _figure(
        title,
        f'{numbers}<br><span class="soft">{meaning}</span>',
        _svg(wide, bars + marks, f"{title}: {said}"),
        [duration(value) for value in axis],
        top=count(top, "row"),
    )


def _figure(title: str, caption: str, svg: str, axis: list[str], *, top: str) -> str:
    labels = "".join(f"<span>{label}</span>" for label in axis)
    return f"""<figure class="chart">
<figcaption><h3>{title}</h3><p>{caption}</p></figcaption>
<p class="top soft">{top}</p>
{svg}
<p class="axis soft">{labels}</p>
</figure>"""


def _svg(wide: int, inner: str, said: str) -> str:
    return (
        f'<svg viewBox="0 0 {wide} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{said}">{inner}</svg>'
    )


def _stacked(place: int, one: Bin, top: int, seconds: int) -> str:
    if not one.completed + one.failed:
        return ""
    failed = f", {count(one.failed)} failed" if one.failed else ""
    title = f"{one.start:%Y-%m-%d %H:%M:%S} UTC, {duration(seconds * 1000)}: {count(one.completed)} completed{failed}"
    done = one.completed / top
    return _bar("completed", place, 0, done, title) + _bar("failed", place, done, one.failed / top, title)


def _bar(kind: str, place: int, base: float, part: float, title: str) -> str:
    """Return a bar from `base` on, `part` high, both as parts of the whole height. What is not nothing can be seen."""
    if not part:
        return ""
    height = max(1.0, _HEIGHT * part)
    y = max(0.0, _HEIGHT * (1 - base) - height)
    box = f'x="{place + 0.06:g}" y="{y:.4g}" width=".88" height="{height:.4g}"'
    return f'<rect class="{kind}" {box}><title>{title}</title></rect>'


def _column_title(start: float, end: float, number: int) -> str:
    return f"{duration(start)} to {duration(end)}: {count(number, 'row')}"


def _part(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, log(max(value, low) / low) / log(high / low)))


def _clock(time: datetime, start: datetime, end: datetime) -> str:
    """Return the time as an axis from `start` to `end` needs it."""
    span = (end - start).total_seconds()
    if span > 3 * 86400:
        form = "%d %b"
    elif span > 20 * 3600:
        form = "%d %b %H:%M"
    else:
        form = "%H:%M" if span > 600 else "%H:%M:%S"
    return time.astimezone(UTC).strftime(form)
