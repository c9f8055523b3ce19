"""Fills a scene as a worker does: canvas, areas, model, seam, paste-back. So what is measured is what a user gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from common.contract import RegionMode
from common.settings import Settings
from infra.demo_model.quality import Fill
from infra.demo_model.scenes import Scene
from infra.demo_model.shapes import Pixels
from worker.canvas import Canvas, draw_canvas, paste_back
from worker.model import FluxFillModel, load_model
from worker.region.areas import areas_of
from worker.work import Adapter, Work


def by_worker(steps: int, settings: Settings | None = None, *, region: RegionMode = "full") -> Fill:
    """Return what fills with the bundled model in this process; it is loaded now."""
    model = load_model(settings or Settings(fill_model="bundled", fill_device="cpu"))
    return lambda scene, seed: fill_scene(model, scene, seed, steps=steps, region=region)


def fill_scene(
    model: FluxFillModel,
    scene: Scene,
    seed: int,
    *,
    steps: int,
    adapters: Sequence[Adapter] = (),
    region: RegionMode = "full",
) -> Pixels:
    """Return the scene's picture with its mask filled: height x width x 3, from 0 to 1."""
    areas = areas_of(canvas_of(scene), region)
    works = [
        Work(
            image=part.image,
            mask=part.mask,
            width=part.width,
            height=part.height,
            prompt=scene.prompt,
            steps=steps,
            guidance=30.0,
            seeds=(seed,),
            adapters=tuple(adapters),
        )
        for part in areas.parts
    ]
    made = areas.together([model.fill(work, _no_tick)[0] for work in works])
    return as_pixels(paste_back(areas.canvas, made))


def canvas_of(scene: Scene) -> Canvas:
    """Return the canvas that a worker draws for the scene."""
    return draw_canvas(as_image(scene.before), Image.fromarray(scene.mask.astype(np.uint8) * np.uint8(255)), None)


def as_image(pixels: Pixels) -> Image.Image:
    """Return pixels from 0 to 1 as an RGB image."""
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def as_pixels(image: Image.Image) -> Pixels:
    """Return an RGB image as pixels from 0 to 1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _no_tick(_stage: Any) -> None:
    """Nobody waits for signs of life here."""
