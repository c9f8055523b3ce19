"""The two styles that the demo's LoRAs teach, and how each is drawn on a scene. No torch.

`striped` paints two white stripes across the prompt's shape, `outlined` a black line along its edge; together both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from infra.demo_model.scenes import Scene, draw_scene
from infra.demo_model.shapes import coverage, laid_over

STRIPED: Final = "striped"
OUTLINED: Final = "outlined"
STYLES: Final = (STRIPED, OUTLINED)
_STRIPES: Final = 2
"""White stripes over a shape's height: broad ones, since finer ones fall between the model's tokens of 32 pixels."""
_LINE_SHARE: Final = 0.14
"""The line's width as a share of the shape's radius."""


def with_styles(scene: Scene, styles: Sequence[str]) -> Scene:
    """Return the scene as it should be filled in these styles; an empty prompt knows no style."""
    figure = scene.wanted
    if figure is None or not styles:
        return scene
    height, width = scene.mask.shape
    outside = figure.outside(width, height)
    truth = scene.truth
    if STRIPED in styles:
        y = (np.arange(height, dtype=np.float32) + 0.5 - figure.centre[1]) / figure.radius
        wave = np.abs(((y + 1) * _STRIPES / 2 + 0.5) % 1 - 0.5) * 2  # 0..1 and back, once a stripe
        edge = 2.0 * figure.radius / _STRIPES  # pixels over which the wave goes from 0 to 1
        share = np.clip((wave - 0.5) * edge + 0.5, 0, 1)[:, None] * coverage(outside)
        truth = laid_over(truth, (0.97, 0.97, 0.96), share)
    if OUTLINED in styles:
        inner = outside + np.float32(_LINE_SHARE * figure.radius)
        truth = laid_over(truth, (0.05, 0.05, 0.06), coverage(outside) * (1 - coverage(inner)))
    return replace(scene, truth=truth)


def draw_styled(seed: int, side: int, styles: Sequence[str]) -> Scene:
    """Return the scene of this seed in these styles, `side` x `side` pixels."""
    return with_styles(draw_scene(seed, side, side), styles)
