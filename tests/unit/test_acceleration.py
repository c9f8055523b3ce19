"""Profiles in effect: numbers, attention, tiles and where parts lie; `exact` is not touched by any of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import Rejected
from common.fill_profile import Offload
from tests.support.accelerated import STEPS, THRESHOLD, fill, ignore, load, load_cached, long_work, psnr, whole_steps
from tests.support.fills import adapter, fill_stock, peft_pair, quiet_peft, same, write_lora
from worker.acceleration.attention import attend_with
from worker.acceleration.placement import place
from worker.model import FluxFillModel

pytestmark = quiet_peft


# --- quantization


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
