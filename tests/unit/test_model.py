"""The fill model: its images equal stock diffusers' bit for bit, and nothing that goes wrong outlasts its job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import SecretStr

import worker.model_folder
from common.errors import Cancelled, Rejected, Transient
from common.settings import Environment, Settings
from tests.support.fills import (
    TO_OUT,
    FillSettings,
    adapter,
    fill_stock,
    peft_pair,
    pixels,
    quiet_peft,
    same,
    small_work,
    write_lora,
)
from worker.device_errors import is_device_broken, is_out_of_memory
from worker.model import FluxFillModel, load_model
from worker.model_folder import find_model, find_shapes
from worker.work import DeviceBroken

pytestmark = quiet_peft


def _ignore(_: str) -> None:
    pass


@pytest.mark.parametrize("prompt", ["a red cup", "", "überall 🙂 " * 700])
def test_the_output_equals_stock_diffusers_bit_for_bit(prompt: str, fill_model: FluxFillModel, stock: Any) -> None:
    work = small_work(prompt=prompt, steps=3, guidance=12.5)

    assert same(fill_model.fill(work, _ignore)[0], fill_stock(stock, work, 7))


def test_image_i_equals_the_solo_run_with_its_seed(fill_model: FluxFillModel) -> None:
    together = fill_model.fill(small_work(seeds=(41, 42, 43)), _ignore)
    alone = [fill_model.fill(small_work(seeds=(seed,)), _ignore)[0] for seed in (41, 42, 43)]

    assert all(same(one, other) for one, other in zip(together, alone, strict=True))
    assert len({image.tobytes() for image in together}) == 3


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**63 - 1])
def test_any_seed_works(seed: int, fill_model: FluxFillModel) -> None:
    assert fill_model.fill(small_work(seeds=(seed,), steps=1), _ignore)[0].mode == "RGB"


@pytest.mark.parametrize("size", [(144, 128), (128, 112), (16, 16), (208, 176)])
def test_sizes_between_whole_tokens_come_out_as_asked(size: tuple[int, int], fill_model: FluxFillModel) -> None:
    picture = Image.new("RGB", size, (200, 60, 40))
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 2, 0, *size))

    made = fill_model.fill(
        small_work(image=picture, mask=mask, width=size[0], height=size[1], prompt="", steps=4), _ignore
    )[0]

    assert made.size == size
    if size[0] > 16:  # the known half keeps its place and, roughly, its colour
        assert pixels(made)[: size[1] // 2, : size[0] // 4].mean(axis=(0, 1)).argmax() == 0


def test_it_tells_of_each_step_and_each_decode(fill_model: FluxFillModel) -> None:
    ticks: list[str] = []

    fill_model.fill(small_work(steps=3, seeds=(1, 2)), ticks.append)

    assert ticks == ["step", "step", "step", "decode", "decode"] * 2


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_cancel_ends_it_at_once_and_the_next_run_is_bit_identical(at: int, fill_model: FluxFillModel) -> None:
    before = fill_model.fill(small_work(), _ignore)[0]
    ticks: list[str] = []

    def cancel(what: str) -> None:
        ticks.append(what)
        if len(ticks) == at:
            raise Cancelled

    with pytest.raises(Cancelled):
        fill_model.fill(small_work(seeds=(7, 8)), cancel)

    assert len(ticks) == at
    assert same(fill_model.fill(small_work(), _ignore)[0], before)


def test_the_next_job_is_the_same_whatever_ran_before(fill_model: FluxFillModel) -> None:
    before = fill_model.fill(small_work(), _ignore)[0]
    other = small_work(steps=5, prompt="blue", guidance=2.0, image=small_work().image.rotate(180), seeds=(3,))
    fill_model.fill(other, _ignore)

    assert same(fill_model.fill(small_work(), _ignore)[0], before)


def test_another_thread_than_the_one_that_loaded_it_gets_the_same_image(fill_model: FluxFillModel) -> None:
    here = fill_model.fill(small_work(), _ignore)[0]
    there: list[Image.Image] = []
    thread = threading.Thread(target=lambda: there.extend(fill_model.fill(small_work(), _ignore)))
    thread.start()
    thread.join()

    assert same(there[0], here)


def test_numbers_that_overflow_fail_the_job_and_not_the_next(fill_model: FluxFillModel, tmp_path: Path) -> None:
    before = fill_model.fill(small_work(), _ignore)[0]
    wild = {key: value * 1e25 for key, value in peft_pair(TO_OUT).items()}
    wild |= {key: value * 1e25 for key, value in peft_pair("proj_out", outputs=64).items()}
    path = write_lora(tmp_path / "wild.safetensors", wild)

    with pytest.raises(Rejected, match="smaller LoRA scales") as caught:
        fill_model.fill(small_work(adapters=(adapter(path),)), _ignore)

    fill_model._adapters.keep_only(())
    assert caught.value.code == "not_finite"
    assert same(fill_model.fill(small_work(), _ignore)[0], before)


def test_check_adapter_names_the_field_and_reads_a_file_once(
    fill_model: FluxFillModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_lora(tmp_path / "good.safetensors", peft_pair())
    wide = write_lora(tmp_path / "wide.safetensors", peft_pair(TO_OUT, inputs=224))
    fill_model.check_adapter(good, "loras[0].path")
    with monkeypatch.context() as patch:
        patch.delattr("worker.loras.prepared.verify_lora")
        fill_model.check_adapter(good, "loras[0].path")

    with pytest.raises(Transient, match=r"^loras\[2\]\.path: .* fetched again"):
        fill_model.check_adapter(tmp_path / "gone.safetensors", "loras[2].path")
    with pytest.raises(Rejected, match=r"^loras\[1\]\.path: this file changes"):
        fill_model.check_adapter(wide, "loras[1].path")
    assert fill_model.resident == frozenset()


class _Gpu:
    """A pipeline on a GPU that is not there: the first calls fail as a GPU fails, later ones run on the CPU."""

    def __init__(self, pipe: Any, *failures: Exception) -> None:
        self._pipe = pipe
        self._failures = list(failures)
        self.log: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def __call__(self, **arguments: Any) -> Any:
        self.log.append("call")
        if self._failures:
            raise self._failures.pop(0)
        return self._pipe(**arguments)

    def enable_model_cpu_offload(self, device: torch.device) -> None:
        self.log.append(f"offload {device.type}")

    def remove_all_hooks(self) -> None:
        self.log.append("remove hooks")

    def to(self, device: torch.device) -> None:
        self.log.append(f"to {device.type}")


@pytest.fixture
def on_gpu(fill_model: FluxFillModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts the model's pipeline onto a GPU that fails with the given errors."""

    def put(*failures: Exception) -> _Gpu:
        gpu = _Gpu(fill_model._pipe, *failures)
        monkeypatch.setattr(fill_model, "_pipe", gpu)
        monkeypatch.setattr(fill_model, "_device", torch.device("cuda"))
        return gpu

    yield put
    monkeypatch.undo()
    fill_model._adapters.keep_only(())


