"""A stand-in for the GPU's time, and for nothing else: it sleeps as long as the steps say and returns a plain picture.

A worker uses it under FILLFLEET_ENV=test with TEST_MODEL_CLASS=tests.support.sleeping_model:SleepingModel. Prompts
that begin with "!" ask for trouble: `!wedge` never comes back, `!crash` kills the process, `!broken` breaks the GPU.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from PIL import Image

from common.settings import Settings
from worker.work import DeviceBroken, Tick, Work


class SleepingModel:
    """Takes SLEEP_STEP_SECONDS (default 0.01) a step. The colour of an image is its seed's."""

    def __init__(self, _settings: Settings) -> None:
        self.version = {"model": "sleeping", "revision": "1"}
        self.resident: frozenset[str] = frozenset()
        self._step_seconds = float(os.environ.get("SLEEP_STEP_SECONDS", "0.01"))

    def check_adapter(self, path: Path, what: str) -> None:
        """Accept every file."""

    def prepare(self, work: Work) -> Work:
        """Do nothing: sleeping needs no preparation."""
        return work

    def run(self, prepared: Work, tick: Tick) -> list[Image.Image]:
        """Fill."""
        return self.fill(prepared, tick)

    def develop(self, made: list[Image.Image]) -> list[Image.Image]:
        """Do nothing: the pictures are there."""
        return made

    def fill(self, work: Work, tick: Tick) -> list[Image.Image]:
        """Sleep for every step, then return one plain picture a seed."""
        self._trouble(work.prompt)
        self.resident |= {adapter.sha256 for adapter in work.adapters}
        images = []
        for seed in work.seeds:
            for _ in range(work.steps):
                time.sleep(self._step_seconds)
                tick("step")
            colour = (seed % 251, seed // 251 % 251, 128)
            images.append(Image.new("RGB", (work.width, work.height), colour))
        return images

    def _trouble(self, prompt: str) -> None:
        match prompt.split(maxsplit=1)[:1]:
            case ["!wedge"]:
                time.sleep(3600)
            case ["!crash"]:
                time.sleep(1.0)  # a poison job takes a moment; the heartbeat has said where it was
                os.kill(os.getpid(), signal.SIGKILL)
            case ["!broken"]:
                raise DeviceBroken("CUDA error: an illegal memory access was encountered")
