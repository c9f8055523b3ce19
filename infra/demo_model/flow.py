"""What the transformer learns: at each noise level, the way from noise to the picture that should be there.

Levels near pure noise get more than their share, since there it is decided which shape goes where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from infra.demo_model.examples import Batch

_HIGH_SHARE: Final = 0.35
_HIGH_FROM: Final = 0.85
_KNOWN_WEIGHT: Final = 0.1
"""What the mask leaves alone is pasted back anyway; a little weight keeps edges in register."""
_MEAN_WEIGHT: Final = 0.5


@dataclass(frozen=True)
class Parts:
    """The parts of the pipeline that a prompt and noise go through."""

    transformer: Any
    clip: Any
    t5: Any

    def velocity(self, batch: Batch, noisy: Tensor, level: Tensor, guidance: Tensor) -> Tensor:
        """Return what the transformer says: B x tokens x numbers, noise minus picture."""
        texts = self.t5(batch.t5)[0]
        said: Tensor = self.transformer(
            hidden_states=torch.cat((noisy, batch.known, batch.hole), dim=2),
            timestep=level,
            guidance=guidance,
            pooled_projections=self.clip(batch.clip).pooler_output,
            encoder_hidden_states=texts,
            txt_ids=torch.zeros(texts.shape[1], 3),
            img_ids=batch.places,
            return_dict=False,
        )[0]
        return said


def flow_loss(parts: Parts, batch: Batch) -> dict[str, Tensor]:
    """Return the loss over random noise and levels, and the part of it at high levels. Draws from torch's generator."""
    size = len(batch.wanted)
    noise = torch.randn_like(batch.wanted)
    level = torch.where(
        torch.rand(size) < _HIGH_SHARE,
        1 - (1 - _HIGH_FROM) * torch.rand(size),
        torch.sigmoid(torch.randn(size) * 1.1 + 0.3),
    )
    at = level[:, None, None]
    guidance = torch.empty(size).uniform_(20, 40)
    with torch.autocast("cpu", torch.bfloat16):
        said = parts.velocity(batch, at * noise + (1 - at) * batch.wanted, level, guidance)
    error = said.float() - (noise - batch.wanted)
    filled = batch.hole.mean(dim=2, keepdim=True)
    weight = torch.where(filled > 0, 1.0, _KNOWN_WEIGHT)
    square = (error.pow(2).mean(dim=2, keepdim=True) * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))
    mean = (error * filled).sum(dim=1) / filled.sum(dim=1).clamp_min(1)  # the fill's mean colour, above all
    loss = square + _MEAN_WEIGHT * mean.pow(2).mean(dim=1)
    high = level > _HIGH_FROM
    figures = {"loss": loss.mean(), "square": square.mean(), "mean": mean.pow(2).mean()}
    if bool(high.any()):
        figures["high"] = square[high].mean()
    return figures
