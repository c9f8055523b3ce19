"""LoRAs in a compiled transformer: nothing is compiled anew, images are as good as stock's, the base is the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from common.errors import Rejected
from infra.demo_model.recipe import WIDTH
from tests.support.fills import (
    TEXT_LAYER,
    TO_OUT,
    TO_Q,
    FillSettings,
    adapter,
    kohya_pair,
    kohya_text_pairs,
    peft_pair,
    quiet_peft,
    small_work,
    text_pair,
    write_lora,
)
from worker.loras.adapters import Adapters
from worker.loras.slot import SlotLayers
from worker.model import FluxFillModel, load_model
from worker.work import Adapter

pytestmark = quiet_peft

RANK = 16
CLOSE_DB = 120.0
"""How near to stock the numbers stay that make the image, in float32: adding zeros of a wider product rounds elsewhere.
An 8-bit image of one level's difference everywhere has 48 dB."""

KOHYA = kohya_pair("lora_unet_double_blocks_0_img_attn_proj", alpha=3.0)
FILES: Mapping[str, Mapping[str, Tensor]] = {
    "plain": peft_pair(TO_OUT, seed=1) | peft_pair(TO_Q, seed=5),
    "wide": peft_pair(TO_Q, rank=12, seed=11) | {f"transformer.{TO_Q}.alpha": torch.tensor(3.0)},
    "dev": peft_pair("x_embedder", inputs=64, seed=21) | peft_pair("proj_out", outputs=64, seed=23),
    "words": KOHYA | kohya_text_pairs(),
    "text": text_pair(f"text_encoder.{TEXT_LAYER}"),
}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """LoRAs of other layers, ranks, alphas and formats."""
    folder = tmp_path_factory.mktemp("slot")
    return {name: write_lora(folder / f"{name}.safetensors", tensors) for name, tensors in FILES.items()}


@pytest.fixture(scope="module")
def warm() -> Iterator[FluxFillModel]:
    """The demo model, its blocks compiled for all sizes, warmed up as a worker does it.

    The "eager" backend runs what was traced as it is: what is traced anew, and when, is the same with every backend.
    """
    torch._dynamo.reset()
    model = load_model(FillSettings())
    model._pipe.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, backend="eager")
    model._adapters = Adapters(model._pipe, model._base, model._settings, slot_rank=RANK)
    for _ in model._adapters.variants():
        _picture(model)
    yield model
    torch._dynamo.reset()


@pytest.fixture
def compiled(warm: FluxFillModel) -> Iterator[FluxFillModel]:
    """That model, without adapters before and after."""
    yield warm
    warm._adapters.keep_only(())


@pytest.fixture
def plain(fill_model: FluxFillModel) -> Iterator[FluxFillModel]:
    """The shared model, which is not compiled, without adapters before and after."""
    yield fill_model
    fill_model._adapters.keep_only(())


def _picture(model: FluxFillModel, *adapters: Adapter) -> Tensor:
    return model.run(model.prepare(small_work(adapters=adapters)), lambda _: None).pictures[0]


def _layers(model: FluxFillModel) -> SlotLayers:
    layers = model._adapters._layers
    assert isinstance(layers, SlotLayers)
    return layers


def _db(one: Tensor, other: Tensor) -> float:
    error = float(((one.double() - other.double()) ** 2).mean())
    return 200.0 if error == 0 else -10 * float(torch.tensor(error).log10())


def _graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    "wanted",
    [
        {"plain": 1.0},
        {"plain": 0.25},
        {"plain": -1.5},
        {"wide": 0.8},
        {"dev": 1.0},
        {"words": 0.7},
        {"text": 1.0},
        {"plain": 0.5, "wide": 1.5},
        {"words": 0.7, "plain": 0.3, "dev": 1.0},
    ],
    ids=lambda wanted: "+".join(f"{scale}*{name}" for name, scale in wanted.items()),
)
def test_a_swap_compiles_nothing_and_gives_what_stock_gives(
    wanted: Mapping[str, float], compiled: FluxFillModel, plain: FluxFillModel, loras: Mapping[str, Path]
) -> None:
    adapters = [adapter(loras[name], scale) for name, scale in wanted.items()]
    expected, base = _picture(plain, *adapters), _picture(compiled)
    before = _graphs()

    made = _picture(compiled, *adapters)

    assert _graphs() == before > 0
    assert _db(made, expected) >= CLOSE_DB
    assert _db(made, base) < 60, "it does something"
    assert torch.equal(_picture(compiled), base)
    assert _graphs() == before


