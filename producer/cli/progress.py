"""Shows on stderr how far long work is: one line that changes on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

EVERY_SECONDS: Final = 5.0
"""Between two plain lines."""
_FRAMES: Final = 8
"""A second, on a terminal."""


@contextmanager
def shown(describe: Callable[[], str], *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show what `describe` returns while the block runs; yields a function that prints a note in between.

    `describe` is called on a thread of its own.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if quiet:
        yield lambda _note: None
    elif console.is_terminal:
        with _on_terminal(console, describe):
            yield lambda note: console.print(note, style="yellow", markup=False)
    else:
        with _as_lines(describe):
            yield lambda note: click.echo(note, err=True)


@contextmanager
def _on_terminal(console: Console, describe: Callable[[], str]) -> Iterator[None]:
    spinner = Spinner("dots")

    def draw() -> Spinner:
        text = describe()
        # Longer than the line, it would leave its rest behind at every change.
        spinner.update(text=text[: max(10, console.width - 3)])
        return spinner

    with Live(get_renderable=draw, console=console, refresh_per_second=_FRAMES, transient=True):
        yield


@contextmanager
def _as_lines(describe: Callable[[], str]) -> Iterator[None]:
    over = threading.Event()

    def say() -> None:
        said = ""
        while not over.wait(EVERY_SECONDS):
            text = describe()
            if text != said:
                click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)
            said = text

    thread = threading.Thread(target=say, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
