"""One GPU of a fleet, and the worker process that it has now: started with that GPU alone in sight, watched, started
again after a pause where it ended by itself.

It must never import torch, nor run anything between fork and exec: the supervisor has a thread for its health.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

import worker
from common.telemetry import get_logger
from worker.exit_code import LASTING, ExitCode, in_words
from worker.fleet.gpus import Gpu
from worker.fleet.lifeline import VARIABLE as LIFELINE
from worker.fleet.restarts import Restarts

log = get_logger(__name__)

_CODE: Final = Path(worker.__file__).resolve().parents[1]
"""Where our packages lie: a checkout is not always installed."""
# -P: what lies in the folder where the operator stands is not taken for a package of ours.
COMMAND: Final = (sys.executable, "-P", "-m", "producer.cli", "worker")


class Stage(Enum):
    """Where a member is in its life."""

    RUNNING = "running"
    PAUSED = "paused"
    """It ended by itself, and is started again."""
    DRAINED = "drained"
    """Somebody has told it to stop, and it did; it stays so."""
    GIVEN_UP = "given up"
    """It cannot start before somebody has done something; it stays so."""


class Member:
    """A GPU's worker."""

    def __init__(
        self, gpu: Gpu, environment: Mapping[str, str], *, lifeline: int, command: Sequence[str] = COMMAND
    ) -> None:
        """`environment` is added to this process's; `lifeline` is the descriptor that is read from."""
        self.gpu = gpu
        self.stage = Stage.PAUSED
        self.last_code: int | None = None
        self._command = command
        self._lifeline = lifeline
        self._environment = {**member_environment(gpu, lifeline), **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = Restarts()
        self._started = 0.0
        self._due = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it neither runs nor will."""
        return self.stage in {Stage.DRAINED, Stage.GIVEN_UP}

    def look(self) -> None:
        """Notice its end, and start it when that is due."""
        if self.stage is Stage.RUNNING:
            self._notice_end()
        elif self.stage is Stage.PAUSED and time.monotonic() >= self._due:
            self._start()

    def ask_to_drain(self) -> None:
        """Send SIGTERM; one that waits for its next start is not started any more."""
        if self.stage is Stage.PAUSED:
            self.stage = Stage.DRAINED
        self._send(signal.SIGTERM)

    def look_after_drain(self) -> None:
        """Notice its end, which is the last one."""
        code = self._ended()
        if code is not None and not self._is_given_up(code):
            self.stage = Stage.DRAINED
            log.info("fleet.worker_ended", gpu=self.gpu.id, end=in_words(code))

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        log.critical("fleet.worker_killed", gpu=self.gpu.id, why="it did not end within DRAIN_SECONDS and 30 s more")
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _start(self) -> None:
        self._started = time.monotonic()
        try:
            # In a session of its own: the terminal's Ctrl-C reaches the supervisor alone, which passes it on.
            self._process = subprocess.Popen(
                self._command,
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(self._lifeline,),
                start_new_session=True,
            )
        except OSError as error:  # no memory or process number is left for it now
            self._plan(f"it could not be started: {error.strerror}")
            return
        self.stage = Stage.RUNNING
        log.info("fleet.worker_started", gpu=self.gpu.id, uuid=self.gpu.uuid, pid=self._process.pid)

    def _notice_end(self) -> None:
        code = self._ended()
        if code is None or self._is_given_up(code):
            return
        if code == ExitCode.DRAINED:
            self.stage = Stage.DRAINED
            log.info("fleet.worker_drained", gpu=self.gpu.id, why="it was told to stop, so it stays stopped")
        else:
            self._plan(in_words(code))

    def _ended(self) -> int | None:
        """Return how it ended, or None while it runs."""
        if self.stage is not Stage.RUNNING or self._process is None:
            return None
        self.last_code = self._process.poll()
        return self.last_code

    def _is_given_up(self, code: int) -> bool:
        if code not in LASTING:
            return False
        self.stage = Stage.GIVEN_UP
        log.critical("fleet.worker_given_up", gpu=self.gpu.id, end=in_words(code))
        return True

    def _plan(self, end: str) -> None:
        self.stage = Stage.PAUSED
        now = time.monotonic()
        pause = self._restarts.pause_seconds(now - self._started)
        self._due = now + pause
        log.error("fleet.worker_ended", gpu=self.gpu.id, end=end, again_in_seconds=round(pause, 1))

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def member_environment(gpu: Gpu, lifeline: int) -> dict[str, str]:
    """Return what makes a worker one of a fleet."""
    known = os.environ.get("PYTHONPATH")
    return {
        # By UUID: CUDA's own numbers are in another order than nvidia-smi's.
        "CUDA_VISIBLE_DEVICES": gpu.uuid,
        # Not auto: a GPU that torch does not see must not become eight workers on one CPU.
        "FILL_DEVICE": "cuda",
        "FILLFLEET_GPU": gpu.id,
        LIFELINE: str(lifeline),
        "PYTHONPATH": f"{_CODE}{os.pathsep}{known}" if known else str(_CODE),
    }
