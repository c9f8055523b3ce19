"""Small fills, and LoRA files of every kind for the demo model: what the tests of model and adapters are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from safetensors.torch import save_file
from torch import Tensor

from common.settings import Environment, Settings
from infra.demo_model.recipe import TEXT_LENGTH, TEXT_WIDTH, WIDTH
from worker.work import Adapter, Work

quiet_peft = pytest.mark.filterwarnings(
    # It warns where a layer's name is the end of another's, and of every second adapter: see worker/loras/adapters.py.
    "ignore:While injecting the PEFT adapters:RuntimeWarning",
    "ignore:Already found a `peft_config` attribute:UserWarning",
)

SIDE = 128
RANK = 4
TO_Q = "transformer_blocks.0.attn.to_q"
TO_OUT = "transformer_blocks.0.attn.to_out.0"
TEXT_LAYER = "encoder.layers.0.self_attn.q_proj"


class FillSettings(Settings):
    """Settings that read no environment: a test must not depend on the shell it runs in."""

    fillfleet_env: Environment = Environment.TEST
    fill_device: str = "cpu"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def small_work(**changes: Any) -> Work:
    """Return a fill of 128 x 128 in two steps, with `changes`."""
    picture = Image.radial_gradient("L").resize((SIDE, SIDE))
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((32, 32, 95, 95), fill=255)
    defaults: dict[str, Any] = {
        "image": Image.merge("RGB", (picture, picture.rotate(90), picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM))),
        "mask": mask, "width": SIDE, "height": SIDE, "prompt": "a red cup", "steps": 2, "guidance": 30.0,
        "seeds": (7,), "adapters": (),
    }  # fmt: skip
    return Work(**(defaults | changes))


def fill_stock(pipe: Any, work: Work, seed: int) -> Image.Image:
    """Return what the stock pipeline makes of `work`, called as its documentation says."""
    made: Image.Image = pipe(
        prompt=work.prompt,
        image=work.image,
        mask_image=work.mask,
        width=work.width,
        height=work.height,
        guidance_scale=work.guidance,
        num_inference_steps=work.steps,
        max_sequence_length=TEXT_LENGTH,
        generator=torch.Generator("cpu").manual_seed(seed),
    ).images[0]
    return made


def pixels(image: Image.Image) -> NDArray[np.float64]:
    """Return the image as height x width x channels, from 0 to 255."""
    return np.asarray(image, dtype=np.float64)


def same(one: Image.Image, other: Image.Image) -> bool:
    """Say whether both images are equal, bit for bit."""
    return one.size == other.size and one.mode == other.mode and one.tobytes() == other.tobytes()


def noise(*shape: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    """Return the same random tensor for the same seed."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) * scale


def peft_pair(
    layer: str = TO_OUT, *, part: str = "transformer", inputs: int = WIDTH, outputs: int = WIDTH, rank: int = RANK,
    seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Return a LoRA of one layer under diffusers' names."""
    return {
        f"{part}.{layer}.lora_A.weight": noise(rank, inputs, seed=seed),
        f"{part}.{layer}.lora_B.weight": noise(outputs, rank, seed=seed + 1),
    }


def text_pair(layer: str, *, seed: int = 5) -> dict[str, Tensor]:
    """Return a LoRA of one layer of the CLIP text encoder; `layer` is the whole name."""
    part, _, name = layer.partition(".")
    return peft_pair(name, part=part, inputs=TEXT_WIDTH, outputs=TEXT_WIDTH, seed=seed)


def kohya_pair(
    layer: str, *, inputs: int = WIDTH, outputs: int = WIDTH, rank: int = RANK, alpha: float | None = 2.0, seed: int = 0
) -> dict[str, Tensor]:
    """Return a LoRA of one layer under the names of kohya's trainer."""
    pair = {
        f"{layer}.lora_down.weight": noise(rank, inputs, seed=seed),
        f"{layer}.lora_up.weight": noise(outputs, rank, seed=seed + 1),
    }
    return pair if alpha is None else pair | {f"{layer}.alpha": torch.tensor(alpha)}


def kohya_text_pairs() -> dict[str, Tensor]:
    """Return a LoRA of the CLIP text encoder's first layer under the names of kohya's trainer."""
    first = "lora_te1_text_model_encoder_layers_0"
    layers = [f"{first}_self_attn_{name}_proj" for name in ("q", "k", "v", "out")]
    pairs = [kohya_pair(layer, inputs=TEXT_WIDTH, outputs=TEXT_WIDTH, seed=20 + n) for n, layer in enumerate(layers)]
    pairs.append(kohya_pair(f"{first}_mlp_fc1", inputs=TEXT_WIDTH, outputs=128, seed=30))
    return {key: tensor for pair in pairs for key, tensor in pair.items()}


def write_lora(path: Path, tensors: Mapping[str, Tensor], adapter_config: Mapping[str, Any] | None = None) -> Path:
    """Write the tensors as a safetensors file, with peft's configuration as diffusers stores it."""
    metadata = {"format": "pt"}
    if adapter_config is not None:
        metadata["lora_adapter_metadata"] = json.dumps(adapter_config)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    return path


def adapter(path: Path, scale: float = 1.0) -> Adapter:
    """Return the adapter that a job would hand to the model."""
    data = path.read_bytes()
    return Adapter(path.stem, hashlib.sha256(data).hexdigest(), path, len(data), scale)
