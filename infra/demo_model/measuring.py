"""Fills a scene as a worker does: canvas, model, seam, paste-back. So what is measured is what a user gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from common.settings import Settings
from infra.demo_model.quality import Fill
from infra.demo_model.scenes import Scene
from infra.demo_model.shapes import Pixels
from worker.canvas import draw_canvas, paste_back
from worker.model import load_model
from worker.seam import mend_seam
from worker.work import Adapter, FillModel, Work


def by_worker(steps: int, settings: Settings | None = None) -> Fill:
    """Return what fills with the bundled model in this process; it is loaded now."""
    model = load_model(settings or Settings(fill_model="bundled", fill_device="cpu"))
    return lambda scene, seed: fill_scene(model, scene, seed, steps=steps)


def fill_scene(model: FillModel, scene: Scene, seed: int, *, steps: int, adapters: Sequence[Adapter] = ()) -> Pixels:
    """Return the scene's picture with its mask filled: height x width x 3, from 0 to 1."""
    canvas = draw_canvas(as_image(scene.before), Image.fromarray(scene.mask.astype(np.uint8) * np.uint8(255)), None)
    work = Work(
        image=canvas.image,
        mask=canvas.mask,
        width=canvas.width,
        height=canvas.height,
        prompt=scene.prompt,
        steps=steps,
        guidance=30.0,
        seeds=(seed,),
        adapters=tuple(adapters),
    )
    generated = model.fill(work, _no_tick)[0]
    return as_pixels(paste_back(canvas, mend_seam(canvas, generated)))


def as_image(pixels: Pixels) -> Image.Image:
    """Return pixels from 0 to 1 as an RGB image."""
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def as_pixels(image: Image.Image) -> Pixels:
    """Return an RGB image as pixels from 0 to 1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _no_tick(_stage: Any) -> None:
    """Nobody waits for signs of life here."""
