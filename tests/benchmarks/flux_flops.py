"""How many floating-point operations a fill takes with FLUX.1 Fill [dev], counted on the real configuration.

The model is built on the meta device: every operation is dispatched with its real shapes, and nothing is computed. So a
count says nothing of seconds, and is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

TEXT_TOKENS: Final = 512
TOKEN: Final = 16
"""A token's side in pixels."""
_TRANSFORMER: Final[dict[str, Any]] = {
    "patch_size": 1,
    "in_channels": 384,
    "out_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
"""transformer/config.json of black-forest-labs/FLUX.1-Fill-dev."""
_VAE: Final[dict[str, Any]] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""vae/config.json of the same."""


@dataclass(frozen=True)
class Flops:
    """Of one picture."""

    steps: int
    """Of the transformer, all steps."""
    vae: int
    """One encode, of the masked picture, and the decode."""

    @property
    def total(self) -> int:
        """All that is counted. Text encoders are not: a prompt is encoded once however large the canvas is."""
        return self.steps + self.vae


def fill_flops(width: int, height: int, steps: int) -> Flops:
    """Return what a fill of so many pixels takes; both sides are multiples of 16."""
    return Flops(steps * _step((width // TOKEN) * (height // TOKEN)), _vae(width, height))


def count_step(tokens: int) -> int:
    """Return what flux_transformer() takes for one step on so many image tokens, with what hooks it at that time."""
    model = flux_transformer()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(
            hidden_states=torch.empty(1, tokens, _TRANSFORMER["in_channels"]),
            encoder_hidden_states=torch.empty(1, TEXT_TOKENS, _TRANSFORMER["joint_attention_dim"]),
            pooled_projections=torch.empty(1, _TRANSFORMER["pooled_projection_dim"]),
            timestep=torch.empty(1),
            guidance=torch.empty(1),
            img_ids=torch.empty(tokens, 3),
            txt_ids=torch.empty(TEXT_TOKENS, 3),
        )
    return int(counter.get_total_flops())


@cache
def _step(tokens: int) -> int:
    return count_step(tokens)


@cache
def _vae(width: int, height: int) -> int:
    model = _autoencoder()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encode(torch.empty(1, 3, height, width))
        model.decode(torch.empty(1, _VAE["latent_channels"], height // 8, width // 8))
    return int(counter.get_total_flops())


@cache
def flux_transformer() -> Any:
    """Return the transformer, without weights; always the same one."""
    with torch.device("meta"):
        return FluxTransformer2DModel(**_TRANSFORMER).eval()


@cache
def _autoencoder() -> Any:
    with torch.device("meta"):
        return AutoencoderKL(**_VAE).eval()