def test_out_of_memory_once_gives_the_same_image_with_parts_moved_out(
    fill_model: FluxFillModel, on_gpu: Any, tmp_path: Path
) -> None:
    needed = adapter(write_lora(tmp_path / "needed.safetensors", peft_pair()))
    spare = adapter(write_lora(tmp_path / "spare.safetensors", peft_pair(seed=9)))
    work = small_work(adapters=(needed,), seeds=(7, 8))
    before = fill_model.fill(work, _ignore)
    fill_model.fill(replace(work, adapters=(spare,)), _ignore)
    gpu = on_gpu(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"))

    after = fill_model.fill(work, _ignore)

    assert [image.tobytes() for image in after] == [image.tobytes() for image in before]
    assert gpu.log == ["call", "offload cuda", "call", "call", "remove hooks", "to cuda"]
    assert fill_model.resident == {needed.sha256}  # what this job does not need made room


def test_out_of_memory_twice_fails_that_job_alone(fill_model: FluxFillModel, on_gpu: Any) -> None:
    before = fill_model.fill(small_work(), _ignore)[0]
    gpu = on_gpu(torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory"))

    with pytest.raises(Rejected, match=r"128x128 .* ask for a smaller size") as caught:
        fill_model.fill(small_work(), _ignore)

    assert caught.value.code == "out_of_memory"
    assert gpu.log[-2:] == ["remove hooks", "to cuda"]
    gpu.log.clear()
    assert same(fill_model.fill(small_work(), _ignore)[0], before)
    assert gpu.log == ["call"]  # the settings of the second try are gone


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        torch.AcceleratorError("unspecified launch failure"),
    ],
)
def test_a_sticky_error_breaks_the_device(error: Exception, fill_model: FluxFillModel, on_gpu: Any) -> None:
    on_gpu(error)

    with pytest.raises(DeviceBroken):
        fill_model.fill(small_work(), _ignore)


