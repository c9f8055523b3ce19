"""Which LoRA files pass, and how each of the others is turned away before it touches the model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import Rejected
from common.settings import Settings
from infra.demo_model.recipe import WIDTH
from tests.support.fills import (
    RANK,
    TEXT_LAYER,
    TO_OUT,
    TO_Q,
    FillSettings,
    kohya_pair,
    kohya_text_pairs,
    noise,
    peft_pair,
    text_pair,
    write_lora,
)
from worker.loras.base_shapes import BaseShapes
from worker.loras.file import Layer, VerifiedLora, verify_lora

TOKEN = 64 + 64 + 4 * 16 * 16
"""Inputs of the demo model's x_embedder: noise, masked image and mask."""


@pytest.fixture(scope="module")
def base(model_folder: Path) -> BaseShapes:
    return BaseShapes.of_folder(model_folder)


def _verify(path: Path, base: BaseShapes, settings: Settings | None = None) -> VerifiedLora:
    return verify_lora(path, base, settings or FillSettings(), what="loras[0].path: this file")


def _layers(verified: VerifiedLora, part: str = "transformer") -> dict[str, Layer]:
    return dict(verified.layers[part])


def test_shapes_from_the_configuration_equal_those_of_the_loaded_model(base: BaseShapes, stock: Any) -> None:
    assert BaseShapes.of_pipeline(stock) == base
    assert base.transformer["x_embedder"] == (WIDTH, TOKEN)
    assert base.noise_width == 64


XLABS = {
    "double_blocks.0.processor.proj_lora1.down.weight": noise(RANK, WIDTH),
    "double_blocks.0.processor.proj_lora1.up.weight": noise(WIDTH, RANK),
    "double_blocks.1.processor.qkv_lora2.down.weight": noise(RANK, WIDTH),
    "double_blocks.1.processor.qkv_lora2.up.weight": noise(3 * WIDTH, RANK),
}


@pytest.mark.parametrize(
    ("tensors", "layers"),
    [
        (peft_pair(TO_Q) | peft_pair("proj_out", outputs=64), {TO_Q: Layer(4, None), "proj_out": Layer(4, None)}),
        (peft_pair(TO_Q) | {f"transformer.{TO_Q}.alpha": torch.tensor(8.0)}, {TO_Q: Layer(4, 8.0)}),
        (kohya_pair("lora_unet_double_blocks_0_img_attn_proj"), {TO_OUT: Layer(4, None)}),
        (kohya_pair("lora_unet_double_blocks_0_img_attn_proj", alpha=None), {TO_OUT: Layer(4, None)}),
        (
            kohya_pair("lora_unet_double_blocks_0_img_attn_qkv", outputs=3 * WIDTH),
            {f"transformer_blocks.0.attn.to_{n}": Layer(4, None) for n in "qkv"},
        ),
        (kohya_pair("lora_transformer_transformer_blocks_0_attn_to_q"), {TO_Q: Layer(4, None)}),
        (kohya_pair("diffusion_model.double_blocks.0.img_attn.proj"), {TO_OUT: Layer(4, None)}),
        (
            XLABS,
            {TO_OUT: Layer(4, None)}
            | {f"transformer_blocks.1.attn.add_{n}_proj": Layer(4, None) for n in "qkv"},
        ),
        (
            {key: value.to(torch.bfloat16) for key, value in peft_pair(TO_Q, rank=1).items()},
            {TO_Q: Layer(1, None)},
        ),
    ],
    ids=["peft", "peft-alpha", "kohya", "kohya-no-alpha", "kohya-qkv", "mixture", "comfy", "xlabs", "bfloat16"],
)  # fmt: skip
def test_known_formats_pass(
    tensors: Mapping[str, Tensor], layers: dict[str, Layer], base: BaseShapes, tmp_path: Path
) -> None:
    verified = _verify(write_lora(tmp_path / "a.safetensors", tensors), base)

    assert _layers(verified) == layers
    assert all(key.startswith("transformer.") for key in verified.state)


def test_kohyas_layer_of_single_blocks_passes_for_the_real_model_alone(base: BaseShapes, tmp_path: Path) -> None:
    real = BaseShapes(
        {f"single_transformer_blocks.0.attn.to_{n}": (3072, 3072) for n in "qkv"}
        | {"single_transformer_blocks.0.proj_mlp": (12288, 3072)},
        {},
        64,
    )
    tensors = kohya_pair("lora_unet_single_blocks_0_linear1", inputs=3072, outputs=3 * 3072 + 12288)
    path = write_lora(tmp_path / "a.safetensors", tensors)

    assert len(_layers(_verify(path, real))) == 4
    with pytest.raises(Rejected) as caught:
        _verify(path, base)
    assert caught.value.code == "lora_does_not_fit"


