"""Trains the demo model's VAE on crops of scenes, so that its latents survive noise and its edges are clean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from infra.demo_model.recipe import VAE
from infra.demo_model.scenes import TRAINING_SEEDS, Scene, draw_scene
from infra.demo_model.shapes import Pixels
from infra.demo_model.training_run import Schedule, TrainingRun
from infra.demo_model.vae_start import start_from_components

SCHEDULE: Final = Schedule(steps=2000, warm_up=60, decay_from=0.35)
_RATE: Final = 1.6e-3
_ENCODER_RATE: Final = 0.5e-3
_ENCODER_WAITS: Final = 200
"""Steps that the decoder has to catch up with the encoder's start before that moves."""
_CROP: Final = 128
_SCENES, _CROPS = 4, 4
_MASKED_SHARE: Final = 0.3
_LATENT_NOISE: Final = 0.25


def train_vae(folder: Path) -> Any:
    """Return the trained VAE; checkpoints and log go to `folder`, from which a run that was killed goes on."""
    import diffusers

    torch.manual_seed(1)
    vae = diffusers.AutoencoderTiny(**VAE)
    start_from_components(vae, torch.cat([crops(-1 - n) for n in range(24)]))
    vae = vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        [{"params": vae.decoder.parameters(), "lr": _RATE}, {"params": vae.encoder.parameters(), "lr": _ENCODER_RATE}],
        betas=(0.9, 0.98),
        weight_decay=1e-3,
    )
    run = TrainingRun(folder, "vae", {"vae": vae}, [optimizer], SCHEDULE, average=0.995)

    def step(number: int) -> dict[str, Tensor]:
        vae.encoder.requires_grad_(number >= _ENCODER_WAITS)
        torch.manual_seed(number)
        pictures = crops(number)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(pictures).latents
            noise = torch.rand(len(latents), 1, 1, 1) * _LATENT_NOISE * torch.randn_like(latents)
            made = vae.decode(latents + noise).sample
        figures = picture_loss(pictures, made.float(), edge_weight=0.3)
        # Latents near a standard deviation of 1: the noise they are mixed with has just that.
        size = latents.float().pow(2).mean()
        return figures | {"loss": figures["loss"] + 0.003 * (size - 1).pow(2), "size": size}

    run.go(step)
    vae.load_state_dict(run.averaged("vae"))
    return vae.eval()


def picture_loss(pictures: Tensor, made: Tensor, *, edge_weight: float) -> dict[str, Tensor]:
    """Return the loss of decoded crops, and their peak signal-to-noise ratio in dB."""
    error = made - pictures
    edges = sum((made.diff(dim=dim) - pictures.diff(dim=dim)).abs().mean() for dim in (2, 3))
    square = error.pow(2).mean()
    loss = error.abs().mean() + 2 * square + 0.5 * avg_pool2d(error, 4).abs().mean() + edge_weight * edges
    return {"loss": loss, "db": 10 * (4 / square).log10()}


def crops(number: int, *, sides: Sequence[int] = (256,)) -> Tensor:
    """Return the crops of one step: N x 3 x 128 x 128, from -1 to 1, some with the grey that masks leave."""
    random = np.random.default_rng(abs(number) + (1 << 40) * (number < 0))
    pictures = []
    for n in range(_SCENES):
        side = sides[n % len(sides)]
        scene = draw_scene(int(random.integers(TRAINING_SEEDS)), side, side)
        for _ in range(_CROPS):
            x, y = random.integers(0, side - _CROP + 1, 2)
            picture = _masked(scene) if random.uniform() < _MASKED_SHARE else scene.truth
            pictures.append(picture[y : y + _CROP, x : x + _CROP])
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) * 2 - 1
    return stacked.contiguous(memory_format=torch.channels_last)


def _masked(scene: Scene) -> Pixels:
    return np.where(scene.mask[..., None], np.float32(0.5), scene.truth)
