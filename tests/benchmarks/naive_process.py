"""The naive program as a process of its own: `python -m tests.benchmarks.naive_process PLAN RESULT`.

PLAN and RESULT are files of JSON. The process has the settings of its environment, as a worker has.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.objects import Objects
from common.settings import Settings
from tests.benchmarks.naive import Interval, NaiveDevice, SleepingDevice, Task, run_naively
from tests.support.environment import environment_of

_SECONDS = 600.0


@dataclass(frozen=True)
class NaiveRun:
    """From before the first fetch until after the last upload, and when the device was held meanwhile."""

    seconds: float
    held: tuple[Interval, ...]

    @property
    def held_seconds(self) -> float:
        """How long the device was held in all."""
        return sum(ended - began for began, ended in self.held)


def run_naive_process(
    settings: Settings,
    folder: Path,
    tasks: Sequence[Task],
    *,
    threads: int,
    step_seconds: float | None = None,
) -> NaiveRun:
    """Do all tasks in a new process, on a sleeping device where `step_seconds` is given, else on the stock pipeline.

    The first task is done once more before, and not counted: model, libraries and connections are there then.
    """
    plan, result = folder / "naive-plan.json", folder / "naive-result.json"
    told = {"tasks": [asdict(task) for task in tasks], "threads": threads, "step_seconds": step_seconds}
    plan.write_text(json.dumps(told))
    subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.naive_process", str(plan), str(result)],
        env=environment_of(settings) | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=_SECONDS,
    )
    said = json.loads(result.read_text())
    return NaiveRun(said["seconds"], tuple((began, ended) for began, ended in said["held"]))


def _main(plan: Path, result: Path) -> None:
    told = json.loads(plan.read_text())
    tasks = [Task(**task) for task in told["tasks"]]
    device = _device(told)
    objects = Objects(Settings())
    run_naively(tasks[:1], device, objects, threads=1)
    began = time.monotonic()
    held = run_naively(tasks, device, objects, threads=told["threads"])
    result.write_text(json.dumps({"seconds": time.monotonic() - began, "held": held}))
    objects.close()


def _device(told: dict[str, Any]) -> NaiveDevice:
    if told["step_seconds"] is not None:
        return SleepingDevice(told["step_seconds"])
    from tests.benchmarks.stock_device import StockDevice  # torch: the sleeping device does without

    return StockDevice()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
