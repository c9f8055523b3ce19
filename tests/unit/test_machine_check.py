"""What `fillfleet doctor` says of a machine with GPUs: which there are, what fits them, what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.checkup import Finding, Verdict
from common.fill_profile import FillProfile, Offload, Quantization
from common.settings import Settings
from tests.support.fills import FillSettings
from tests.support.gpu_host import LARGE, SMALL, with_gpus, with_nvidia_smi
from worker import host, machine_check
from worker.host import cores, threads_for_each
from worker.host import memory_bytes as host_memory
from worker.model_size import FoundSize, find_size
from worker.vram_fit import GIB, ModelSize

FLUX_FILL = ModelSize(transformer=23_804_782_720, text_encoders=(246_120_960, 9_524_621_312), vae=167_640_000)


@pytest.fixture
def real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub has a model of FLUX.1 Fill's size, and nothing of it is here."""
    monkeypatch.setattr(machine_check, "find_size", lambda *_, **__: FoundSize(FLUX_FILL, FLUX_FILL.bytes))


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch is a build for CUDA that sees every GPU, and plenty of memory and disk are here."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine_check, "memory_bytes", lambda: 512 * GIB)
    monkeypatch.setattr(machine_check, "cores", lambda: 32)


def look(**settings: Any) -> dict[str, Finding]:
    found = machine_check.check_machine(FillSettings(**{"fill_device": "auto"} | settings))
    json.dumps([finding.facts for finding in found])
    return {finding.check: finding for finding in found}


def put(monkeypatch: pytest.MonkeyPatch, path: dict[str, str]) -> None:
    monkeypatch.setenv("PATH", path["PATH"])


def test_gpus_are_named_with_memory_capability_and_driver_and_how_to_use_them_all(
    real_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, with_gpus(tmp_path, [LARGE, LARGE]))
    found = look()
    assert found["gpus"].verdict is Verdict.OK
    assert found["gpus"].found == ("2 x NVIDIA H100 80GB HBM3 (79.6 GiB, compute capability 9.0); driver 570.133.20")
    assert "--gpus all" in found["gpus"].todo
    assert [gpu["compute_capability"] for gpu in found["gpus"].facts["gpus"]] == ["9.0", "9.0"]
    assert found["vram"].verdict is Verdict.OK
    assert found["host"].found == "32 cores and 512.0 GiB of memory: 16.0 cores and 256.0 GiB for each GPU's worker"


def test_what_does_not_fit_as_it_is_set_is_missing_and_the_settings_that_fit_are_named(
    real_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, with_gpus(tmp_path, [LARGE, SMALL]))
    vram = look()["vram"]
    assert vram.verdict is Verdict.MISSING, "the smaller one decides: a fleet's workers share one profile"
    assert "24.0 GiB: exact fits with FILL_OFFLOAD=model" in vram.found
    assert "79.6 GiB: exact fits (34.4 GiB)" in vram.found
    assert vram.todo == "set FILL_OFFLOAD=model"
    plans = vram.facts["fits"][0]["plans"]
    assert [plan["fits"] for plan in plans if plan["profile"] == "exact"] == [False, False, True]
    assert look(fill_offload=Offload.MODEL)["vram"].verdict is Verdict.OK
    fast = look(fill_profile=FillProfile.FAST, fill_quantization=Quantization.INT8)["vram"]
    assert (fast.verdict, fast.facts["set"]["quantization"]) == (Verdict.OK, "int8")


def test_no_setting_helps_a_card_that_is_too_small_for_any(
    real_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, with_gpus(tmp_path, ["NVIDIA GeForce GTX 1080, 8192, 570.133.20, 6.1, [N/A]"]))
    assert look()["vram"].todo == "use a GPU with more memory"


def test_gpus_that_torch_cannot_use_are_missing_with_what_to_install(
    real_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, with_gpus(tmp_path, [LARGE]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    gpus = look()["gpus"]
    assert gpus.verdict is Verdict.MISSING
    assert gpus.todo.startswith("update the driver to one for CUDA 12.8")
    monkeypatch.setattr(torch.version, "cuda", None)
    gpus = look()["gpus"]
    assert gpus.verdict is Verdict.MISSING
    assert "is built without CUDA" in gpus.found
    assert "install torch from PyPI" in gpus.todo
    assert look(fill_device="cpu")["gpus"].verdict is Verdict.NOTE, "who does not want them misses nothing"


def test_a_broken_driver_is_missing_and_an_absent_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, with_nvidia_smi(tmp_path / "bin", list_says="Failed: Driver/library version mismatch", code=18))
    gpus = look()["gpus"]
    assert gpus.verdict is Verdict.MISSING
    assert "reboot" in gpus.todo
    monkeypatch.setenv("PATH", str(tmp_path))
    found = look()
    assert found["gpus"].verdict is Verdict.NOTE
    assert "fill on the CPU" in found["gpus"].found
    assert "vram" not in found


def test_a_disk_without_room_for_the_model_is_missing(
    real_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look()["disk"].facts["download_bytes"] == FLUX_FILL.bytes
    monkeypatch.setattr(machine_check, "disk_usage", lambda _: type("Usage", (), {"free": 10 * GIB}))
    disk = look()["disk"]
    assert disk.verdict is Verdict.MISSING
    assert disk.found.startswith("10.0 GiB free in ")
    assert disk.found.endswith("and the model takes 31.4 GiB")
    assert "HF_HOME" in disk.todo


def test_a_host_with_too_little_memory_for_what_is_offloaded_is_warned(
    real_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, with_gpus(tmp_path, [SMALL, SMALL]))
    monkeypatch.setattr(machine_check, "memory_bytes", lambda: 64 * GIB)
    assert look()["host"].verdict is Verdict.OK
    warned = look(fill_offload=Offload.MODEL)["host"]
    assert warned.verdict is Verdict.WARNING
    assert "each worker takes about 35.4 GiB" in warned.todo


def test_a_containers_limits_are_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (cores(tmp_path), host_memory(tmp_path)) == (cores(Path("/nowhere")), host_memory(Path("/nowhere")))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (cores(tmp_path), host_memory(tmp_path)) == (cores(Path("/nowhere")), host_memory(Path("/nowhere")))
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text(f"{1 << 20}\n")
    assert (cores(tmp_path), host_memory(tmp_path)) == (1, 1 << 20)
    monkeypatch.setattr(host, "cores", lambda: 16)
    assert [threads_for_each(workers) for workers in (1, 8, 3, 64)] == [16, 2, 5, 1]


def test_the_size_of_a_model_that_is_here_is_that_of_its_weights_in_the_dtype_that_is_loaded() -> None:
    from diffusers import FluxFillPipeline

    from infra.demo_model.files import FOLDER

    pipe = FluxFillPipeline.from_pretrained(FOLDER, use_safetensors=True, local_files_only=True)
    weights = {
        name: sum(one.numel() for one in getattr(pipe, name).parameters())
        for name in ("transformer", "text_encoder", "text_encoder_2", "vae")
    }
    found = find_size(Settings(fill_model=str(FOLDER)), on_gpu=True)
    assert found.download_bytes == 0
    assert found.size.transformer == 2 * weights["transformer"]
    assert found.size.vae == 2 * weights["vae"]
    # Buffers, such as the numbers of the positions, are stored beside the weights.
    assert sum(found.size.text_encoders) == pytest.approx(
        2 * (weights["text_encoder"] + weights["text_encoder_2"]), rel=0.01
    )
    assert find_size(Settings(fill_model=str(FOLDER)), on_gpu=False).size.bytes == 2 * found.size.bytes
