"""The little HTTP server of health probes, on a thread of its own. What is well, its caller says; nothing else is here.

It must stay without the libraries of model and tasks: who looks after the workers of a host serves with it, too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATHS = ("/healthz", "/readyz")


def serve_probes(ask: Callable[[str], tuple[bool, Mapping[str, Any]]], port: int) -> ThreadingHTTPServer:
    """Serve on all addresses at `port`; the caller shuts the returned server down.

    `ask` is called with one of PATHS, on any thread, and returns whether all is well (200, else 503) and what to say.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in PATHS:
                self.send_error(404)
                return
            well, said = ask(self.path)
            body = json.dumps(said).encode()
            self.send_response(200 if well else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Probes are not worth a line each."""

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
