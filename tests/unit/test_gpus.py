"""Which GPUs a host has, from what nvidia-smi writes: several of them, MIG devices, old drivers, none, and trouble."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from common.errors import Rejected
from tests.support.gpu_host import LARGE, SMALL, uuid_of, with_gpus, with_nvidia_smi
from worker.fleet.gpu_wish import GpuWish, GpuWishType, choose_gpus
from worker.fleet.gpus import Gpu, list_gpus, visible_gpus

MIB = 1024**2
MIG_LIST = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5d3c4f1a-6d13-4f4c-a9f2-0a1f4c6d7e80)
  MIG 3g.40gb     Device  0: (UUID: MIG-7089d0f3-293f-58c9-8f8c-5ea3f5a8c9b1)
  MIG 1c.4g.40gb  Device  1: (UUID: MIG-56c30729-347f-5dd6-8da0-c3cc59e969e0)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-9c1b2d3e-0000-4f4c-a9f2-0a1f4c6d7e81)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-9c1b2d3e-1111-4f4c-a9f2-0a1f4c6d7e82)"""
MIG_QUERY = """\
GPU-5d3c4f1a-6d13-4f4c-a9f2-0a1f4c6d7e80, 81920, 550.90.07, 8.0, Enabled
GPU-9c1b2d3e-0000-4f4c-a9f2-0a1f4c6d7e81, 81920, 550.90.07, 8.0, Disabled
GPU-9c1b2d3e-1111-4f4c-a9f2-0a1f4c6d7e82, 81920, 550.90.07, 8.0, Enabled"""
FOUR = [Gpu(str(n), uuid_of(n), "NVIDIA L4") for n in range(4)]


def put_on_path(path: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path["PATH"])


def ids(gpus: list[Gpu]) -> list[str]:
    return [gpu.id for gpu in gpus]


def wish(text: str) -> GpuWish:
    return GpuWishType().convert(text, None, None)


def test_each_gpu_has_number_uuid_name_memory_driver_and_compute_capability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(with_gpus(tmp_path, [LARGE, SMALL]), monkeypatch)
    large, small = list_gpus()
    assert large == Gpu("0", uuid_of(0), "NVIDIA H100 80GB HBM3", 81559 * MIB, "570.133.20", (9, 0))
    assert (small.id, small.uuid, small.compute_capability) == ("1", uuid_of(1), (8, 9))


def test_a_gpu_in_mig_mode_is_there_as_its_devices_and_not_at_all_while_it_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(with_nvidia_smi(tmp_path, list_says=MIG_LIST, query_says=MIG_QUERY), monkeypatch)
    gpus = list_gpus()
    assert ids(gpus) == ["0:0", "0:1", "1"]
    assert gpus[0].uuid == "MIG-7089d0f3-293f-58c9-8f8c-5ea3f5a8c9b1"
    assert gpus[1].name == "NVIDIA A100-SXM4-80GB MIG 1c.4g.40gb"
    assert gpus[0].memory_bytes == 40 * 10**9
    assert gpus[0].compute_capability == (8, 0)
    assert gpus[2].memory_bytes == 81920 * MIB


def test_what_an_old_driver_does_not_know_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = f"GPU 0: Tesla T4 (UUID: {uuid_of(0)})"
    unknown = 'Field "mig.mode.current" is not a valid field to query.'
    put_on_path(with_nvidia_smi(tmp_path, list_says=listed, query_says=unknown), monkeypatch)
    assert list_gpus() == [Gpu("0", uuid_of(0), "Tesla T4")]
    partly = f"{uuid_of(0)}, [N/A], 470.82.01, [Not Supported], [N/A]"
    put_on_path(with_nvidia_smi(tmp_path, list_says=listed, query_says=partly), monkeypatch)
    assert list_gpus() == [Gpu("0", uuid_of(0), "Tesla T4", driver="470.82.01")]


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.133", "reboot"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
            "NVIDIA driver is installed and running.",
            "install it again",
        ),
        ("Unable to determine the device handle for GPU0000:1B:00.0: Unknown Error", "Xid"),
        ("Failed to initialize NVML: Insufficient Permissions", "/dev/nvidia"),
    ],
)
def test_a_driver_that_does_not_work_is_told_in_its_own_words_with_what_to_do(
    said: str, todo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(with_nvidia_smi(tmp_path, list_says=said, code=18), monkeypatch)
    with pytest.raises(Rejected) as refused:
        list_gpus()
    assert refused.value.code == "driver_broken"
    assert said.splitlines()[0] in refused.value.message
    assert todo in refused.value.message


def test_no_driver_and_no_gpu_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Rejected, match="nvidia-smi is not here: install NVIDIA's driver"):
        list_gpus()
    put_on_path(with_nvidia_smi(tmp_path, list_says="No devices were found", code=6), monkeypatch)
    assert list_gpus() == []


def test_cuda_visible_devices_narrows_the_choice_by_number_uuid_or_its_first_digits() -> None:
    assert visible_gpus(FOUR, None) == FOUR
    assert ids(visible_gpus(FOUR, "2,1")) == ["2", "1"]
    assert ids(visible_gpus(FOUR, f"{uuid_of(3)}, GPU-00000001")) == ["3", "1"]
    assert visible_gpus(FOUR, "") == []
    assert ids(visible_gpus(FOUR, "1,-1,2")) == ["1"], "as CUDA does: what stands behind is hidden"
    mig = [Gpu("0:0", "MIG-a1", "m"), Gpu("0:1", "MIG-b2", "m"), Gpu("1", "GPU-c3", "g")]
    assert ids(visible_gpus(mig, "0")) == ["0:0", "0:1"]
    assert ids(visible_gpus(mig, "MIG-b2")) == ["0:1"]
    with pytest.raises(Rejected, match=r"CUDA_VISIBLE_DEVICES=0,7: there is no 7 here; there are 0 \(NVIDIA L4\)"):
        visible_gpus(FOUR, "0,7")


def test_all_a_number_or_a_list_of_gpus_can_be_asked_for() -> None:
    assert choose_gpus(wish("all"), FOUR) == FOUR
    assert ids(choose_gpus(wish("2"), FOUR)) == ["0", "1"]
    assert ids(choose_gpus(wish("0,2,3"), FOUR)) == ["0", "2", "3"]
    assert ids(choose_gpus(wish("2,"), FOUR)) == ["2"], "with a comma it is that one, not so many"
    assert ids(choose_gpus(wish(f"{uuid_of(1)},0"), FOUR)) == ["1", "0"]


def test_who_asks_for_what_is_not_there_is_told_what_is() -> None:
    with pytest.raises(Rejected, match=r"--gpus 2: so many are not here; there is 0 \(NVIDIA L4\)"):
        choose_gpus(wish("2"), FOUR[:1])
    with pytest.raises(Rejected, match=r"--gpus 0,7,9: 7, 9 is not here; there are 0 \(NVIDIA L4\), 1"):
        choose_gpus(wish("0,7,9"), FOUR)
    with pytest.raises(Rejected, match=r"--gpus all: there is no GPU .* leave --gpus away to fill on the CPU"):
        choose_gpus(wish("all"), [])


@pytest.mark.parametrize("text", ["", "0", "-1", "some", "0,,1", "1.5", "0 1", "all,0", "0,1,0"])
def test_what_is_no_choice_of_gpus_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        wish(text)
