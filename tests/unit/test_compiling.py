"""Compiling: once for all sizes, before the first job, with LoRAs and without, and in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from common.errors import Rejected
from tests.support.accelerated import fill, ignore, load, psnr
from tests.support.fills import adapter, peft_pair, quiet_peft, same, write_lora
from worker.acceleration.compiling import compile_blocks, warm_up
from worker.model import FluxFillModel
from worker.profile import Compilation
from worker.work import Tick, Work

pytestmark = quiet_peft


def test_blocks_are_compiled_once_for_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    model = load()
    exact = fill(model)
    compiled = []

    def backend(graph: Any, _inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compile_blocks(model._pipe.transformer, Compilation(tmp_path / "code", ()), backend=backend)
    warm_up(lambda work: model.fill(work, ignore), [(160, 128)])
    kinds = len(compiled)

    assert 2 <= kinds <= 4  # double and single blocks, of which the first may get its inputs in another form
    warm_up(lambda work: model.fill(work, ignore), [(96, 96)])
    assert psnr(fill(model), exact) > 60
    fill(model, image=Image.new("RGB", (64, 176)), mask=Image.new("L", (64, 176), 255), width=64, height=176)
    assert len(compiled) == kinds
    assert (tmp_path / "code").is_dir()
    torch._dynamo.reset()


def test_sizes_are_filled_before_the_first_job_with_loras_and_without_and_loras_fit_on_every_kind_of_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8: FluxFillModel
) -> None:
    wished: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _self, **how: wished.append(how))  # which takes minutes
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    warmed: list[tuple[int, int]] = []
    plain_fill = FluxFillModel.fill

    def watched_fill(model: FluxFillModel, work: Work, tick: Tick) -> list[Image.Image]:
        warmed.append(work.image.size)
        return plain_fill(model, work, tick)

    monkeypatch.setattr(FluxFillModel, "fill", watched_fill)
    model = load(
        fill_profile="fast", fill_step_cache=False, fill_quantization="int8", fill_compile=True,
        fill_compile_cache=tmp_path / "code", fill_compile_sizes="96*64,64*64",
    )  # fmt: skip

    blocks = model._pipe.transformer
    assert len(wished) == len(blocks.transformer_blocks) + len(blocks.single_transformer_blocks)
    assert all(how == {"fullgraph": True, "dynamic": True, "backend": "inductor"} for how in wished)
    assert warmed == [(96, 64), (64, 64)] * 2
    lora = adapter(write_lora(tmp_path / "one.safetensors", peft_pair()))
    before, with_lora = fill(model), fill(model, adapters=(lora,))
    assert psnr(with_lora, fill(int8, adapters=(lora,))) > psnr(with_lora, before) + 10
    assert same(fill(model), before)


@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_compiled_code_lies_in_no_folder_that_others_write_to(mode: int, tmp_path: Path, fill_model: Any) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(Rejected, match="can be written to by others") as caught:
        compile_blocks(fill_model._pipe.transformer, Compilation(folder, ()))

    assert caught.value.code == "profile_folder"


def test_a_folder_for_compiled_code_that_cannot_be_made_is_said_in_words(tmp_path: Path, fill_model: Any) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Rejected, match=r"FILL_COMPILE_CACHE=.* name another"):
        compile_blocks(fill_model._pipe.transformer, Compilation(tmp_path / "file" / "code", ()))