def test_the_base_beside_a_slot_is_the_base_bit_for_bit(
    compiled: FluxFillModel, plain: FluxFillModel, loras: Mapping[str, Path]
) -> None:
    never = _picture(plain)

    assert torch.equal(_picture(compiled), never)
    _picture(compiled, *(adapter(path) for path in loras.values()))
    assert torch.equal(_picture(compiled), never)
    assert torch.equal(_picture(compiled, adapter(loras["plain"], 0.0)), never)


def test_the_same_lora_gives_the_same_image_whatever_was_in_the_slot(
    compiled: FluxFillModel, loras: Mapping[str, Path]
) -> None:
    first = _picture(compiled, adapter(loras["plain"]))
    for between in ("wide", "dev", "words", "text"):
        _picture(compiled, adapter(loras[between]))
        assert torch.equal(_picture(compiled, adapter(loras["plain"])), first)


def test_what_stays_resident_is_within_its_bound(loras: Mapping[str, Path]) -> None:
    model = load_model(FillSettings(lora_resident_bytes=2 * 2 * 4 * WIDTH * 4))  # the two pairs of "plain"
    model._adapters = Adapters(model._pipe, model._base, model._settings, slot_rank=RANK)
    first = _picture(model, adapter(loras["plain"]))
    assert model.resident == {adapter(loras["plain"]).sha256}

    for name in ("words", "text"):
        _picture(model, adapter(loras[name]))
    assert adapter(loras["plain"]).sha256 not in model.resident
    assert torch.equal(_picture(model, adapter(loras["plain"])), first)


def test_more_rank_than_the_slot_has_is_refused_in_words(
    compiled: FluxFillModel, loras: Mapping[str, Path], tmp_path: Path
) -> None:
    never = _picture(compiled)
    more = write_lora(tmp_path / "more.safetensors", peft_pair(TO_Q, rank=5, seed=31))

    with pytest.raises(Rejected, match="have rank 17 together; at most 16") as caught:
        _picture(compiled, adapter(loras["wide"]), adapter(more))

    assert caught.value.code == "lora_rank_too_large"
    assert torch.equal(_picture(compiled), never)


def test_a_swap_that_fails_half_way_leaves_the_base_as_it_was(
    compiled: FluxFillModel, loras: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    never, first, other = (
        _picture(compiled, *adapters) for adapters in ((), [adapter(loras["plain"])], [adapter(loras["wide"])])
    )
    _picture(compiled, adapter(loras["plain"]))
    graphs = _graphs()

    with monkeypatch.context() as patch:
        patch.setitem(_layers(compiled)._slot, "z_last", object())  # every other layer has been written by then
        with pytest.raises(AttributeError):
            _picture(compiled, adapter(loras["wide"]))
        assert torch.equal(_picture(compiled), never)

    assert torch.equal(_picture(compiled, adapter(loras["plain"])), first)
    assert torch.equal(_picture(compiled, adapter(loras["wide"])), other)
    assert torch.equal(_picture(compiled), never)
    assert _graphs() == graphs


def test_a_load_that_fails_leaves_slot_and_base_as_they_were(
    compiled: FluxFillModel, loras: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    never, words, first = (
        _picture(compiled, *adapters) for adapters in ((), [adapter(loras["words"])], [adapter(loras["plain"])])
    )
    compiled._adapters.keep_only({adapter(loras["plain"]).sha256})
    graphs = _graphs()

    def fail(*_: Any) -> None:
        raise ValueError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(SlotLayers, "_pair", fail)  # the text encoder has its part by then
        with pytest.raises(Rejected) as caught:
            _picture(compiled, adapter(loras["words"]))

    assert caught.value.code == "lora_does_not_load"
    assert compiled.resident == frozenset()
    assert torch.equal(_picture(compiled), never)
    assert torch.equal(_picture(compiled, adapter(loras["plain"])), first)
    assert torch.equal(_picture(compiled, adapter(loras["words"])), words)
    assert _graphs() == graphs
