"""Profiles in effect: `fast` skips work and stays true to each job alone, and `exact` is not touched by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import Cancelled, Rejected
from common.fill_profile import Offload
from tests.support.fills import (
    SIDE,
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
from worker.acceleration.attention import attend_with
from worker.acceleration.compiling import compile_blocks, warm_up
from worker.acceleration.placement import place
from worker.model import FluxFillModel, load_model
from worker.profile import Compilation
from worker.work import Tick, Work

pytestmark = quiet_peft

STEPS = 12
THRESHOLD = 0.15
"""Wide enough that some of 12 steps are skipped even in a picture this small."""


def load(**settings: Any) -> FluxFillModel:
    return load_model(FillSettings(**settings))


def load_cached(**settings: Any) -> FluxFillModel:
    return load(fill_profile="fast", fill_step_cache_threshold=THRESHOLD, **settings)


def ignore(_: str) -> None:
    pass


def long_work(**changes: Any) -> Any:
    return small_work(**({"steps": STEPS} | changes))


def fill(model: FluxFillModel, **changes: Any) -> Image.Image:
    return model.fill(long_work(**changes), ignore)[0]


def whole_steps(model: FluxFillModel, **changes: Any) -> int:
    """Return how many steps of a fill come to the last block."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = model._pipe.transformer.single_transformer_blocks[-1].register_forward_pre_hook(count)
    try:
        fill(model, **changes)
    finally:
        hook.remove()
    return calls


def psnr(one: Image.Image, other: Image.Image) -> float:
    return float(10 * np.log10(255**2 / max(((pixels(one) - pixels(other)) ** 2).mean(), 1e-9)))


@pytest.fixture(scope="module")
def cached() -> FluxFillModel:
    """A model that caches steps; each test leaves it as it was."""
    return load_cached()


# --- step caching


def test_steps_are_skipped_and_the_picture_stays_near_exact(cached: FluxFillModel, fill_model: FluxFillModel) -> None:
    assert whole_steps(fill_model) == STEPS
    assert 4 <= whole_steps(cached) < STEPS

    one, exact = fill(cached), fill(fill_model)

    assert not same(one, exact)
    assert psnr(one, exact) > 25


def test_the_first_steps_are_always_whole() -> None:
    eager = load(fill_profile="fast", fill_step_cache_threshold=1.0, fill_step_cache_warmup_steps=7)

    assert whole_steps(eager) == 7
    assert whole_steps(eager, steps=5) == 5


def test_a_threshold_that_nothing_meets_gives_exactly_stocks_image(stock: Any) -> None:
    never = load(fill_profile="fast", fill_step_cache_threshold=1e-9)

    assert same(fill(never), fill_stock(stock, long_work(), 7))


def test_a_cached_job_is_the_same_whatever_ran_before(cached: FluxFillModel) -> None:
    alone = fill(cached)
    others: list[dict[str, Any]] = [
        {"prompt": "blue", "seeds": (3,)},
        {"steps": 3},
        {"steps": 20},
        {"image": Image.new("RGB", (SIDE, SIDE), "teal")},
    ]
    for other in others:
        fill(cached, **other)
        assert same(fill(cached), alone)


def test_a_cached_job_is_the_same_in_another_size_before_and_after(cached: FluxFillModel) -> None:
    alone = fill(cached)
    wide = {"image": Image.new("RGB", (192, 96), "teal"), "mask": Image.new("L", (192, 96), 255), "width": 192}

    fill(cached, **wide, height=96)

    assert same(fill(cached), alone)


def fail_at(tick: int, error: Exception) -> Callable[[str], None]:
    ticks = 0

    def fail(_: str) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == tick:
            raise error

    return fail


@pytest.mark.parametrize(
    ("tick", "error"), [(1, Cancelled()), (5, Cancelled()), (9, RuntimeError("a bug")), (STEPS + 1, Cancelled())]
)
def test_after_an_error_or_a_cancel_a_cached_job_is_what_it_is_alone(
    tick: int, error: Exception, cached: FluxFillModel
) -> None:
    alone = fill(cached)

    with pytest.raises(type(error)):
        cached.fill(long_work(prompt="blue", seeds=(9,)), fail_at(tick, error))

    assert same(fill(cached), alone)


