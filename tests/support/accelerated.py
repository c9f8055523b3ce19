"""Models under settings that make them faster, fills long enough to tell, and how near two pictures are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tests.support.fills import FillSettings, pixels, small_work
from worker.model import FluxFillModel, load_model

STEPS = 12
THRESHOLD = 0.15
"""Wide enough that some of 12 steps are skipped even in a picture this small."""


def load(**settings: Any) -> FluxFillModel:
    """Load the demo model under these settings."""
    return load_model(FillSettings(**settings))


def load_cached(**settings: Any) -> FluxFillModel:
    """Load it so that it skips steps."""
    return load(fill_profile="fast", fill_step_cache_threshold=THRESHOLD, **settings)


def ignore(_: str) -> None:
    """Let every tick pass."""


def fail_at(tick: int | None, error: BaseException) -> Callable[[str], None]:
    """Return what takes a fill's ticks and raises `error` at that one, the first being 1; None: at none."""
    ticks = 0

    def fail(_: str) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == tick:
            raise error

    return fail


def long_work(**changes: Any) -> Any:
    """Return a fill of STEPS steps, with these changes."""
    return small_work(**({"steps": STEPS} | changes))


def fill(model: FluxFillModel, **changes: Any) -> Image.Image:
    """Return the image of `long_work`."""
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
    """Return how near two pictures of one size are, in dB."""
    return float(10 * np.log10(255**2 / max(((pixels(one) - pixels(other)) ** 2).mean(), 1e-9)))
