"""The health of a host's workers over HTTP, on WORKER_HEALTH_PORT; theirs are on the ports behind it, one each.

`/healthz` while at least one of them is well (the others are started again anyway, and a probe that kills this process
would kill the well ones, too), `/readyz` while at least one takes jobs. Both say how each GPU's worker is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from http.server import ThreadingHTTPServer
from typing import Any, Final

from worker.fleet.member import Member, Stage
from worker.health_server import serve_probes

_SECONDS: Final = 2.0


def serve_fleet_health(members: Sequence[Member], port: int) -> ThreadingHTTPServer:
    """Serve on all addresses at `port`; the caller shuts the returned server down."""

    def ask(path: str) -> tuple[bool, dict[str, Any]]:
        answers = {member.gpu.id: _ask(member, port + 1 + n, path) for n, member in enumerate(members)}
        said = {"gpus": {gpu: state for gpu, (_, state) in answers.items()}}
        return any(well for well, _ in answers.values()), said

    return serve_probes(ask, port)


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