@pytest.mark.parametrize(
    "tensors",
    [
        peft_pair() | text_pair(f"text_encoder.{TEXT_LAYER}"),
        peft_pair() | text_pair(f"text_encoder.text_model.{TEXT_LAYER}"),
        kohya_pair("lora_unet_double_blocks_0_img_attn_proj") | kohya_text_pairs(),
    ],
    ids=["flat", "text_model", "kohya"],
)
def test_layers_of_the_clip_text_encoder_are_found(
    tensors: dict[str, Tensor], base: BaseShapes, tmp_path: Path
) -> None:
    verified = _verify(write_lora(tmp_path / "a.safetensors", tensors), base)

    assert TEXT_LAYER in _layers(verified, "text_encoder")
    assert all(name.startswith("encoder.layers.0.") for name in _layers(verified, "text_encoder"))
    assert list(_layers(verified)) == [TO_OUT]


SILENT = {
    "is a LoKr": {f"transformer.{TO_Q}.lokr_w1": noise(4, 4), f"transformer.{TO_Q}.lokr_w2": noise(40, 40)},
    "is a LoHa": {f"lora_unet_{n}.hada_{n}": noise(4, 4) for n in ("w1_a", "w1_b", "w2_a", "w2_b")},
    "is a DoRA": peft_pair() | {f"transformer.{TO_OUT}.lora_magnitude_vector": noise(WIDTH)},
    "a DoRA": kohya_pair("lora_unet_double_blocks_0_img_attn_proj")
    | {"lora_unet_double_blocks_0_img_attn_proj.dora_scale": noise(WIDTH, 1)},
    "Stable Diffusion": peft_pair("down_blocks.0.attentions.0.to_q", part="unet"),
    "lack the prefix": {key.removeprefix("transformer."): value for key, value in peft_pair().items()},
    "ComfyUI's names": peft_pair("double_blocks.0.img_attn.proj", part="diffusion_model"),
    "original FLUX names": peft_pair("0.img_attn.proj", part="double_blocks"),
    "the T5 text encoder": peft_pair() | peft_pair("encoder.block.0.q", part="text_encoder_2", inputs=64, outputs=64),
    "T5 text encoder": kohya_pair("lora_unet_double_blocks_0_img_attn_proj")
    | kohya_pair("text_encoders.t5xxl.transformer.encoder.block.0.q", inputs=64, outputs=64),
    "another model": {"model.layers.0.weight": noise(4, 4)},
    "no part of a plain LoRA": peft_pair() | {f"transformer.{TO_OUT}.lora_B.bias": noise(WIDTH)},
    "control LoRA": peft_pair() | {"transformer.transformer_blocks.0.attn.norm_q.weight": noise(32)},
    "OFT": {"lora_unet_x.oft_blocks": noise(4, 4)},
    "middle layer": kohya_pair("lora_unet_x") | {"lora_unet_x.lora_mid.weight": noise(4, 4)},
    "not known": peft_pair("transformer_blocks.0.attn.to_q", part="base_model.model"),
    "only one half": {f"transformer.{TO_Q}.lora_A.weight": noise(4, WIDTH)},
}


@pytest.mark.parametrize("kind", SILENT)
def test_what_diffusers_would_drop_without_a_word_is_refused_and_named(
    kind: str, base: BaseShapes, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "a.safetensors", SILENT[kind])

    with pytest.raises(Rejected, match=kind) as caught:
        _verify(path, base)

    assert caught.value.code == "lora_unsupported"
    assert caught.value.message.startswith("loras[0].path: this file ")


def test_dropped_tensors_that_are_all_zero_do_no_harm(base: BaseShapes, tmp_path: Path) -> None:
    zero = {
        key: torch.zeros_like(value)
        for key, value in kohya_pair("text_encoders.t5xxl.transformer.encoder.block.0.q", alpha=None).items()
    }
    path = write_lora(tmp_path / "a.safetensors", kohya_pair("lora_unet_double_blocks_0_img_attn_proj") | zero)

    assert list(_layers(_verify(path, base))) == [TO_OUT]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (peft_pair(TO_Q, inputs=WIDTH + 64), f"from {WIDTH + 64} inputs"),
        (peft_pair(TO_Q, outputs=WIDTH + 64), f"to {WIDTH + 64} outputs"),
        (peft_pair(TO_Q, inputs=64), "from 64 inputs"),
        (peft_pair("x_embedder", inputs=TOKEN + 64), "from 1216 inputs"),
        (peft_pair("x_embedder", inputs=65), "from 65 inputs"),
        (peft_pair("proj_out", inputs=3072, outputs=64), "from 3072 inputs"),
        (peft_pair("transformer_blocks.18.attn.to_q"), "does not have"),
        (peft_pair("transformer_blocks.0.attn.nothing"), "does not have"),
        (peft_pair("transformer_blocks.0.attn"), "does not have"),
        (peft_pair(TO_Q) | {f"transformer.{TO_Q}.lora_B.weight": noise(WIDTH, 8)}, "rank 4 and 8"),
        (peft_pair(TEXT_LAYER, part="text_encoder", inputs=768, outputs=768), "from 768 inputs"),
        (kohya_pair("lora_unet_double_blocks_0_img_attn_proj", inputs=3072, outputs=3072), "from 3072 inputs"),
    ],
)
def test_what_is_for_another_model_does_not_fit(
    tensors: Mapping[str, Tensor], reason: str, base: BaseShapes, tmp_path: Path
) -> None:
    with pytest.raises(Rejected, match=reason) as caught:
        _verify(write_lora(tmp_path / "a.safetensors", tensors), base)

    assert caught.value.code == "lora_does_not_fit"


