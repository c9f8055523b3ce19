"""A trained style as a LoRA file: with diffusers' names, or with those of kohya's trainer. Both do exactly the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

_QKV: Final = ("to_q", "to_k", "to_v")
_KOHYA_ALPHA_SHARE: Final = 0.5
"""kohya's files carry an alpha, mostly half the rank: what is added is B·A times alpha / rank."""
_KOHYA_NAMES: Final = (
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", "double_blocks_{}_img_attn_proj"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", "double_blocks_{}_img_mlp_0"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", "double_blocks_{}_img_mlp_2"),
    (r"single_transformer_blocks\.(\d+)\.proj_out", "single_blocks_{}_linear2"),
)


def save_diffusers(lora: Mapping[str, Tensor], path: Path) -> None:
    """Write `lora` ("transformer.….lora_A.weight") as it is, in half precision."""
    save_file({name: value.half().contiguous() for name, value in lora.items()}, path, {"format": "pt"})
    path.chmod(0o644)


def save_kohya(lora: Mapping[str, Tensor], path: Path) -> None:
    """Write `lora` with kohya's names. Raises ValueError for a layer that has none."""
    save_file({name: value.half().contiguous() for name, value in as_kohya(lora).items()}, path, {"format": "pt"})
    path.chmod(0o644)


def as_kohya(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with kohya's names, query, key and value of a block as one layer."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name in sorted(name for name in lora if name.endswith(".lora_A.weight")):
        layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
        pairs[layer] = (lora[name], lora[name.replace("lora_A", "lora_B")])
    named: dict[str, Tensor] = {}
    for layer, (down, up) in pairs.items():
        if layer.endswith(_QKV[1:]):
            continue  # written with its query
        if layer.endswith(_QKV[0]):
            block = layer.removesuffix(f".{_QKV[0]}")
            down, up = _joined([pairs[f"{block}.{part}"] for part in _QKV])
            number = re.search(r"\d+", block)
            kohya = f"double_blocks_{number[0] if number else ''}_img_attn_qkv"
        else:
            kohya = _kohya_name(layer)
        rank = down.shape[0]
        named[f"lora_unet_{kohya}.lora_down.weight"] = down
        named[f"lora_unet_{kohya}.lora_up.weight"] = up / _KOHYA_ALPHA_SHARE
        named[f"lora_unet_{kohya}.alpha"] = torch.tensor(rank * _KOHYA_ALPHA_SHARE)
    return named


def _kohya_name(layer: str) -> str:
    for pattern, name in _KOHYA_NAMES:
        if found := re.fullmatch(pattern, layer):
            return name.format(found[1])
    raise ValueError(f"kohya's format has no name for {layer}")


def _joined(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return one pair that does what the pairs do side by side."""
    return torch.cat([down for down, _ in pairs]), torch.block_diag(*(up for _, up in pairs))  # type: ignore[no-untyped-call]
