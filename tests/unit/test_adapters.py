"""LoRAs in the model: each output equals what stock diffusers makes, and the base is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import Rejected, Transient
from infra.demo_model.recipe import WIDTH
from tests.support.fills import (
    TEXT_LAYER,
    TO_OUT,
    TO_Q,
    FillSettings,
    adapter,
    fill_stock,
    kohya_pair,
    kohya_text_pairs,
    peft_pair,
    quiet_peft,
    same,
    small_work,
    text_pair,
    write_lora,
)
from worker.model import FluxFillModel, load_model
from worker.work import Adapter

pytestmark = quiet_peft

KOHYA = kohya_pair("lora_unet_double_blocks_0_img_attn_proj", alpha=3.0)


def _fill(model: FluxFillModel, *adapters: Adapter, ticks: list[str] | None = None) -> Any:
    return model.fill(small_work(adapters=adapters), (ticks if ticks is not None else []).append)[0]


@pytest.fixture
def loras(tmp_path: Path) -> list[Path]:
    """Three LoRAs of the same size that change different layers in part."""
    return [
        write_lora(tmp_path / f"{n}.safetensors", peft_pair(TO_OUT, seed=10 * n) | peft_pair(TO_Q, seed=10 * n + 5))
        for n in range(3)
    ]


@pytest.fixture
def model(fill_model: FluxFillModel) -> Any:
    """The shared model, without adapters before and after."""
    yield fill_model
    fill_model._adapters.keep_only(())


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (peft_pair(TO_Q) | peft_pair("proj_out", outputs=64), None),
        (peft_pair(TO_Q, rank=2) | peft_pair(TO_OUT, rank=8), None),
        ({key: value.to(torch.bfloat16) for key, value in peft_pair().items()}, None),
        (peft_pair() | {f"transformer.{TO_OUT}.alpha": torch.tensor(2.0)}, None),
        (peft_pair(), {"transformer.r": 4, "transformer.lora_alpha": 12, "transformer.target_modules": [TO_OUT]}),
        (KOHYA, None),
        (peft_pair("x_embedder", inputs=64), None),
        (peft_pair() | text_pair(f"text_encoder.{TEXT_LAYER}"), None),
        (text_pair(f"text_encoder.text_model.{TEXT_LAYER}"), None),
        (KOHYA | kohya_text_pairs(), None),
    ],
    ids=["peft", "ranks", "bf16", "alpha", "metadata", "kohya", "dev", "text", "text-only", "kohya-text"],
)
def test_each_format_gives_what_stock_diffusers_gives(
    tensors: Mapping[str, Tensor], config: Any, model: FluxFillModel, stock: Any, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "a.safetensors", tensors, config)
    stock.load_lora_weights(path, adapter_name="it")
    stock.set_adapters(["it"], [0.75])

    made = _fill(model, adapter(path, 0.75))

    assert same(made, fill_stock(stock, small_work(), 7))
    assert not same(made, _fill(model))


def test_the_base_after_a_lora_is_the_base_before_it_bit_for_bit(model: FluxFillModel, loras: list[Path]) -> None:
    never = _fill(model)
    _fill(model, adapter(loras[0]))

    assert same(_fill(model), never)  # it is still resident, only not active
    assert model.resident == {adapter(loras[0]).sha256}
    model._adapters.keep_only(())
    assert same(_fill(model), never)
    assert model.resident == frozenset()


def test_a_scale_of_zero_is_the_base(model: FluxFillModel, loras: list[Path]) -> None:
    assert same(_fill(model, adapter(loras[0], 0.0)), _fill(model))


def test_loras_in_turns_each_give_their_own_image(fill_settings: Any, model: FluxFillModel, loras: list[Path]) -> None:
    alone = []
    for path in loras:
        alone.append(_fill(model, adapter(path)))
        model._adapters.keep_only(())

    for number in (0, 1, 2, 0, 2, 1):
        assert same(_fill(model, adapter(loras[number])), alone[number])
    assert len({image.tobytes() for image in alone}) == 3


def test_two_at_once_equal_stock_diffusers_whatever_else_is_resident(
    model: FluxFillModel, stock: Any, loras: list[Path]
) -> None:
    for name, path in zip("ab", loras, strict=False):
        stock.load_lora_weights(path, adapter_name=name)
    stock.set_adapters(["a", "b"], [0.5, 1.5])
    _fill(model, adapter(loras[2]))

    assert same(_fill(model, adapter(loras[0], 0.5), adapter(loras[1], 1.5)), fill_stock(stock, small_work(), 7))


def test_the_same_file_twice_counts_with_the_sum_of_its_scales(model: FluxFillModel, loras: list[Path]) -> None:
    twice = _fill(model, adapter(loras[0], 0.5), adapter(loras[0], 0.25))

    assert same(twice, _fill(model, adapter(loras[0], 0.75)))


def test_it_is_loaded_once_and_tells_when(model: FluxFillModel, loras: list[Path]) -> None:
    first: list[str] = []
    second: list[str] = []
    _fill(model, adapter(loras[0]), ticks=first)
    _fill(model, adapter(loras[0]), ticks=second)

    assert first.count("load") == 2
    assert "load" not in second


def test_what_was_not_used_for_longest_goes_first_when_the_budget_is_full(loras: list[Path]) -> None:
    shas = [adapter(path).sha256 for path in loras]
    bytes_each = 2 * 2 * 4 * WIDTH * 4
    model = load_model(FillSettings(lora_resident_bytes=2 * bytes_each + 2048))
    never = _fill(model)
    alone = _fill(model, adapter(loras[1]))
    _fill(model, adapter(loras[0]))
    assert model.resident == {shas[0], shas[1]}
    _fill(model, adapter(loras[1]))

    _fill(model, adapter(loras[2]))

    assert model.resident == {shas[1], shas[2]}
    assert same(_fill(model, adapter(loras[1])), alone)
    assert same(_fill(model), never)
    _fill(model, *(adapter(path) for path in loras))  # a job may need more than the budget
    assert model.resident == set(shas)


def test_text_encoder_loras_come_and_go_without_a_trace(model: FluxFillModel, tmp_path: Path) -> None:
    never = _fill(model)
    plain = write_lora(tmp_path / "plain.safetensors", peft_pair())
    worded = write_lora(tmp_path / "worded.safetensors", text_pair(f"text_encoder.{TEXT_LAYER}"))
    with_words = _fill(model, adapter(worded))

    with_plain = _fill(model, adapter(plain))
    model._adapters.keep_only({adapter(plain).sha256})
    assert same(_fill(model, adapter(plain)), with_plain)
    assert same(_fill(model), never)
    assert same(_fill(model, adapter(worded)), with_words)  # again after it was removed
    assert model._pipe.get_list_adapters()["text_encoder"] == [f"a{adapter(worded).sha256[:24]}"]


def test_a_load_that_fails_half_way_leaves_the_base_as_it_was(
    model: FluxFillModel, loras: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = _fill(model)
    resident = _fill(model, adapter(loras[1]))

    def fail(*_: Any, **__: Any) -> None:
        assert len(model._pipe.get_list_adapters()["transformer"]) == 2  # half of the work is done
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(type(model._pipe), "load_lora_into_text_encoder", fail)
        with pytest.raises(Rejected) as caught:
            _fill(model, adapter(loras[0]))

    assert caught.value.code == "lora_does_not_load"
    assert "luck" not in caught.value.message
    assert model.resident == frozenset()
    assert same(_fill(model), never)
    assert same(_fill(model, adapter(loras[1])), resident)


def test_a_file_that_diffusers_loads_in_part_is_refused(
    model: FluxFillModel, loras: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = _fill(model)
    load = model._pipe.load_lora_weights

    def load_in_part(state: dict[str, Tensor], **options: Any) -> None:
        load({key: value for key, value in state.items() if TO_Q in key}, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model._pipe, "load_lora_weights", load_in_part)
        with pytest.raises(Rejected, match="only in part"):
            _fill(model, adapter(loras[0]))
    with monkeypatch.context() as patch:
        patch.setattr(model._pipe, "load_lora_weights", lambda *_, **__: None)  # the silent no-op
        with pytest.raises(Rejected, match="only in part"):
            _fill(model, adapter(loras[0]))

    assert same(_fill(model), never)


def test_alphas_that_diffusers_would_mix_up_are_refused(model: FluxFillModel, tmp_path: Path) -> None:
    tensors = peft_pair("proj_out", outputs=64) | peft_pair(TO_Q) | peft_pair(TO_OUT)
    path = write_lora(tmp_path / "a.safetensors", tensors | {"transformer.proj_out.alpha": torch.tensor(16.0)})
    never = _fill(model)

    with pytest.raises(Rejected, match="give every layer an alpha") as caught:
        _fill(model, adapter(path))

    assert caught.value.code == "lora_unsupported"
    assert same(_fill(model), never)


def test_a_lora_that_does_not_fit_never_reaches_the_model(model: FluxFillModel, tmp_path: Path) -> None:
    never = _fill(model)
    wide = write_lora(tmp_path / "wide.safetensors", peft_pair(TO_Q, inputs=224))

    with pytest.raises(Rejected, match='the LoRA "wide" changes') as caught:
        _fill(model, adapter(wide))

    assert caught.value.code == "lora_does_not_fit"
    assert same(_fill(model), never)


def test_a_file_replaced_since_it_was_checked_is_refused(model: FluxFillModel, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", peft_pair(seed=301))
    checked = adapter(path)
    write_lora(path, peft_pair(seed=302))

    with pytest.raises(Rejected) as caught:
        _fill(model, checked)

    assert caught.value.code == "lora_changed"


def test_a_file_that_is_gone_is_fetched_again_by_a_retry(model: FluxFillModel, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", peft_pair(seed=303))
    checked = adapter(path)
    path.unlink()

    with pytest.raises(Transient) as caught:
        _fill(model, checked)

    assert caught.value.code == "lora_gone"
    assert str(path) not in caught.value.message


def test_what_tick_raises_during_a_load_passes_through(model: FluxFillModel, loras: list[Path]) -> None:
    never = _fill(model)

    class Stop(Exception):
        pass

    for after in (1, 2):
        calls = iter(range(1, 10))

        def tick(_: str, after: int = after, calls: Any = calls) -> None:
            if next(calls) == after:
                raise Stop

        with pytest.raises(Stop):
            model.fill(small_work(adapters=(adapter(loras[0]),)), tick)
        assert same(_fill(model), never)
