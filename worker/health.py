"""A worker's health over HTTP, from a thread of its own: `/healthz` while it beats, `/readyz` while it takes jobs."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from common.workers import WorkerState
from worker.runtime import Runtime


def serve_health(runtime: Runtime, port: int) -> ThreadingHTTPServer:
    """Serve on all addresses at `port`; the caller shuts the returned server down."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state = runtime.heartbeat.worker.state
            # Postgres being away must not get every worker of a fleet killed: only silence of the thread itself is ill.
            alive = runtime.heartbeat.is_alive
            well = {"/healthz": alive, "/readyz": alive and state is WorkerState.READY}.get(self.path)
            if well is None:
                self.send_error(404)
                return
            body = json.dumps({"state": state.value, "worker": runtime.worker_id}).encode()
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
