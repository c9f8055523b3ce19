"""`fillfleet api | dispatcher | flower`: the long-running commands of the producer.

Each logs to stderr and ends with exit code 0 on SIGTERM or SIGINT.
"""

from __future__ import annotations

import signal
import threading
from typing import Final

import click

from common.settings import get_settings
from common.telemetry import configure_logging, get_logger

log = get_logger(__name__)

_PORT: Final = click.IntRange(0, 65535)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=_PORT, help="The port to listen on; 0 takes a free one.")
def api(host: str, port: int) -> None:
    """Serve the HTTP API."""
    from producer.api import create_app
    from producer.api.server import listen, run_server

    settings = get_settings()
    configure_logging(settings, "api")
    with listen(host, port) as listener:
        log.info("api.listening", host=host, port=listener.getsockname()[1])
        run_server(create_app(settings), listener)
    log.info("api.stopped")


@click.command()
def dispatcher() -> None:
    """Publish jobs to the workers, find lost messages, rescue jobs of dead workers."""
    from producer.dispatcher import run

    settings = get_settings()
    configure_logging(settings, "dispatcher")
    run(settings, _stop_on_signals())


@click.command()
@click.option("--address", default="127.0.0.1", show_default=True, help="The address to listen on; keep it private.")
@click.option("--port", default=5555, show_default=True, type=_PORT, help="The port to listen on; 0 takes a free one.")
@click.option("--user", envvar="FLOWER_USER", hidden=True)
@click.option("--password", envvar="FLOWER_PASSWORD", hidden=True)
def flower(address: str, port: int, user: str | None, password: str | None) -> None:
    """Show the workers and their jobs in Flower: read-only, and behind FLOWER_USER and FLOWER_PASSWORD.

    Its /metrics and /healthcheck need no password: bind it to a private address.
    """
    if not user or not password:
        raise click.UsageError("set FLOWER_USER and FLOWER_PASSWORD in the environment: Flower never runs without them")
    from producer.fleet_view import run_flower

    settings = get_settings()
    configure_logging(settings, "flower")
    run_flower(settings, address=address, port=port, user=user, password=password)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
