"""What one run of the demo found: all that the table, the sheet and the report are made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import urlsplit

from infra.demo.batch import Batch
from infra.demo.batch_checks import judge_batch
from infra.demo.model_card import ModelCard
from infra.demo.outcome import Check, Judged
from infra.embedded.ready_file import Ready


@dataclass(frozen=True, eq=False)
class Run:
    """One run. Seconds are wall-clock time; `addresses` is name -> where, without any password."""

    judged: tuple[Judged, ...]
    batch: Batch
    card: ModelCard
    at: datetime
    start_seconds: float
    """Until the system was ready."""
    batch_seconds: float
    """From the first upload to the last end."""
    addresses: dict[str, str]
    pids: dict[str, int]

    @property
    def as_expected(self) -> bool:
        """Whether every promise of the batch and of every job was kept."""
        return not self.broken

    @cached_property
    def batch_checks(self) -> tuple[Check, ...]:
        """The checks of the batch as a whole."""
        return judge_batch(self.batch)

    @property
    def broken(self) -> list[str]:
        """One line for each promise that was not kept."""
        checks = [("batch", check) for check in self.batch_checks]
        checks += [(one.outcome.job.name, check) for one in self.judged for check in one.checks]
        return [f"{name}: {check.promise}: {check.detail}" for name, check in checks if not check.kept]

    @property
    def calls(self) -> int:
        """How many of the jobs were single calls."""
        return sum(one.outcome.job.call is not None for one in self.judged)

    @property
    def model_version(self) -> dict[str, str]:
        """The model version of the first job that has one."""
        return next((one.outcome.prediction.model_version for one in self.judged if one.outcome.files), {})


def addresses_of(ready: Ready) -> dict[str, str]:
    """Return where each part of the system is, by the names of its pids, without user names and passwords."""
    return {
        "api": _place(ready.api_url),
        "postgres": _place(ready.database_url),
        "valkey": _place(ready.redis_url),
        "seaweedfs": _place(ready.s3_endpoint),
        "flower": _place(ready.flower_url),
    }


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}"
