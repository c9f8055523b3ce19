"""The demo's drawn scenes: a background, a few figures on it, and what of them a job is to remove or to continue.

They are drawn by what drew the demo model's training scenes, so what must come of a job is known to the pixel. Nothing
here knows a mask or a prompt, and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image

from infra.demo_model.backgrounds import draw_background
from infra.demo_model.scenes import Figure, painted
from infra.demo_model.shapes import COLOURS


@dataclass(frozen=True)
class Drawing:
    """One scene. `width` and `height` are pixels of what a job is given, and figures stand in these, too."""

    name: str
    background: str
    """One of backgrounds.KINDS."""
    seed: int
    """Of the background."""
    figures: tuple[Figure, ...] = ()
    """What stands outside of every mask, and stays."""
    thing: Figure | None = None
    """What a job is to remove."""
    beyond: int = 0
    """How far the background is known to go on, to the left and to the right, past what a job is given; pixels."""
    width: int = 512
    height: int = 384


def _figure(colour: str, shape: str, x: float, y: float, radius: float) -> Figure:
    return Figure(shape, colour, COLOURS[colour], (x, y), radius)


DRAWINGS: Final = (
    Drawing(
        name="sky",
        background="clouds",
        seed=9,
        figures=(_figure("yellow", "triangle", 445, 300, 46), _figure("white", "star", 436, 84, 38)),
    ),
    Drawing(
        name="night",
        background="plain",
        seed=21,
        figures=(_figure("white", "circle", 78, 84, 36), _figure("orange", "diamond", 92, 292, 44)),
    ),
    Drawing(
        name="awning",
        background="stripes",
        seed=20,
        figures=(_figure("blue", "square", 92, 296, 40), _figure("red", "circle", 78, 78, 32)),
    ),
    Drawing(
        name="sand",
        background="gradient",
        seed=1,
        figures=(_figure("green", "star", 432, 86, 44), _figure("brown", "square", 452, 308, 34)),
    ),
    Drawing(
        name="lagoon",
        background="plain",
        seed=5,
        figures=(_figure("pink", "heart", 92, 290, 44), _figure("yellow", "circle", 76, 92, 30)),
    ),
    Drawing(
        name="meadow",
        background="stripes",
        seed=8,
        figures=(_figure("purple", "diamond", 84, 92, 46),),
        thing=_figure("orange", "star", 316, 206, 104),
    ),
    Drawing(
        name="ribbon",
        background="stripes",
        seed=26,
        figures=(_figure("yellow", "star", 192, 192, 76),),
        beyond=96,
        width=384,
    ),
    Drawing(
        name="mist",
        background="gradient",
        seed=25,
        figures=(_figure("brown", "triangle", 84, 304, 42),),
    ),
    Drawing(
        name="dawn",
        background="gradient",
        seed=6,
        figures=(_figure("purple", "ring", 84, 84, 36), _figure("green", "triangle", 84, 306, 40)),
    ),
    Drawing(
        name="moss",
        background="clouds",
        seed=11,
        figures=(_figure("yellow", "square", 84, 300, 36), _figure("blue", "circle", 92, 84, 36)),
    ),
    Drawing(
        name="dusk",
        background="gradient",
        seed=24,
        figures=(_figure("white", "star", 436, 90, 42), _figure("pink", "circle", 440, 300, 34)),
    ),
)

DRAWINGS_BY_NAME: Final = {drawing.name: drawing for drawing in DRAWINGS}


def draw(drawing: Drawing) -> Image.Image:
    """Return what a job is given: RGB, width x height."""
    whole = _drawn(drawing, with_thing=True)
    return whole.crop((drawing.beyond, 0, drawing.beyond + drawing.width, drawing.height))


def draw_truth(drawing: Drawing) -> Image.Image:
    """Return what an empty prompt should make of it: RGB, without the thing, and as far as the background is known."""
    return _drawn(drawing, with_thing=False)


def _drawn(drawing: Drawing, *, with_thing: bool) -> Image.Image:
    width = drawing.width + 2 * drawing.beyond
    random = np.random.default_rng(drawing.seed)
    picture = draw_background(random, width, drawing.height, unlike=None, kind=drawing.background)
    things = (drawing.thing,) if with_thing and drawing.thing is not None else ()
    for figure in (*drawing.figures, *things):
        x, y = figure.centre
        picture = painted(picture, replace(figure, centre=(x + drawing.beyond, y)))
    return Image.fromarray(np.round(picture * 255).astype(np.uint8))
