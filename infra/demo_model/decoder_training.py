"""Sharpens the VAE's decoder once all else is trained: the encoder, and with it what latents mean, stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from infra.demo_model.training_run import Schedule, TrainingRun
from infra.demo_model.vae_training import crops, picture_loss

SCHEDULE: Final = Schedule(steps=700, warm_up=40, decay_from=0.3)
_RATE: Final = 1e-3
_LATENT_NOISE: Final = 0.08
"""About as far as finished fills lie from what the encoder would have said."""
_NUMBERS_FROM: Final = 1 << 20
"""Crops that the VAE's own training did not see."""


def train_decoder(folder: Path, vae: Any) -> Any:
    """Return `vae` with a decoder trained further; checkpoints and log go to `folder`."""
    vae = vae.to(memory_format=torch.channels_last).train()
    vae.encoder.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    run = TrainingRun(folder, "decoder", {"decoder": vae.decoder}, [optimizer], SCHEDULE, average=0.995)

    def step(number: int) -> dict[str, Tensor]:
        torch.manual_seed(number)
        pictures = crops(_NUMBERS_FROM + number, sides=(256, 512))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(pictures).latents
            noise = torch.rand(len(latents), 1, 1, 1) * _LATENT_NOISE * torch.randn_like(latents)
            made = vae.decode(latents + noise).sample
        return picture_loss(pictures, made.float(), edge_weight=0.6)

    run.go(step)
    vae.decoder.load_state_dict(run.averaged("decoder"))
    return vae.eval()
