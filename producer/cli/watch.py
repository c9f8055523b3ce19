"""`fillfleet watch`: follows a batch to its end, through outages of the fleet, too. It only looks.

On a terminal it is a picture that changes, else a line every few seconds, and with --json an object a line.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Console
from rich.live import Live

from common.contract import BatchState
from common.errors import Transient, Unavailable
from producer.batch_wire import BatchDetailWire
from producer.batches import Batch, ErrorCause, WorkerLine
from producer.cli.batch_picture import Pace, draw, line_of, summary
from producer.cli.command import FAILED_ROWS, GO_ON, BatchCommand, Option, json_option
from producer.cli.connection import Access, connected
from producer.doors.door import Door

_LIVE_SECONDS: Final = 1.0
_LINE_SECONDS: Final = 5.0
_WINDOW_SECONDS: Final = 60.0
_CAUSES_PART: Final = 20
"""Counting causes takes the database no more than one part in so many of the time."""
_LOST_SECONDS: Final = 5.0
"""Between two tries while the fleet is away."""


@dataclass(frozen=True)
class Look:
    """What one look has shown."""

    batch: Batch
    workers: list[WorkerLine]
    causes: list[ErrorCause]
    pace: Pace
    lost: str = ""
    """Why this is older than it could be; empty where it is not."""


@click.command(cls=BatchCommand)
@click.argument("batch")
@click.option(
    "--every",
    cls=Option,
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="Between two looks. Default: 1 on a terminal, else 5.",
)
@json_option
@click.pass_context
def watch(ctx: click.Context, access: Access, batch: str, every: float | None, as_json: bool) -> None:
    """Follow a batch to its end: rows done and failed, rate, time left, workers, and why rows failed.

    Ctrl-C ends only the watching. Exit codes: 0 all rows completed, 3 some failed or were cancelled.
    """
    ctx.meta[GO_ON] = "The batch goes on."
    with connected(access) as fleet:
        found = fleet.door.find(batch)
        sys.exit(follow(fleet.door, found, quiet=access.quiet, as_json=as_json, every=every))


def follow(door: Door, batch: Batch, *, quiet: bool, as_json: bool, every: float | None = None) -> int:
    """Follow `batch` until it is over; returns the exit code. Raises FillfleetError where it cannot be found any more.

    The picture and the lines go to stderr, and what has become of it to stdout.
    """
    eyes = _Eyes(door, batch)
    console = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        live = None
        if console.is_terminal and not as_json and not quiet:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
        pause = every or (_LIVE_SECONDS if live is not None else _LINE_SECONDS)
        while True:
            look = eyes.look()
            if as_json:
                click.echo(json.dumps(_plain(look)))
            elif live is not None:
                live.update(draw(look.batch, look.workers, look.causes, look.pace, look.lost), refresh=True)
            elif not quiet and (look.lost or not look.batch.is_over):
                click.echo(f"{time.strftime('%H:%M:%S')} {look.lost or line_of(look.batch, look.pace)}", err=True)
            if look.batch.is_over and not look.lost:
                break
            time.sleep(max(pause, _LOST_SECONDS) if look.lost and live is None else pause)
    if not as_json:
        click.echo(summary(look.batch, look.causes))
    failed = look.batch.counts.failed > 0 or look.batch.state is BatchState.CANCELLED
    return FAILED_ROWS if failed else 0


class _Eyes:
    """Looks at one batch again and again, and remembers how fast it went."""

    def __init__(self, door: Door, batch: Batch) -> None:
        self._door = door
        self._id = batch.id.hex
        self._last = Look(batch, [], [], Pace(None, None))
        self._ends: deque[tuple[float, int]] = deque()
        self._failed = 0
        self._next_causes = 0.0

    def look(self) -> Look:
        """Return the newest there is. Raises Rejected where the batch is gone."""
        try:
            batch = self._door.find(self._id)
            workers = list(self._door.workers(batch)) if batch.counts.processing else []
            causes = self._last.causes
            if batch.counts.failed != self._failed and (batch.is_over or time.monotonic() >= self._next_causes):
                began = time.monotonic()
                causes = list(self._door.causes(batch))
                self._failed = batch.counts.failed
                # They are counted row by row: of a million failed ones only now and then.
                self._next_causes = began + _CAUSES_PART * (time.monotonic() - began)
        except (Transient, Unavailable) as error:
            self._last = Look(self._last.batch, [], self._last.causes, Pace(None, None), f"{error.message}; trying on")
            return self._last
        self._last = Look(batch, workers, causes, self._pace(batch))
        return self._last

    def _pace(self, batch: Batch) -> Pace:
        now, ended = time.monotonic(), batch.counts.completed + batch.counts.failed
        self._ends.append((now, ended))
        while len(self._ends) > 2 and now - self._ends[0][0] > _WINDOW_SECONDS:
            self._ends.popleft()
        since, before = self._ends[0]
        if now - since < 1.0 or ended < before:
            return Pace(None, None)
        rate = (ended - before) / (now - since)
        return Pace(rate, batch.counts.left / rate if rate > 0 and batch.state is BatchState.OPEN else None)


def _plain(look: Look) -> dict[str, object]:
    said = BatchDetailWire.detailed(look.batch, look.workers, look.causes).model_dump(mode="json")
    pace = {"rows_per_second": look.pace.rate, "seconds_left": look.pace.seconds_left}
    return {
        **said,
        **{name: None if value is None else round(value, 3) for name, value in pace.items()},
        "lost": look.lost,
    }
