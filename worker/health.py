"""A worker's health over HTTP, from a thread of its own: `/healthz` while it beats, `/readyz` while it takes jobs."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from typing import Any

from common.workers import WorkerState
from worker.health_server import serve_probes
from worker.runtime import Runtime


def serve_health(runtime: Runtime, port: int) -> ThreadingHTTPServer:
    """Serve on all addresses at `port`; the caller shuts the returned server down."""

    def ask(path: str) -> tuple[bool, dict[str, Any]]:
        state = runtime.heartbeat.worker.state
        # Postgres being away must not get every worker of a fleet killed: only silence of the thread itself is ill.
        well = runtime.heartbeat.is_alive and (path == "/healthz" or state is WorkerState.READY)
        return well, {"state": state.value, "worker": runtime.worker_id}

    return serve_probes(ask, port)
