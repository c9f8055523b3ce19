"""`fillfleet up` with small stand-ins for our own services, so that tests can make each of them fail in a second.

The servers, the guardian, the supervisor and the migrations are the real ones. STAND_IN_FAILS names the service that
ends at once, STAND_IN_STAYS the one that SIGTERM does not end, STAND_IN_LOADS the one that is never ready; the others
do no more than what `up` waits for.

    python -m tests.support.stand_in_cli up --dir D --ready-file F
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from common.database import make_engine, transaction
from common.settings import get_settings
from common.workers import WorkerBeat, WorkerState, beat
from infra.embedded.cli import run_until_stopped
from infra.embedded.errors import StartFailed
from infra.embedded.stack import StackOptions
from migrations.run import upgrade

KEY: Final = "stand-in-key"
COMMAND: Final = (sys.executable, "-m", "tests.support.stand_in_cli")


@click.group()
def cli() -> None:
    """The same commands as the real one."""
    if os.environ.get("STAND_IN_FAILS") in sys.argv:
        click.echo(f"the stand-in of {sys.argv[1]} fails as it was told to", err=True)
        sys.exit(3)
    if os.environ.get("STAND_IN_STAYS") in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("STAND_IN_LOADS") in sys.argv:
        threading.Event().wait()


@cli.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path))
@click.option("--ready-file", type=click.Path(path_type=Path))
@click.option("--port", type=int)
@click.option("--workers", type=int, default=1)
def up(directory: Path | None, ready_file: Path | None, port: int | None, workers: int) -> None:
    options = StackOptions(directory, ready_file, port, workers, command=COMMAND)
    console = Console(soft_wrap=True)
    run_until_stopped(options, console, lambda text: console.print(text, markup=False))


@cli.command()
def migrate() -> None:
    upgrade(get_settings().sqlalchemy_url)


@cli.command()
@click.argument("action")
@click.option("--owner")
@click.option("--json", "as_json", is_flag=True)
def keys(action: str, owner: str, as_json: bool) -> None:
    click.echo(json.dumps({"key": KEY}))


@cli.command()
@click.option("--host")
@click.option("--port", type=int)
def api(host: str, port: int) -> None:
    def status(path: str, authorization: str) -> int:
        return 200 if path == "/readyz" or authorization == f"Bearer {KEY}" else 401

    _serve(host, port, status)


@cli.command()
@click.option("--address")
@click.option("--port", type=int)
def flower(address: str, port: int) -> None:
    login = base64.b64encode(f"{os.environ['FLOWER_USER']}:{os.environ['FLOWER_PASSWORD']}".encode()).decode()
    _serve(address, port, lambda _path, authorization: 200 if authorization == f"Basic {login}" else 401)


@cli.command()
def dispatcher() -> None:
    threading.Event().wait()


@cli.command()
def worker() -> None:
    engine = make_engine(get_settings())
    me = WorkerBeat(
        id=f"stand-in-{os.getpid()}", hostname=socket.gethostname(), slots=1, state=WorkerState.READY, version={}
    )
    while True:
        with transaction(engine) as connection:
            beat(connection, me)
        threading.Event().wait(0.5)


def _serve(host: str, port: int, status: Callable[[str, str], int]) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status(self.path, self.headers.get("Authorization", "")))
            self.end_headers()

    ThreadingHTTPServer((host, port), Handler).serve_forever()


if __name__ == "__main__":
    try:
        cli()
    except StartFailed as error:
        click.echo(error.message, err=True)
        sys.exit(1)