def test_a_second_try_for_lack_of_memory_begins_with_nothing_cached(cached: FluxFillModel) -> None:
    alone = fill(cached)

    assert same(cached.fill(long_work(), fail_at(9, MemoryError()))[0], alone)


def test_each_image_of_a_cached_job_equals_the_solo_run_with_its_seed(cached: FluxFillModel) -> None:
    together = cached.fill(long_work(seeds=(41, 42)), ignore)

    assert all(same(one, fill(cached, seeds=(seed,))) for one, seed in zip(together, (41, 42), strict=True))


def test_a_lora_shows_under_caching_and_leaves_nothing_behind(cached: FluxFillModel, tmp_path: Path) -> None:
    before = fill(cached)
    lora = adapter(write_lora(tmp_path / "one.safetensors", peft_pair()))

    with_lora = fill(cached, adapters=(lora,))

    assert same(fill(cached, adapters=(lora,)), with_lora)
    assert psnr(with_lora, before) < 50
    assert same(fill(cached), before)


def test_each_model_of_a_process_has_its_own_caching_and_stock_has_none(
    cached: FluxFillModel, stock: Any, fill_model: FluxFillModel
) -> None:
    before = whole_steps(cached)
    strict = load(fill_profile="fast", fill_step_cache_threshold=1e-9)

    assert whole_steps(strict) == STEPS
    assert whole_steps(cached) == before
    assert same(fill(fill_model), fill_stock(stock, long_work(), 7))
    assert whole_steps(fill_model) == STEPS


def test_caching_writes_nothing_among_the_workers_own_lines(capfd: pytest.CaptureFixture[str]) -> None:
    model = load_cached()
    capfd.readouterr()  # our own lines, of loading
    fill(model)

    assert capfd.readouterr().out == ""
    assert logging.getLogger("cache_dit.caching.cache_interface").level >= logging.ERROR


# --- quantization


@pytest.fixture(scope="module")
def int8() -> FluxFillModel:
    """A model with weights of 8 bits and every step whole; each test leaves it as it was."""
    return load(fill_profile="fast", fill_step_cache=False, fill_quantization="int8")


def test_int8_weights_take_less_memory_and_fill_nearly_the_same(int8: FluxFillModel, fill_model: FluxFillModel) -> None:
    sizes = [
        sum(one.untyped_storage().nbytes() for one in _plain_tensors(model._pipe.transformer.parameters()))
        for model in (int8, fill_model)
    ]

    assert sizes[0] < 0.4 * sizes[1]  # of float32
    assert 25 < psnr(fill(int8), fill(fill_model)) < 90
    assert same(fill(int8), fill(int8))


def _plain_tensors(parameters: Iterator[Any]) -> Iterator[torch.Tensor]:
    for parameter in parameters:
        if hasattr(parameter, "qdata"):
            yield from (parameter.qdata, parameter.scale)
        else:
            yield parameter


def test_a_lora_shows_on_int8_weights_and_leaves_nothing_behind(int8: FluxFillModel, tmp_path: Path) -> None:
    before = fill(int8)
    lora = adapter(write_lora(tmp_path / "one.safetensors", peft_pair()))

    assert psnr(fill(int8, adapters=(lora,)), before) < 50
    assert same(fill(int8), before)


# --- compiling


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


# --- attention


def test_another_attention_is_this_models_alone(stock: Any, fill_model: FluxFillModel) -> None:
    before = fill_stock(stock, long_work(), 7)
    model = load()
    attend_with(model._pipe.transformer, "_native_math")

    backends = {
        getattr(module.processor, "_attention_backend", None)
        for module in model._pipe.transformer.modules()
        if hasattr(module, "processor")
    }
    assert backends == {"_native_math"}  # its enumeration is of text
    assert psnr(fill(model), before) > 40
    assert same(fill_stock(stock, long_work(), 7), before)
    assert same(fill(fill_model), before)


