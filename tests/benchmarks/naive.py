"""How one keeps a GPU at work without thinking much: task by task, or a few threads and a lock around the pipeline.

What `occupancy` and `headline` are measured against. It is written as one would, with requests, Pillow and boto3, and
made no worse than that: decoding, pasting and encoding are outside the lock, connections to the store are kept, and PNG
is as quick as ours.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import requests
from PIL import Image

from common.objects import Objects

Interval = tuple[float, float]
"""When something began and ended, by the monotonic clock, which all processes of a machine share."""


@dataclass(frozen=True)
class Task:
    """One fill. `image` and `mask` are URLs of PNGs of width x height, `lora` is a path."""

    image: str
    mask: str
    prompt: str
    width: int
    height: int
    steps: int
    images: int
    seed: int
    lora: str | None = None
    scale: float = 1.0


class NaiveDevice(Protocol):
    """What is behind the lock."""

    def compute(self, task: Task, image: Image.Image, mask: Image.Image) -> list[Image.Image]:
        """Return the task's images, width x height."""


def run_naively(tasks: Sequence[Task], device: NaiveDevice, objects: Objects, threads: int) -> list[Interval]:
    """Do all tasks; returns when the device was held, in order."""
    lock = threading.Lock()
    held: list[Interval] = []

    def do(number: int, task: Task) -> None:
        image, mask = _fetched(task.image).convert("RGB"), _fetched(task.mask).convert("L")
        with lock:
            began = time.monotonic()
            made = device.compute(task, image, mask)
            held.append((began, time.monotonic()))
        for n, picture in enumerate(made):
            encoded = io.BytesIO()
            Image.composite(picture, image, mask).save(encoded, "png", compress_level=1)
            objects.put(f"naive/{number}-{n}.png", encoded.getvalue(), "image/png")

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(do, number, task) for number, task in enumerate(tasks)]:
            done.result()
    return held


def _fetched(url: str) -> Image.Image:
    answer = requests.get(url, timeout=60)
    answer.raise_for_status()
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    return image


class SleepingDevice:
    """A device that sleeps, as SleepingModel does for the worker."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds

    def compute(self, task: Task, image: Image.Image, mask: Image.Image) -> list[Image.Image]:
        """Sleep for every step."""
        for _ in range(task.images * task.steps):
            time.sleep(self._step_seconds)
        return [Image.new("RGB", (task.width, task.height)) for _ in range(task.images)]
