"""One supervised server: started until it answers, killed and started again, stopped.

What is particular to Valkey, PostgreSQL or SeaweedFS stands in their own files; here is what they have in common. A
start counts as done only when the server has answered to our password: a stranger on the port is never taken for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Protocol

from infra.embedded.errors import StartFailed
from infra.embedded.ports import PortClaims
from infra.embedded.process import Guardian, Process, Program, describe_exit

_START_SECONDS: Final = 120.0
"""Recovery after a crash replays logs, which takes a while on a slow disk."""
_PASSES: Final = ("address already in use", "port allocation failed", "pre-existing shared memory block")
"""What a server that ended at once says where another try will do better. The last is of a killed PostgreSQL, whose
backends take a moment to notice."""
_RETRY_SECONDS: Final = 15.0


class ServerPlan(Protocol):
    """What is particular to one server. Its ports are claimed by `choose_ports`; all else uses those."""

    name: str

    def choose_ports(self, claims: PortClaims, preferred: Mapping[str, int]) -> dict[str, int]:
        """Claim ports, the preferred ones where they are free, and return them by name."""

    def prepare(self) -> None:
        """Write what the server needs before it starts. Runs before each start."""

    def program(self) -> Program:
        """Return what to run."""

    def check(self) -> None:
        """Return if the server answers and knows our password. Raises any exception otherwise."""

    def complete(self) -> None:
        """Make what has to be in it. Runs after each start, so it must not mind finding it there."""


class Server:
    """One server of an embedded system."""

    def __init__(self, plan: ServerPlan, guardian: Guardian, claims: PortClaims, preferred: Mapping[str, int]) -> None:
        self.plan = plan
        self.ports: dict[str, int] = {}
        self._guardian = guardian
        self._claims = claims
        self._preferred = preferred
        self._process: Process | None = None
        self._has_answered = False

    @property
    def name(self) -> str:
        """The server's name in logs and pids."""
        return self.plan.name

    @property
    def pid(self) -> int:
        """The process id of the running, or else the last, process. Raises StartFailed where there never was one."""
        if self._process is None:
            raise StartFailed(f"{self.name} has not been started")
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return how it ended, or None while it runs. Raises StartFailed where it was never started."""
        if self._process is None:
            raise StartFailed(f"{self.name} has not been started")
        return self._process.exit_code()

    def last_words(self, lines: int = 20) -> str:
        """Return the tail of its log."""
        return self._process.last_words(lines) if self._process else ""

    def launch(self) -> None:
        """Begin to start it. The first time it takes ports; later it keeps to those that others know it by."""
        if not self._has_answered:
            self._claims.release(*self.ports.values())
            self.ports = self.plan.choose_ports(self._claims, self._preferred)
        self.plan.prepare()
        self._process = self._guardian.spawn(self.plan.program())

    def finish(self, seconds: float = _START_SECONDS) -> None:
        """Wait until it answers, beginning anew where a port was taken. Raises StartFailed with the log's tail."""
        started = time.monotonic()
        while True:
            words = self._until_it_answers_or_ends(started + seconds)
            if words is None:
                break
            passes = any(sign in words.lower() for sign in _PASSES)
            if not passes or time.monotonic() - started > _RETRY_SECONDS:
                raise StartFailed(f"{self.name} did not start. {words}")
            self._preferred = {}
            time.sleep(0.2)
            self.launch()
        self._has_answered = True
        self.plan.complete()

    def start(self) -> None:
        """Start it, on the same ports and folder as before, and wait until it answers. Raises StartFailed."""
        if self._process is not None and self._process.exit_code() is None:
            return
        self.launch()
        self.finish()

    def ask_to_stop(self) -> None:
        """Begin to stop it in an orderly way."""
        if self._process is not None:
            self._process.ask_to_stop()

    def stop(self) -> None:
        """Stop it in an orderly way, with SIGKILL where that takes too long."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL it, as a crash would, and wait until it is gone. `start` brings it back with its data."""
        if self._process is not None:
            self._process.kill()

    def _until_it_answers_or_ends(self, deadline: float) -> str | None:
        """Return None once it answers, or its last words if it ended. Raises StartFailed at the deadline."""
        assert self._process is not None  # noqa: S101 - only called after launch
        last: Exception | None = None
        while True:
            code = self._process.exit_code()
            if code is not None:
                return f"It ended with {describe_exit(code)}. {self._process.last_words()}"
            try:
                self.plan.check()
            except Exception as error:  # noqa: BLE001 - each client has its own words for "not yet"
                last = error
            else:
                return None
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} runs but does not answer ({last}). {self._process.last_words()}")
            time.sleep(0.02)
