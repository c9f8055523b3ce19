"""Our own processes on top of the servers: one table of them, and one of them running.

The table's order is the order in which they are stopped: first who takes jobs in, then who hands them out, then who
does them, and last who watches.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import infra
from infra.embedded.errors import StartFailed
from infra.embedded.ports import LOOPBACK
from infra.embedded.process import Guardian, Process, Program

COMMAND: Final = (sys.executable, "-m", "producer.cli")
CODE: Final = Path(infra.__file__).parent.parent
"""Where our packages lie: a checkout is not always installed."""
_QUICK_SECONDS: Final = 15.0
_AFTER_DRAIN_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Service:
    """One long-running command of ours."""

    name: str
    arguments: tuple[str, ...]
    stop_seconds: float


def service_table(*, api_port: int, flower_port: int, workers: int, drain_seconds: float) -> list[Service]:
    """Return what makes up the system."""
    drained = drain_seconds + _AFTER_DRAIN_SECONDS
    names = ["worker", *(f"worker-{number}" for number in range(2, workers + 1))]
    return [
        Service("api", ("api", "--host", LOOPBACK, "--port", str(api_port)), _QUICK_SECONDS),
        Service("dispatcher", ("dispatcher",), _QUICK_SECONDS),
        *(Service(name, ("worker",), drained) for name in names),
        Service("flower", ("flower", "--address", LOOPBACK, "--port", str(flower_port)), _QUICK_SECONDS),
    ]


class RunningService:
    """A service that is to run, with the process that does."""

    def __init__(
        self, service: Service, guardian: Guardian, *, command: Sequence[str], env: Mapping[str, str], log: Path
    ) -> None:
        self.service = service
        self._guardian = guardian
        self._program = Program(
            name=service.name,
            argv=[*command, *service.arguments],
            log=log,
            env=env,
            cwd=Path.cwd(),
            stop_seconds=service.stop_seconds,
        )
        self._process: Process | None = None

    @property
    def name(self) -> str:
        """The service's name in logs and pids."""
        return self.service.name

    @property
    def started(self) -> bool:
        """Whether it has ever been started."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id of the running, or else the last, process."""
        return self.process.pid

    @property
    def process(self) -> Process:
        """The running, or else the last, process. Raises StartFailed where there never was one."""
        if self._process is None:
            raise StartFailed(f"{self.name} has not been started")
        return self._process

    def exit_code(self) -> int | None:
        """Return how it ended, or None while it runs."""
        return self.process.exit_code()

    def last_words(self, lines: int = 20) -> str:
        """Return the tail of its log."""
        return self.process.last_words(lines)

    def start(self) -> None:
        """Start it, unless it runs. Whether it is of any use yet is for others to find out."""
        if self._process is None or self._process.exit_code() is not None:
            self._process = self._guardian.spawn(self._program)


def service_environment(environment: Mapping[str, str], *, flower_user: str, flower_password: str) -> dict[str, str]:
    """Return `environment` with what every service needs besides the servers' addresses."""
    known = environment.get("PYTHONPATH")
    return {
        **environment,
        "FLOWER_USER": flower_user,
        "FLOWER_PASSWORD": flower_password,
        "PYTHONPATH": f"{CODE}:{known}" if known else str(CODE),
        "PYTHONUNBUFFERED": "1",  # the log's last lines are the ones that matter
    }
