"""Flower, the fleet's face: shows workers and jobs, changes nothing, and always asks for a password.

It is run from here and not through celery's command line, so that no secret ever stands in a list of processes, and
no environment variable can switch its password or its read-only mode off. /metrics and /healthcheck stay open.
"""

from __future__ import annotations

import signal

from flower.app import Flower
from flower.options import options
from flower.urls import settings as web_settings

from common.broker import make_app
from common.errors import FillfleetError
from common.settings import Settings
from common.telemetry import get_logger

log = get_logger(__name__)

_FORGET_OFFLINE_SECONDS = 3600


class CannotShow(FillfleetError):
    """Flower cannot be started like this."""


def run_flower(settings: Settings, *, address: str, port: int, user: str, password: str) -> None:
    """Serve Flower until SIGTERM or SIGINT. Raises CannotShow."""
    if ":" in user:
        raise CannotShow("flower_user", "FLOWER_USER may not hold a colon: basic auth ends the user's name there")
    options.address = address
    options.port = port
    options.basic_auth = [f"{user}:{password}"]
    options.read_only = True
    options.purge_offline_workers = _FORGET_OFFLINE_SECONDS
    view = Flower(capp=make_app(settings), options=options, **web_settings)
    try:
        port = view.start_http_server()
    except OSError as error:
        raise CannotShow(
            "cannot_listen",
            f"cannot listen on {address} port {port}: {error.strerror}; choose another with --port",
        ) from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: view.io_loop.add_callback_from_signal(view.io_loop.stop))
    log.info("flower.listening", address=address, port=port)
    view.start()
    view.stop()
    log.info("flower.stopped")
