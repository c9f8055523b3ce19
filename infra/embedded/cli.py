"""`fillfleet up`: everything on this machine until Ctrl-C. Says where it all is, and starts again what falls over."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import click
from rich.console import Console
from rich.markup import escape

from common.telemetry import cut_secrets
from infra.embedded.home import Home
from infra.embedded.ready_file import READY_FILE, Ready
from infra.embedded.stack import Stack, StackOptions

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopAskedError(BaseException):
    """The first Ctrl-C, SIGTERM or hang-up. No Exception, so that nobody catches it on its way to the orderly stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """While entered, the first signal raises StopAskedError where the program is; a second one sets `again`."""

    def __init__(self) -> None:
        self.again = threading.Event()
        self._asked = False
        self._before: dict[signal.Signals, object] = {}

    def ignore_the_first(self) -> None:
        """The stop has begun for another reason: a signal now means hurry."""
        self._asked = True

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the terminal's end is not ours
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            self.again.set()
            return
        self._asked = True
        raise StopAskedError(number)


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep all data, passwords and logs here, and go on with them the next time. "
    "Default: a temporary folder that is removed at the end.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Once all is ready, write addresses, passwords and pids to this file as JSON.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="The API's port. Default: a free one.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many workers to run.")
def up(directory: Path | None, ready_file: Path | None, port: int | None, workers: int) -> None:
    """Run everything on this machine: servers, API, dispatcher, worker and Flower.

    Real Valkey, PostgreSQL and SeaweedFS on loopback ports, with passwords. Ctrl-C stops all in order. FILL_MODEL,
    LORA_FOLDER, FETCH_ALLOW_HOSTS and all other settings are taken from the environment.
    """
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        with suppress(OSError):  # the terminal is gone, which must not keep the stop from being orderly
            console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {escape(cut_secrets(text))}")

    run_until_stopped(StackOptions(directory, ready_file, port, workers), console, say)


def run_until_stopped(options: StackOptions, console: Console, say: Callable[[str], None]) -> None:
    """Run the stack until a signal, then exit: with 0 if it had been ready. Raises StartFailed with all stopped."""
    stack = Stack(options, say)
    with StopSignals() as signals:
        try:
            try:
                _show(console, stack.start(), stack.servers.home)
                stack.watch()
            finally:
                signals.ignore_the_first()
                say("stopping")
                stack.stop(signals.again)
        except StopAskedError as asked:
            say("all is stopped")
            sys.exit(0 if stack.ready else 128 + asked.number)


def _show(console: Console, ready: Ready, home: Home) -> None:
    """Print where everything is. The servers' own passwords stay in the file: nobody needs them to use the API."""
    console.print("\n[bold]Fillfleet is up.[/bold]")
    rows = {
        "API": f"{ready.api_url}  (how to use it: {ready.api_url}/docs)",
        "API key": ready.api_key,
        "Flower": f"{ready.flower_url}  user {ready.flower_user}, password {ready.flower_password}",
        "Results in": f"s3://{ready.s3_bucket} at {ready.s3_endpoint}",
        "PostgreSQL": cut_secrets(ready.database_url),
        "Valkey": cut_secrets(ready.redis_url),
        "Passwords": str(home.directory / READY_FILE),
        "Logs": str(home.logs),
        "Data": f"{home.directory}  ({'removed at the end: keep it with --dir' if home.temporary else 'kept'})",
    }
    for name, value in rows.items():
        console.print(f"  [bold]{name:<11}[/bold] {escape(value)}")
    console.print("Ctrl-C stops it.")
