"""What one run of the demo found: all that the table, the sheet and the report are made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from infra.demo.model_card import ModelCard
from infra.demo.outcome import Judged
from infra.embedded.ready_file import Ready


@dataclass(frozen=True, eq=False)
class Run:
    """One run. Seconds are wall-clock time; `addresses` is name -> where, without any password."""

    judged: tuple[Judged, ...]
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
        """Whether every promise of every job was kept."""
        return all(one.as_expected for one in self.judged)

    @property
    def broken(self) -> list[str]:
        """One line for each promise that was not kept."""
        return [
            f"{one.outcome.job.name}: {check.promise}: {check.detail}"
            for one in self.judged
            for check in one.checks
            if not check.kept
        ]

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
