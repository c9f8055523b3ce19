"""What Flower shows of the demo's jobs: each under its id, with the state that Celery gave it."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

import requests

from infra.embedded.ready_file import Ready

SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
_ENDED: Final = frozenset({SUCCESS, FAILURE})
_LOOK_SECONDS: Final = 0.2


def states_in_flower(ready: Ready, ids: Collection[str], *, seconds: float) -> dict[str, str]:
    """Return Celery's state of each job by id, as Flower shows it; waits at most `seconds` until all have ended.

    A job that Flower does not know is left out. Raises requests.RequestException where Flower does not answer.
    """
    deadline = time.monotonic() + seconds
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment is not for loopback
        session.auth = (ready.flower_user, ready.flower_password)
        while True:
            states = _states(session, ready.flower_url)
            found = {one: states[one] for one in ids if one in states}
            if len(found) == len(ids) and _ENDED.issuperset(found.values()):
                return found
            if time.monotonic() > deadline:
                return found
            time.sleep(_LOOK_SECONDS)


def _states(session: requests.Session, flower_url: str) -> dict[str, str]:
    response = session.get(f"{flower_url}/api/tasks", timeout=10)
    response.raise_for_status()
    # A task's id is the job's and the number of its publish; of several the latest is the one that ran last.
    tasks = sorted(response.json().items(), key=lambda item: int(item[0].partition(".")[2] or 0))
    return {task.partition(".")[0]: str(shown["state"]) for task, shown in tasks}
