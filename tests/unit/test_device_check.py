"""What `fillfleet doctor` says of the GPUs of a host, which are told here instead of being there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from common.checkup import Finding, Verdict
from tests.support.fills import FillSettings
from worker.checks import check_device

GIB = 1024**3


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with a large and a small GPU."""
    gpus = [
        SimpleNamespace(name="Large GPU", total_memory=80 * GIB),
        SimpleNamespace(name="Small", total_memory=8 * GIB),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", gpus.__getitem__)


def check(device: str) -> Finding:
    (finding,) = check_device(FillSettings(fill_device=device))
    return finding


@pytest.mark.parametrize(
    ("wish", "shown"), [("auto", "on cuda: Large GPU with 80 GiB"), ("cuda:1", "on cuda:1: Small with 8 GiB")]
)
def test_the_gpu_that_a_worker_would_take_is_named_with_its_memory(two_gpus: None, wish: str, shown: str) -> None:
    finding = check(wish)
    assert finding.verdict is Verdict.OK
    assert finding.found == f"torch {torch.__version__} {shown}; 2 GPUs here, one worker each"
    assert finding.facts["gpus"] == ["Large GPU with 80 GiB", "Small with 8 GiB"]


def test_a_gpu_beyond_those_that_there_are_is_missing(two_gpus: None) -> None:
    finding = check("cuda:2")
    assert finding.verdict is Verdict.MISSING
    assert finding.found.endswith("sees 2 GPUs, and no cuda:2")


def test_a_worker_on_the_cpu_is_told_its_threads_although_there_are_gpus(two_gpus: None) -> None:
    assert check("cpu").found == (
        f"torch {torch.__version__} on cpu: {torch.get_num_threads()} threads; 2 GPUs here, one worker each"
    )
