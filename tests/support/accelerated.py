"""Models under settings that make them faster, fills long enough to tell, and how near two pictures are."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tests.support.fills import (
    FillSettings,
    pixels,
    small_work,
)
from worker.model import FluxFillModel, load_model

STEPS = 12
THRESHOLD = 0.15
"""Wide enough that some of 12 steps are skipped even in a picture this small."""


def load(**settings: Any) -> FluxFillModel:
    return load_model(FillSettings(**settings))


def load_cached(**settings: Any) -> FluxFillModel:
    return load(fill_profile="fast", fill_step_cache_threshold=THRESHOLD, **settings)


def ignore(_: str) -> None:
    pass


def long_work(**changes: Any) -> Any:
    return small_work(**({"steps": STEPS} | changes))


def fill(model: FluxFillModel, **changes: Any) -> Image.Image:
    return model.fill(long_work(**changes), ignore)[0]


def whole_steps(model: FluxFillModel, **changes: Any) -> int:
    """Return how many steps of a fill come to the last block."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = model._pipe.transformer.single_transformer_blocks[-1].register_forward_pre_hook(count)
    try:
        fill(model, **changes)
    finally:
        hook.remove()
    return calls


def psnr(one: Image.Image, other: Image.Image) -> float:
    return float(10 * np.log10(255**2 / max(((pixels(one) - pixels(other)) ** 2).mean(), 1e-9)))