def test_attention_that_cannot_be_used_here_is_said_in_words(fill_model: FluxFillModel) -> None:
    with pytest.raises(Rejected, match="FILL_ATTENTION: sage cannot be used on this host"):
        attend_with(fill_model._pipe.transformer, "sage")


# --- where parts lie


def test_text_encoders_are_on_the_device_only_for_a_prompt_that_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    before = fill(model)
    model = load()
    moves: list[str] = []
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(model._pipe, name)
        monkeypatch.setattr(encoder, "to", lambda where, name=name: moves.append(f"{name} to {where}"))
    place(model._pipe, Offload.TEXT, torch.device("cpu", 0))
    at_rest = ["text_encoder to cpu", "text_encoder_2 to cpu"]
    there = ["text_encoder to cpu:0", "text_encoder_2 to cpu:0"]
    monkeypatch.setattr(type(model._pipe), "_execution_device", torch.device("cpu", 0))
    assert moves == at_rest
    moves.clear()

    assert same(fill(model), before)
    assert moves == there + at_rest
    moves.clear()
    fill(model, seeds=(8,))
    assert moves == []
    fill(model, prompt="another")
    assert moves == there + at_rest


def test_text_encoders_go_back_when_encoding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    place(model._pipe, Offload.TEXT, torch.device("cpu"))
    moves: list[str] = []
    monkeypatch.setattr(model._pipe.text_encoder_2, "to", lambda where: moves.append(str(where)))
    monkeypatch.setattr(model._pipe.text_encoder_2, "forward", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        fill(model)

    assert moves == ["cpu", "cpu"]


# --- the whole


def test_a_refusal_comes_before_the_model_is_even_looked_for() -> None:
    with pytest.raises(Rejected) as caught:
        load(fill_model="/nowhere/at/all", fill_quantization="int8")

    assert caught.value.code == "profile_is_exact"


def test_tiles_are_the_vaes_own_and_only_under_fast(fill_model: FluxFillModel) -> None:
    tiled = load(fill_profile="fast", fill_step_cache=False, fill_vae_tiling="on")

    assert tiled._pipe.vae.use_tiling
    assert not fill_model._pipe.vae.use_tiling
    assert not load_cached()._pipe.vae.use_tiling


@pytest.mark.parametrize(("profile", "is_tiled"), [("exact", False), ("fast", True)])
def test_a_second_try_for_lack_of_memory_works_in_tiles_under_fast_alone(
    profile: str, is_tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(fill_profile=profile, fill_offload="none")
    placed: list[str] = []
    monkeypatch.setattr("worker.model.place", lambda _pipe, offload, device: placed.append(f"{offload} {device}"))
    monkeypatch.setattr(model, "_device", torch.device("cuda"))

    with model._offloaded():
        assert model._pipe.vae.use_tiling is is_tiled
        assert placed == ["model cuda"]

    assert not model._pipe.vae.use_tiling
    assert placed == ["model cuda", "none cuda"]


def test_profiles_are_told_apart_by_the_version_and_name_the_libraries_that_they_use(
    cached: FluxFillModel, int8: FluxFillModel, fill_model: FluxFillModel
) -> None:
    versions = [model.version for model in (fill_model, cached, int8)]

    assert len({tuple(sorted(version.items())) for version in versions}) == 3
    assert versions[0].keys().isdisjoint({"step_cache", "quantization", "vae_tiling", "cache-dit", "torchao"})
    assert versions[1]["step_cache"] == f"TaylorSeer, threshold {THRESHOLD}, warm-up 4"
    assert {"cache-dit", "step_cache"} <= versions[1].keys()
    assert versions[2]["quantization"] == "int8"
    assert {"torchao"} <= versions[2].keys()
    assert {version["profile"] for version in versions[1:]} == {"fast"}


def test_several_accelerations_work_together(tmp_path: Path) -> None:
    model = load_cached(fill_quantization="int8")
    lora = adapter(write_lora(tmp_path / "one.safetensors", peft_pair()))
    before = fill(model)

    assert whole_steps(model) < STEPS
    assert psnr(fill(model, adapters=(lora,)), before) < 50
    assert same(fill(model), before)
    assert same(model.fill(replace(long_work(), seeds=(8, 7)), ignore)[1], before)