def test_a_lora_for_flux_dev_fits_although_its_x_embedder_is_narrower(base: BaseShapes, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", peft_pair("x_embedder", inputs=64))

    assert _layers(_verify(path, base)) == {"x_embedder": Layer(4, None)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(
    value: float, dtype: torch.dtype, base: BaseShapes, tmp_path: Path
) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in peft_pair().items()}
    tensors[f"transformer.{TO_OUT}.lora_B.weight"][5, 1] = value

    with pytest.raises(Rejected, match="not finite") as caught:
        _verify(write_lora(tmp_path / "a.safetensors", tensors), base)

    assert caught.value.code == "lora_not_finite"


def test_the_limits_of_the_settings_hold(base: BaseShapes, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", peft_pair(rank=9))

    with pytest.raises(Rejected, match="rank 9; at most 8"):
        _verify(path, base, FillSettings(lora_max_rank=8))
    with pytest.raises(Rejected, match="at most 1024"):
        _verify(path, base, FillSettings(lora_max_bytes=1024))


@pytest.mark.parametrize("shape", [(2,), (1, 1), (2, 2)])
def test_an_alpha_must_be_one_number(shape: tuple[int, ...], base: BaseShapes, tmp_path: Path) -> None:
    tensors = peft_pair() | {f"transformer.{TO_OUT}.alpha": torch.ones(shape)}

    with pytest.raises(Rejected, match="not a single number"):
        _verify(write_lora(tmp_path / "a.safetensors", tensors), base)


def test_alphas_are_taken_from_the_metadata_that_diffusers_writes(base: BaseShapes, tmp_path: Path) -> None:
    config = {
        "transformer.r": 4,
        "transformer.lora_alpha": 2,
        "transformer.alpha_pattern": {"proj_out": 16},
        "transformer.target_modules": ["to_q", "proj_out"],
    }
    path = write_lora(tmp_path / "a.safetensors", peft_pair(TO_Q) | peft_pair("proj_out", outputs=64), config)

    assert _layers(_verify(path, base)) == {TO_Q: Layer(4, 2.0), "proj_out": Layer(4, 16.0)}


def test_metadata_whose_alpha_is_the_rank_changes_nothing(base: BaseShapes, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", peft_pair(), {"transformer.r": 4, "transformer.lora_alpha": 4})

    assert set(_verify(path, base).state) == set(peft_pair())


@pytest.mark.parametrize(
    "config",
    [
        {"transformer.lora_alpha": 4, "transformer.use_dora": True},
        {"transformer.lora_alpha": 4, "transformer.use_rslora": True},
        {"transformer.lora_alpha": 4, "transformer.modules_to_save": ["proj_out"]},
        {"transformer.lora_alpha": "4"},
        {"transformer.lora_alpha": 1e300},
        {"transformer.lora_alpha": True},
        {"transformer.r": 4},
        {"transformer.lora_alpha": 4, "transformer.alpha_pattern": {"(a+)+$": 4}},
        {"transformer.lora_alpha": 4, "transformer.alpha_pattern": ["to_q"]},
        ["transformer.lora_alpha"],
    ],
)
def test_metadata_that_asks_for_more_than_a_plain_lora_is_refused(
    config: Any, base: BaseShapes, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "a.safetensors", peft_pair(), config)

    with pytest.raises(Rejected) as caught:
        _verify(path, base)

    assert caught.value.code == "lora_unsupported"


def test_fields_of_the_metadata_that_could_import_code_never_reach_peft(base: BaseShapes, tmp_path: Path) -> None:
    config = {"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.megatron_core": "antigravity"}
    verified = _verify(write_lora(tmp_path / "a.safetensors", peft_pair(), config), base)

    assert set(verified.state) == set(peft_pair())  # tensors alone: loading them takes no configuration


def test_a_damaged_file_is_refused(base: BaseShapes, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", peft_pair())
    path.write_bytes(path.read_bytes()[:-7])

    with pytest.raises(Rejected, match="truncated") as caught:
        _verify(path, base)

    assert caught.value.code == "lora_not_safetensors"


def test_a_large_lora_is_checked_in_seconds(base: BaseShapes, tmp_path: Path) -> None:
    real = BaseShapes({f"transformer_blocks.{n}.attn.to_q": (3072, 3072) for n in range(19)}, {}, 64)
    tensors: dict[str, Tensor] = {}
    for block in range(19):
        tensors |= peft_pair(f"transformer_blocks.{block}.attn.to_q", inputs=3072, outputs=3072, rank=64)
    path = write_lora(tmp_path / "a.safetensors", tensors)
    began = time.process_time()

    assert _verify(path, real).rank == 64
    assert time.process_time() - began < 5
