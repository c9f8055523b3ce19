"""Runs the API under uvicorn: stops cleanly when asked, and answers even what is no HTTP with an envelope."""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.errors import FillfleetError
from producer.api.envelope import ApiError, failure
from producer.api.services import Services

GRACE_SECONDS: Final = 30
"""How long running requests may go on after a stop is asked for."""
_BACKLOG: Final = 2048
_KEEP_ALIVE_SECONDS: Final = 65  # longer than the 60 s after which common load balancers close idle connections


class CannotListen(FillfleetError):
    """The address to listen on is taken or not ours."""


class ApiServer(uvicorn.Server):
    """uvicorn, but those who wait for a result are told at once that the process stops."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Do what uvicorn does at SIGTERM and SIGINT, after ringing the bell."""
        self._services.stopping.set()
        super().handle_exit(sig, frame)


class _Protocol(H11Protocol):
    def send_400_response(self, msg: str) -> None:
        """Answer what h11 cannot parse, as uvicorn does, but in an envelope."""
        response = failure(ApiError(400, f"{msg} Headers may have 64 KiB in all, and bytes that HTTP allows."))
        headers = [*response.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def make_server(app: FastAPI) -> ApiServer:
    """Return a server for the app, not yet running."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        access_log=False,  # ours leaves out queries, which hold signatures
        log_config=None,
        log_level="warning",  # that we started and stopped our own lines say
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return ApiServer(config, app.state.services)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 takes a free one. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: only then asyncio switches Nagle's algorithm off, which costs each answer 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(
            "cannot_listen", f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from error
    return listener


def run_server(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests finish and return."""
    # uvicorn raises the signal again once it has stopped, for whoever handled it before: a clean exit, not a kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    make_server(app).run(sockets=[listener])
