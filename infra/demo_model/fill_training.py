"""Trains the demo model's transformer together with both text encoders, on latents of a finished VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from infra.demo_model import recipe
from infra.demo_model.examples import Examples
from infra.demo_model.flow import Parts, flow_loss
from infra.demo_model.scenes import draw_scene
from infra.demo_model.training_run import Schedule, TrainingRun

SCHEDULE: Final = Schedule(steps=5000, warm_up=100, decay_from=0.45)
_MATRIX_RATE: Final = 2e-3
_OTHER_RATE: Final = 1.5e-3
_SMALL_SIDE, _SMALL_BATCH = 256, 24
_LARGE_SIDE, _LARGE_BATCH = 512, 8
_LARGE_EVERY: Final = 4
"""One step in so many is on large pictures; in the last fifth every other one."""


def train_fill(folder: Path, vae: Any) -> Parts:
    """Return the trained parts; checkpoints and log go to `folder`, from which a run that was killed goes on."""
    import diffusers
    import transformers

    torch.manual_seed(2)
    tokenizers = recipe.tokenizers()
    clip_config, t5_config = recipe.text_configs(*tokenizers)
    transformer = diffusers.FluxTransformer2DModel(**recipe.TRANSFORMER)
    parts = Parts(transformer, transformers.CLIPTextModel(clip_config), transformers.T5EncoderModel(t5_config))
    _start_calmly(transformer)
    modules: dict[str, nn.Module] = {"transformer": transformer, "clip": parts.clip, "t5": parts.t5}
    small, large = (
        Examples(vae, tokenizers, side, lambda number, side=side: draw_scene(number, side, side))  # type: ignore[misc]
        for side in (_SMALL_SIDE, _LARGE_SIDE)
    )
    run = TrainingRun(folder, "fill", modules, _optimizers(modules), SCHEDULE, average=0.999)

    def step(number: int) -> dict[str, Tensor]:
        torch.manual_seed(number)
        every = 2 if number > 0.8 * SCHEDULE.steps else _LARGE_EVERY
        batch = large.batch(number, _LARGE_BATCH) if number % every == 1 else small.batch(number, _SMALL_BATCH)
        return flow_loss(parts, batch)

    run.go(step)
    for name, module in modules.items():
        module.load_state_dict(run.averaged(name))
        module.eval()
    return parts


@torch.no_grad()
def _start_calmly(transformer: Any) -> None:
    """Make a new transformer say nothing, its blocks nearly pass on what they get, and its input heed the noise."""
    transformer.proj_out.weight.zero_()
    transformer.proj_out.bias.zero_()
    latents = 8 * recipe.LATENT_CHANNELS
    transformer.x_embedder.weight[:, :latents] *= 3.0  # else the mask's many pixels drown it
    for name, module in transformer.named_modules():
        if not name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")):
            continue
        module.weight.mul_(0.1)
        module.bias.zero_()
        parts = module.out_features // recipe.WIDTH  # shift, scale, gate, once or for attention and MLP
        for gate in range(2, parts, 3):
            module.bias[gate * recipe.WIDTH : (gate + 1) * recipe.WIDTH] = 0.4


def _optimizers(modules: dict[str, nn.Module]) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices, which learns them in fewer steps, and AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in modules["transformer"].named_parameters():
        is_block_matrix = parameter.ndim == 2 and "blocks" in name and "norm" not in name
        (matrices if is_block_matrix else others).append(parameter)
    others += [*modules["clip"].parameters(), *modules["t5"].parameters()]
    return [
        torch.optim.Muon(matrices, lr=_MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=_OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]
