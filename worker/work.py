"""What a job hands to the device, and what the device asks of a model. Plain data; nothing here touches torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

Tick = Callable[[str], None]
"""Called at each sign of life: `load`, `step` or `decode`. What it raises aborts the fill."""


@dataclass(frozen=True)
class Adapter:
    """One verified LoRA at one scale. `sha256` is its identity, `source` the word the user wrote.

    `revision` is the hub's commit, where it came from there.
    """

    source: str
    sha256: str
    path: Path
    bytes: int
    scale: float
    revision: str | None = None


@dataclass(frozen=True)
class Work:
    """One job's images to make. `image` is RGB and `mask` L of 0 and 255, both width x height, multiples of 16."""

    image: Image
    mask: Image
    width: int
    height: int
    prompt: str
    steps: int
    guidance: float
    seeds: tuple[int, ...]
    """One image is made for each seed, and each equals the solo run with that seed."""
    adapters: tuple[Adapter, ...] = field(default=())


class FillModel(Protocol):
    """A loaded model. `run` alone is for the device's thread; the rest is CPU work, and any thread may ask for it."""

    @property
    def version(self) -> dict[str, str]:
        """Revision, dtype, profile, library versions, device type, attention backend and thread count."""

    @property
    def resident(self) -> frozenset[str]:
        """The sha256 of the adapters that are loaded now."""

    def check_adapter(self, path: Path, what: str) -> None:
        """Read the LoRA file at `path` without touching the model. Raises Rejected, naming the field `what`."""

    def prepare(self, work: Work) -> Any:
        """Return what `run` takes: all of the work that needs no device is done."""

    def run(self, prepared: Any, tick: Tick) -> Any:
        """Return what `develop` takes.

        Raises Rejected where the job can never work (an adapter that does not fit, too large for the memory) and
        DeviceBroken where the process must not go on. What `tick` raises passes through and leaves the model unchanged.
        """

    def develop(self, made: Any) -> list[Image]:
        """Return one RGB image of the work's width x height per seed."""


class DeviceBroken(Exception):
    """The GPU gave a sticky error: every later call would fail too, so the process must exit."""
