"""The health of a host's workers over HTTP, on WORKER_HEALTH_PORT; theirs are on the ports behind it, one each.

`/healthz` while at least one of them is well (the others are started again anyway, and a probe that kills this process
would kill the well ones, too), `/readyz` while at least one takes jobs. Both say how each GPU's worker is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from worker.fleet.member import Member, Stage

_SECONDS: Final = 2.0


def serve_fleet_health(members: Sequence[Member], port: int) -> ThreadingHTTPServer:
    """Serve on all addresses at `port`; the caller shuts the returned server down."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in {"/healthz", "/readyz"}:
                self.send_error(404)
                return
            answers = {member.gpu.id: _ask(member, port + 1 + n, self.path) for n, member in enumerate(members)}
            body = json.dumps({"gpus": {gpu: state for gpu, (_, state) in answers.items()}}).encode()
            self.send_response(200 if any(well for well, _ in answers.values()) else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Probes are not worth a line each."""

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


def _ask(member: Member, port: int, path: str) -> tuple[bool, str]:
    """Return whether this member is well by its own word, and its state in a word."""
    if member.stage is not Stage.RUNNING:
        return False, member.stage.value
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status == 200, str(json.loads(answer.read())["state"])
    except (OSError, HTTPException, ValueError, KeyError):
        return False, "silent"  # it has only just been started, or it hangs
    finally:
        connection.close()
