"""What the demo says while it runs, and the table at its end. On a terminal a bar moves; in a log there are lines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from common.contract import Status
from infra.demo.calls import Submitted
from infra.demo.command_line import Said
from infra.demo.outcome import Check, Judged
from infra.demo.run import Run

_LOG_WIDTH: Final = 120
"""Where there is no terminal rich takes 80, too narrow for the table."""


def make_console() -> Console:
    """Return the console that all output of the demo goes to."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Show that something is under way, and for how long."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(escape(what), total=None)
        yield


class BatchProgress:
    """The bar of a batch: ended, failed, rate and elapsed time, with a line above it for each job that ends."""

    def __init__(self, console: Console, jobs: int, images: int) -> None:
        self._console = console
        self._began = time.monotonic()
        self._failed = 0
        self._images = 0
        self._all_images = images
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("jobs", total=jobs, state="")

    def __enter__(self) -> BatchProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def ended(self, one: Submitted) -> None:
        """Tell that a job has ended."""
        prediction = one.prediction
        failed = prediction.status is Status.FAILED
        self._failed += failed
        self._images += len(prediction.outputs)
        seconds = time.monotonic() - self._began
        said = f"[{'red' if failed else 'green'}]{prediction.status.value}[/]"
        wanted = ", as it should" if failed and one.job.expected is Status.FAILED else ""
        name = f"{escape(one.job.title)} ({escape(one.job.name)})"
        self._console.print(f"  [dim]{seconds:5.1f} s[/dim]  {name}: {said}{wanted}")
        if prediction.error:
            self._console.print(Padding(Text(prediction.error, style="dim"), (0, 0, 0, 11)))
        rate = self._images / seconds if seconds else 0.0
        state = f"{self._failed} failed, {self._images}/{self._all_images} images, {rate:.1f} images/s"
        self._progress.update(self._task, advance=1, state=state)


def show_command(console: Console, said: Said) -> None:
    """Print a command as one types it, with what it said."""
    console.print(f"  [bold]$ {escape(said.typed)}[/bold]", soft_wrap=True)
    for line in said.lines:
        console.print(f"    [dim]{escape(line)}[/dim]", soft_wrap=True)


def shown_path(path: Path) -> str:
    """Return a folder as one would type it here."""
    relative = os.path.relpath(path)
    return f"{path.resolve()}" if relative.startswith(os.pardir) else relative


def results_table(judged: Sequence[Judged]) -> Table:
    """Return the table of all jobs: what each shows, how it ended, and which promises it kept. 80 columns hold it."""
    table = Table(box=None, pad_edge=False)
    for heading in ("Job", "What it shows", "Came as", "State"):
        table.add_column(heading)
    table.add_column("Seconds", justify="right")
    table.add_column("Checks")
    for one in judged:
        outcome, trail = one.outcome, one.outcome.trail
        completed = outcome.prediction.status is Status.COMPLETED
        table.add_row(
            escape(outcome.job.name),
            escape(outcome.job.title),
            outcome.came_as.removesuffix(" of the batch").removeprefix("single "),
            f"[{'green' if completed else 'red'}]{outcome.prediction.status.value}[/]",
            f"{trail.seconds:.1f}" if trail and trail.seconds is not None else "?",
            _checks(one.checks),
        )
    return table


def batch_line(run: Run) -> str:
    """Return what became of the batch as a whole, in a line."""
    batch = run.batch
    bad = len(batch.rejects)
    rows = f"{len(batch.table)} rows, {bad} bad row, as intended" if bad == 1 else f"{len(batch.table)} rows, {bad} bad"
    return f"The batch {escape(batch.name)}: {rows}, checks {_checks(run.batch_checks)}"


def _checks(checks: Sequence[Check]) -> str:
    broken = ", ".join(check.promise for check in checks if not check.kept)
    return f"[red]✗ {escape(broken)}[/red]" if broken else f"[green]✓ all {len(checks)}[/green]"
