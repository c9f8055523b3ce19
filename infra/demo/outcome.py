"""What became of one job: what the API said, the files that it gave, and its trail through the system."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from infra.demo.client import Prediction
from infra.demo.jobs import DemoJob
from infra.demo.material import Material
from infra.demo.trail import Trail


@dataclass(frozen=True)
class Check:
    """One promise, and whether it was kept; `detail` says by how much, or what was found instead."""

    promise: str
    kept: bool
    detail: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """One job of the demo after its end (or after the demo's patience)."""

    job: DemoJob
    material: Material
    prediction: Prediction
    files: tuple[bytes, ...]
    """The downloaded outputs."""
    trail: Trail | None
    """None where Postgres has no such job."""
    in_flower: str
    """The state that Flower shows; empty where it does not know the job."""
    row: Mapping[str, Any] | None = None
    """Its row in results.parquet; None for a call, and where the table has no such row."""

    @property
    def came_as(self) -> str:
        """How it was submitted, in words."""
        if self.job.call is not None:
            return "single call"
        return f"row {self.row['row']} of the batch" if self.row is not None else "row of the batch"

    @cached_property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The outputs, decoded. Raises PIL.UnidentifiedImageError where one is no image."""
        return tuple(Image.open(io.BytesIO(data)) for data in self.files)

    @cached_property
    def sha256(self) -> tuple[str, ...]:
        """The sha256 of each downloaded file, in hex."""
        return tuple(hashlib.sha256(data).hexdigest() for data in self.files)


@dataclass(frozen=True, eq=False)
class Judged:
    """An outcome with its checks."""

    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def as_expected(self) -> bool:
        """Whether every promise was kept."""
        return all(check.kept for check in self.checks)
