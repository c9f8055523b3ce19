"""The naive program as a process of its own: `python -m tests.benchmarks.naive_process PLAN RESULT`.

PLAN and RESULT are files of JSON. The process has the settings of its environment, as a worker has.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.objects import Objects
from common.settings import Settings
from tests.benchmarks.naive import Interval, NaiveDevice, SleepingDevice, Task, run_naively
from tests.support.environment import environment_of

_SECONDS = 600.0


def run_naive_process(
    settings: Settings,
    folder: Path,
    tasks: Sequence[Task],
    *,
    threads: int,
    step_seconds: float | None = None,
) -> list[Interval]:
    """Do all tasks in a new process, on a sleeping device where `step_seconds` is given, else on the stock pipeline.

    Returns when the device was held, in order.

    The smallest task is done once more before, and not counted: model, libraries and connections are there then.
    """
    plan, result = folder / "naive-plan.json", folder / "naive-result.json"
    told = {"tasks": [asdict(task) for task in tasks], "threads": threads, "step_seconds": step_seconds}
    plan.write_text(json.dumps(told))
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.naive_process", str(plan), str(result)],
        env=environment_of(settings) | {"OMP_NUM_THREADS": "1"},
        check=False,
        stderr=subprocess.PIPE,  # its libraries say much that is of no interest here
        text=True,
        timeout=_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"the naive program failed:\n{done.stderr}")
    return [(began, ended) for began, ended in json.loads(result.read_text())]


def _main(plan: Path, result: Path) -> None:
    told = json.loads(plan.read_text())
    tasks = [Task(**task) for task in told["tasks"]]
    device = _device(told)
    objects = Objects(Settings())
    smallest = min(tasks, key=lambda task: task.images * task.width * task.height)
    run_naively([smallest], device, objects, threads=1)
    result.write_text(json.dumps(run_naively(tasks, device, objects, threads=told["threads"])))
    objects.close()


def _device(told: dict[str, Any]) -> NaiveDevice:
    if told["step_seconds"] is not None:
        return SleepingDevice(told["step_seconds"])
    from tests.benchmarks.stock_device import StockDevice  # torch: the sleeping device does without

    return StockDevice()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