def test_a_sticky_error_in_the_second_try_breaks_the_device(fill_model: FluxFillModel, on_gpu: Any) -> None:
    on_gpu(torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: unspecified launch failure"))

    with pytest.raises(DeviceBroken):
        fill_model.fill(small_work(), _ignore)


def test_a_model_that_cannot_be_moved_back_breaks_the_device(
    fill_model: FluxFillModel, on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = on_gpu(torch.OutOfMemoryError("CUDA out of memory"))

    def fail(_: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "to", fail)

    with pytest.raises(DeviceBroken, match="moved back"):
        fill_model.fill(small_work(), _ignore)


def test_an_error_of_another_kind_is_neither(fill_model: FluxFillModel, on_gpu: Any) -> None:
    on_gpu(ValueError("a bug"))

    with pytest.raises(ValueError, match="a bug"):
        fill_model.fill(small_work(), _ignore)
    assert not is_device_broken(ValueError("CUDA error: in a message of ours"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))


def test_the_version_says_what_decides_the_last_bits(fill_model: FluxFillModel) -> None:
    version = fill_model.version

    assert version["model"] == "bundled"
    assert version["revision"].startswith("sha256:")
    assert (version["profile"], version["dtype"], version["device"]) == ("exact", "float32", "cpu")
    assert version["threads"] == str(torch.get_num_threads())
    assert version.keys() >= {"torch", "diffusers", "transformers", "peft", "attention"}


def test_dtype_and_threads_are_settings_and_part_of_the_version() -> None:
    threads = torch.get_num_threads()
    try:
        model = load_model(FillSettings(fill_dtype="bfloat16", worker_threads=1))
        assert (model.version["dtype"], model.version["threads"]) == ("bfloat16", "1")
        assert pixels(model.fill(small_work(), _ignore)[0]).std() > 5
    finally:
        torch.set_num_threads(threads)


def _copy(folder: Path, target: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(folder)).write_bytes(path.read_bytes())
    return target


def test_the_revision_of_a_folder_follows_its_parts_and_nothing_else(model_folder: Path, tmp_path: Path) -> None:
    copy = _copy(model_folder, tmp_path / "copy")
    settings = FillSettings(fill_model=str(copy))
    revision = find_model(settings).revision
    assert revision == find_model(FillSettings()).revision
    (copy / "README.md").write_text("other words")
    assert find_model(settings).revision == revision

    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80?")

    assert find_model(settings).revision != revision


def test_a_snapshot_of_the_hub_is_known_by_its_commit(model_folder: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_bytes((model_folder / "model_index.json").read_bytes())

    assert find_model(FillSettings(fill_model=str(snapshot))).revision == commit


def test_results_show_the_name_of_a_folder_and_not_where_it_lies(model_folder: Path, tmp_path: Path) -> None:
    copy = _copy(model_folder, tmp_path / "my-fill")

    assert load_model(FillSettings(fill_model=str(copy))).version["model"] == "my-fill"


def test_a_missing_demo_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.model_folder, "BUNDLED", tmp_path / "nothing")

    with pytest.raises(Rejected, match="install Fillfleet anew, or set FILL_MODEL"):
        load_model(FillSettings())


@pytest.mark.parametrize("name", ["/nowhere/at/all", "no-slash", "https://example.com/model", ""])
def test_a_model_that_is_nothing_known_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"must be `bundled`, a folder .* or a hub id"):
        find_model(FillSettings(fill_model=name or str(tmp_path)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A hub that answers every request with the status and headers that the test sets."""
    answer: dict[str, Any] = {"status": 200, "headers": {}, "tokens": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["tokens"].append(self.headers.get("Authorization"))
            self.send_response(answer["status"])
            for name, value in answer["headers"].items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("find", [find_model, find_shapes])
def test_a_gated_model_says_what_to_accept_and_to_set(find: Any, hub: dict[str, Any]) -> None:
    hub |= {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}

    with pytest.raises(Rejected, match="accept the model's licence on its page, and set HF_TOKEN") as caught:
        find(FillSettings(fill_model="black-forest-labs/FLUX.1-Fill-dev"))

    assert caught.value.code == "model_not_allowed"
    assert "127.0.0.1" not in caught.value.message


def test_a_model_that_the_hub_does_not_have_is_refused(hub: dict[str, Any]) -> None:
    hub |= {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}

    with pytest.raises(Rejected) as caught:
        find_model(FillSettings(fill_model="nobody/nothing", hf_token=SecretStr("hf_secret")))

    assert caught.value.code == "model_not_found"
    assert "hf_secret" not in caught.value.message
    assert "Bearer hf_secret" in hub["tokens"]


def test_a_hub_that_fails_is_tried_again(hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's own pauses between its tries
    hub["status"] = 503

    with pytest.raises(Transient) as caught:
        find_model(FillSettings(fill_model="someone/something"))

    assert caught.value.code == "hub_unavailable"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_said_in_words() -> None:
    with pytest.raises(Rejected, match="FILL_DEVICE=cuda:1, but torch sees no GPU"):
        load_model(Settings(fillfleet_env=Environment.TEST, fill_device="cuda:1"))
