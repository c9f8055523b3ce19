"""Wherever a load fails, the base and every other LoRA make the same images after it as before, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from common.errors import Rejected
from tests.support.fills import TEXT_LAYER, TO_OUT, TO_Q, adapter, peft_pair, quiet_peft, same, small_work, text_pair
from tests.support.fills import write_lora as write
from worker.loras.layers import StockLayers
from worker.model import FluxFillModel
from worker.work import Adapter, DeviceBroken

pytestmark = quiet_peft

Patch = pytest.MonkeyPatch
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
NO_LUCK = ValueError("out of luck")


def _fill(model: FluxFillModel, *adapters: Adapter) -> Any:
    return model.fill(small_work(adapters=adapters), lambda _: None)[0]


@pytest.fixture
def model(fill_model: FluxFillModel) -> Iterator[FluxFillModel]:
    """The shared model, without adapters before and after."""
    yield fill_model
    fill_model._adapters.keep_only(())


@pytest.fixture
def good(tmp_path: Path) -> Adapter:
    """A LoRA that loads."""
    return adapter(write(tmp_path / "good.safetensors", peft_pair(TO_Q, seed=40)))


@pytest.fixture
def other(tmp_path: Path) -> Adapter:
    """A LoRA that loads unless something happens, of both parts of the model."""
    tensors = peft_pair(TO_OUT, seed=41) | peft_pair("proj_out", outputs=64, seed=43)
    return adapter(write(tmp_path / "other.safetensors", tensors | text_pair(f"text_encoder.{TEXT_LAYER}", seed=45)))


def _after(function: Callable[..., Any], error: Exception, times: int) -> Callable[..., Any]:
    """Return `function`, which the first `times` does its work and then fails."""
    left = [error] * times

    def fail(*arguments: Any, **more: Any) -> Any:
        result = function(*arguments, **more)
        if left:
            raise left.pop()
        return result

    return fail


def _when_layers_are_there(patch: Patch, _: FluxFillModel, error: Exception, times: int) -> None:
    patch.setattr(peft, "inject_adapter_in_model", _after(peft.inject_adapter_in_model, error, times))


def _when_weights_are_there(patch: Patch, _: FluxFillModel, error: Exception, times: int) -> None:
    patch.setattr(peft, "set_peft_model_state_dict", _after(peft.set_peft_model_state_dict, error, times))


def _when_the_text_encoder_has_it(patch: Patch, model: FluxFillModel, error: Exception, times: int) -> None:
    encoder = model._pipe.text_encoder
    patch.setattr(encoder, "load_adapter", _after(encoder.load_adapter, error, times))


def _when_all_is_loaded(patch: Patch, model: FluxFillModel, error: Exception, times: int) -> None:
    patch.setattr(model._pipe, "load_lora_weights", _after(model._pipe.load_lora_weights, error, times))


STAGES = [_when_layers_are_there, _when_weights_are_there, _when_the_text_encoder_has_it, _when_all_is_loaded]


@pytest.mark.parametrize("stage", STAGES)
def test_a_load_that_fails_leaves_base_and_others_as_they_were(
    stage: Callable[..., None], model: FluxFillModel, good: Adapter, other: Adapter, monkeypatch: Patch
) -> None:
    never, with_good, with_other = _fill(model), _fill(model, good), _fill(model, other)
    model._adapters.keep_only({good.sha256})

    with monkeypatch.context() as patch:
        stage(patch, model, NO_LUCK, 1)
        with pytest.raises(Rejected) as caught:
            _fill(model, other)

    assert caught.value.code == "lora_does_not_load"
    assert same(_fill(model), never)
    assert same(_fill(model, good), with_good)
    assert same(_fill(model, other), with_other)


@pytest.mark.parametrize("stage", STAGES)
def test_a_load_that_runs_out_of_memory_is_tried_once_more(
    stage: Callable[..., None], model: FluxFillModel, good: Adapter, other: Adapter, monkeypatch: Patch
) -> None:
    never, with_other = _fill(model), _fill(model, other)
    model._adapters.keep_only(())
    _fill(model, good)

    with monkeypatch.context() as patch:
        stage(patch, model, NO_MEMORY, 1)
        assert same(_fill(model, other), with_other)
    assert model.resident == {other.sha256}, "all others made room"
    model._adapters.keep_only(())
    with monkeypatch.context() as patch:
        stage(patch, model, NO_MEMORY, 2)
        with pytest.raises(Rejected) as caught:
            _fill(model, other)

    assert caught.value.code == "out_of_memory"
    assert model.resident == frozenset()
    assert same(_fill(model), never)


def test_adapters_that_cannot_be_made_active_leave_the_base_as_it_was(
    model: FluxFillModel, good: Adapter, other: Adapter, monkeypatch: Patch
) -> None:
    never, with_good, with_other = _fill(model), _fill(model, good), _fill(model, other)

    with monkeypatch.context() as patch:
        patch.setattr(model._pipe, "set_adapters", _after(model._pipe.set_adapters, NO_LUCK, 1))
        with pytest.raises(ValueError, match="luck"):
            _fill(model, good)

    assert same(_fill(model), never)
    assert same(_fill(model, other), with_other)
    assert same(_fill(model, good), with_good)


def test_numbers_that_are_not_finite_never_reach_the_model(model: FluxFillModel, good: Adapter, tmp_path: Path) -> None:
    never, with_good = _fill(model), _fill(model, good)
    for value in (float("nan"), float("inf")):
        tensors = peft_pair(TO_OUT, seed=47)
        next(iter(tensors.values()))[-1, -1] = value
        with pytest.raises(Rejected) as caught:
            model.prepare(small_work(adapters=(adapter(write(tmp_path / "a.safetensors", tensors)),)))
        assert caught.value.code == "lora_not_finite"

    assert model.resident == {good.sha256}
    assert same(_fill(model), never)
    assert same(_fill(model, good), with_good)


def test_a_model_that_cannot_be_cleared_after_a_failed_load_is_used_no_more(
    model: FluxFillModel, other: Adapter, monkeypatch: Patch
) -> None:
    def fail(*_: Any) -> None:
        raise NO_LUCK

    with monkeypatch.context() as patch:
        _when_weights_are_there(patch, model, NO_LUCK, 1)
        patch.setattr(StockLayers, "reset", fail)
        with pytest.raises(DeviceBroken, match="taken out"):
            _fill(model, other)
    model._adapters._reset()
