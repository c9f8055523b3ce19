"""`python -m infra.demo`: starts the real system, fills scenes and photographs, writes demo/report.html and sheet.png.

The exit code is 0 only when every job ended as it should and every promise was kept; the system is always stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click
import requests
from rich.console import Console
from rich.markup import escape

from common.errors import FillfleetError
from infra.demo.client import ApiError
from infra.demo.run import Run
from infra.demo.story import run_demo
from infra.demo.system import CODE, SystemFolders
from infra.demo.terminal import make_console

OUTPUT: Final = CODE / "demo"
_NOT_AS_EXPECTED: Final = 1
_INTERRUPTED: Final = 128 + signal.SIGINT


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--keep", is_flag=True, help="Leave the system up afterwards, until Ctrl-C, to try it out.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the system's data and logs here. Default: a temporary folder, removed when all went well.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=OUTPUT,
    help="Where report.html and sheet.png go. Default: demo/ beside the code.",
)
def main(keep: bool, directory: Path | None, output: Path) -> None:
    """Fill scenes and photographs with the real system on this machine, check what comes back, and write a report.

    PostgreSQL, Valkey, SeaweedFS, API, dispatcher, worker and Flower are started for it and stopped after it.
    FILL_MODEL and all other settings are taken from the environment.
    """
    began = time.monotonic()
    console = make_console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the demo as Ctrl-C does
    folders = SystemFolders(directory or _temporary_folder())
    code = _NOT_AS_EXPECTED
    try:
        code = _verdict(console, run_demo(console, folders, output, keep=keep))
    except (FillfleetError, ApiError, requests.RequestException, OSError) as error:
        console.print(f"[red]The demo broke off:[/red] {escape(str(error))}", soft_wrap=True)
    except KeyboardInterrupt:
        console.print("[yellow]Interrupted; the system is stopped.[/yellow]")
        code = _INTERRUPTED
    if code == _NOT_AS_EXPECTED:
        console.print(f"The logs are in {escape(str(folders.logs))} and {escape(str(folders.root))}", soft_wrap=True)
    elif directory is None:
        shutil.rmtree(folders.root, ignore_errors=True)
    console.print(f"The demo took {time.monotonic() - began:.1f} s, from the start of the servers to their end.")
    sys.exit(code)


def _verdict(console: Console, run: Run) -> int:
    for line in run.broken:
        console.print(f"[red]Not as expected:[/red] {escape(line)}", soft_wrap=True)
    if run.as_expected:
        console.print("[green]Everything is as expected.[/green]")
    return 0 if run.as_expected else _NOT_AS_EXPECTED


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fillfleet-demo-"))
    if os.geteuid() == 0:
        folder.chmod(0o711)  # PostgreSQL, which then runs as somebody else, must be able to walk through
    return folder


if __name__ == "__main__":
    main()
