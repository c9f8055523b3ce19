"""The sleeping device of a worker, watched: when it was at work is written down, a line a job."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from PIL import Image

from tests.benchmarks.naive import Interval
from tests.support.sleeping_model import SleepingModel
from worker.work import Tick, Work

WATCHED: Final = "tests.benchmarks.watched_model:WatchedModel"


class WatchedModel(SleepingModel):
    """Takes the time that SleepingModel does, and writes when to WATCHED_FILE."""

    def run(self, prepared: Work, tick: Tick) -> list[Image.Image]:
        """Sleep and write it down."""
        began = time.monotonic()
        images = super().run(prepared, tick)
        ended = time.monotonic()
        with Path(os.environ["WATCHED_FILE"]).open("a") as file:
            file.write(f"{began} {ended}\n")
        return images


def watched_intervals(file: Path) -> list[Interval]:
    """Return when the device was at work, in order."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(float(began), float(ended)) for began, ended in lines]
