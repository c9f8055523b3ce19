"""Batches of scenes as the transformer sees them: latents, masks and tokens, packed as FluxFillPipeline packs them.

Drawing and encoding a scene costs about as much as learning from it, so each is used a few times, always with other
noise. Nothing here is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from infra.demo_model.recipe import TEXT_LENGTH, VAE_SCALE
from infra.demo_model.scenes import TRAINING_SEEDS, Scene

_USES: Final = 3
_POOL: Final = 1024
_FURTHEST_PLACE: Final = 16


@dataclass(frozen=True)
class Batch:
    """`wanted`, `known` and `hole` are B x tokens x numbers; `clip` and `t5` B x TEXT_LENGTH; `places` tokens x 3."""

    wanted: Tensor
    """The latents that should come of it."""
    known: Tensor
    """The latents of the picture with the mask's inside grey."""
    hole: Tensor
    """The mask's pixels, 1 where it is filled."""
    clip: Tensor
    t5: Tensor
    places: Tensor
    """Each token's row and column, from a random one on: text sees where a token is, and shall not care."""


def pack(latents: Tensor) -> Tensor:
    """Return B x C x H x W as B x (H/2 * W/2) x 4C, in the pipeline's order."""
    batch, channels, height, width = latents.shape
    cells = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, (height // 2) * (width // 2), channels * 4)


def pack_mask(mask: Tensor) -> Tensor:
    """Return a mask of B x H x W pixels as B x tokens x pixels of a token, in the pipeline's order."""
    batch, height, width = mask.shape
    cells = mask.reshape(batch, height // VAE_SCALE, VAE_SCALE, width // VAE_SCALE, VAE_SCALE).permute(0, 2, 4, 1, 3)
    return pack(cells.reshape(batch, VAE_SCALE * VAE_SCALE, height // VAE_SCALE, width // VAE_SCALE))


class Examples:
    """Scenes of one size, encoded by a finished VAE. The same numbers give the same batches."""

    def __init__(self, vae: Any, tokenizers: tuple[Any, Any], side: int, scene: Callable[[int], Scene]) -> None:
        """`scene` draws one of `side` x `side` pixels for a number; each is drawn once."""
        self._vae = vae
        self._clip, self._t5 = tokenizers
        self._side = side
        self._scene = scene
        self._pool: list[tuple[Tensor, ...]] = []
        self._drawn = 0

    def batch(self, number: int, size: int) -> Batch:
        """Return `size` examples, a third of them new."""
        random = np.random.default_rng((number, self._side))
        fresh = max(1, size // _USES) if self._pool else size
        self._add([self._scene(int(random.integers(TRAINING_SEEDS))) for _ in range(fresh)])
        newest = range(len(self._pool) - fresh, len(self._pool))
        older = random.integers(0, len(self._pool), size - fresh)
        parts = [self._pool[n] for n in (*newest, *older)]
        wanted, known, hole, clip, t5 = (torch.stack(part) for part in zip(*parts, strict=True))
        return Batch(wanted.float(), known.float(), hole.float(), clip, t5, self._places(random))

    @torch.no_grad()
    def _add(self, scenes: list[Scene]) -> None:
        truth = torch.from_numpy(np.stack([scene.truth for scene in scenes])).permute(0, 3, 1, 2) * 2 - 1
        mask = torch.from_numpy(np.stack([scene.mask for scene in scenes])).float()
        pictures = torch.cat([truth, truth * (1 - mask[:, None])]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = self._vae.encode(pictures).latents
        wanted, known = pack(latents.float().contiguous()).half().chunk(2)
        prompts = [scene.prompt for scene in scenes]
        clip, t5 = (
            torch.tensor(one(prompts, padding="max_length", max_length=TEXT_LENGTH, truncation=True).input_ids)
            for one in (self._clip, self._t5)
        )
        self._pool += list(zip(wanted, known, pack_mask(mask).half(), clip, t5, strict=True))
        del self._pool[:-_POOL]

    def _places(self, random: np.random.Generator) -> Tensor:
        count = self._side // (2 * VAE_SCALE)
        row, column = random.integers(0, max(1, _FURTHEST_PLACE - count) + 1, 2)
        places = torch.zeros(count, count, 3)
        places[..., 1] = torch.arange(count)[:, None] + int(row)
        places[..., 2] = torch.arange(count)[None, :] + int(column)
        return places.reshape(-1, 3)
