"""How a batch looks in a terminal: in a line, in a picture of some lines, and in words when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.contract import BatchState
from producer.batches import Batch, ErrorCause, WorkerLine
from producer.cli.figures import count, duration_text, rate_text, when

_MAX_LINES: Final = 8
"""Workers, and causes, that the picture has room for."""
_COLOURS: Final = {
    BatchState.RECEIVING: "cyan",
    BatchState.OPEN: "green",
    BatchState.PAUSED: "yellow",
    BatchState.CANCELLED: "red",
    BatchState.DONE: "bold green",
}


@dataclass(frozen=True)
class Pace:
    """How fast it goes; None where that is not known (yet)."""

    rate: float | None
    """Rows that ended, a second."""
    seconds_left: float | None


def state_of(batch: Batch) -> str:
    """Return the state in a word: what it is in fact, where the dispatcher has not taken note of it yet."""
    if batch.state is BatchState.OPEN and batch.is_over and batch.counts.total:
        return BatchState.DONE.value
    if batch.state is BatchState.CANCELLED and batch.counts.left:
        return "cancelling"
    return batch.state.value


def state_text(batch: Batch) -> Text:
    """Return the state in its colour."""
    return Text(state_of(batch), style=_COLOURS[batch.state])


def draw(
    batch: Batch, workers: Sequence[WorkerLine], causes: Sequence[ErrorCause], pace: Pace, lost: str = ""
) -> RenderableType:
    """Return the picture."""
    counts = batch.counts
    ended = counts.completed + counts.failed
    head = Text.assemble((batch.name, "bold"), "  ", state_text(batch), "  ", (batch.id.hex, "dim"))
    head.no_wrap, head.overflow = True, "ellipsis"
    parts: list[RenderableType] = [head]
    if batch.state is BatchState.RECEIVING:
        parts.append(Text(f"{count(counts.total, 'row')} so far; nothing runs before its manifest is read"))
    bar = Table.grid(padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, justify="right")
    bar.expand = True
    bar.add_row(
        ProgressBar(total=max(1, counts.total), completed=ended, finished_style="green"), _share(ended, counts.total)
    )
    parts += [bar, _numbers(batch)]
    if pace.rate is not None and not batch.is_over:
        parts.append(Text(_pace(pace)))
    if lost:
        parts.append(Text(f"! {lost}", style="yellow"))
    parts += lines_of_workers(workers)
    parts += lines_of_causes(causes)
    return Group(*parts)


def line_of(batch: Batch, pace: Pace) -> str:
    """Return where it is, in a line."""
    counts = batch.counts
    ended = counts.completed + counts.failed
    text = f"{batch.name} {state_of(batch)}: {_share(ended, counts.total)}, {count(counts.failed)} failed"
    return text if pace.rate is None else f"{text}, {_pace(pace)}"


def summary(batch: Batch, causes: Sequence[ErrorCause]) -> str:
    """Return what has become of a batch that is over."""
    counts = batch.counts
    lines = [f"{batch.name} is {state_of(batch)}: {count(counts.completed)} completed, {count(counts.failed)} failed"]
    if counts.cancelled:
        lines[0] += f" ({count(counts.cancelled)} of them cancelled)"
    if batch.rejected:
        lines[0] += f", {count(batch.rejected, 'bad row')}"
    if batch.error:
        lines.append(f"  {batch.error}")
    lines += [f"  {count(cause.number):>9}  {cause.code}: {cause.example}" for cause in causes]
    if batch.opened_at and batch.ended_at:
        lines[0] += f", in {duration_text((batch.ended_at - batch.opened_at).total_seconds())}"
    return "\n".join(lines)


def detail(batch: Batch, workers: Sequence[WorkerLine], causes: Sequence[ErrorCause]) -> RenderableType:
    """Return all about one batch."""
    facts = Table.grid(padding=(0, 2))
    times = {"created": batch.created_at, "opened": batch.opened_at, "ended": batch.ended_at}
    said = {name: when(time) for name, time in times.items() if time is not None}
    said |= {"priority": str(batch.priority)} | ({"strict": "yes"} if batch.strict else {})
    said |= {"for all rows": ", ".join(f"{name}={value}" for name, value in batch.defaults.items())}
    said |= {"webhook": batch.webhook_url or "", "error": batch.error or ""}
    for name, value in said.items():
        if value:
            facts.add_row(Text(name, style="dim"), Text(value))
    return Group(draw(batch, workers, causes, Pace(None, None)), facts)


def lines_of_workers(workers: Sequence[WorkerLine]) -> list[RenderableType]:
    """Return a line for each worker, the first few."""
    if not workers:
        return []
    table = Table.grid(padding=(0, 2))
    for line in workers[:_MAX_LINES]:
        on = f" on {line.hostname}" if line.hostname and line.hostname not in line.worker else ""
        table.add_row(
            Text(f"  {line.worker}{on}", overflow="ellipsis", no_wrap=True),
            Text(line.state, style="dim"),
            Text(f"{count(line.jobs, 'row')}, the oldest for {duration_text(line.seconds)}", no_wrap=True),
        )
    return [Text("workers", style="dim"), table, *_more(len(workers))]


def lines_of_causes(causes: Sequence[ErrorCause]) -> list[RenderableType]:
    """Return a line for each cause, the most frequent first."""
    if not causes:
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for cause in causes[:_MAX_LINES]:
        table.add_row(f"  {count(cause.number)}", Text(cause.code, style="red"), Text(cause.example))
    return [Text("why rows failed", style="dim"), table, *_more(len(causes))]


def _more(number: int) -> list[RenderableType]:
    return [Text(f"  … and {number - _MAX_LINES} more", style="dim")] if number > _MAX_LINES else []


def _numbers(batch: Batch) -> Text:
    counts = batch.counts
    text = Text(f"completed {count(counts.completed)}   failed ")
    text.append(count(counts.failed), style="red" if counts.failed else "")
    if counts.cancelled:
        text.append(f" ({count(counts.cancelled)} cancelled)")
    text.append(f"   running {count(counts.processing)}   waiting {count(counts.created)}")
    if batch.rejected:
        text.append(f"   bad rows {count(batch.rejected)}", style="yellow")
    return text


def _share(ended: int, total: int) -> str:
    # Never 100 % before it is so.
    percent = 100 * ended // total if total else 0
    return f"{count(ended)} of {count(total)} ({percent} %)"


def _pace(pace: Pace) -> str:
    rate = rate_text(pace.rate or 0.0)
    return rate if pace.seconds_left is None else f"{rate}, about {duration_text(pace.seconds_left)} left"
