"""The promises that the demo checks on its drawn scenes: the prompt is obeyed, the background goes on.

What should come of a scene is drawn, not learnt from any model; the measures and their names are those of
docs/quality.md. A job without `is_scored` owes none of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image

from infra.demo.drawings import Drawing, draw_truth
from infra.demo.jobs import DemoJob
from infra.demo.material import Material
from infra.demo.outcome import Check, Outcome
from infra.demo_model.quality import PSNR_BAR, judge_drawn, psnr
from infra.demo_model.scenes import FILL_SHARE, Figure, Mask, Scene, painted
from infra.demo_model.shapes import COLOURS, SHAPES, Pixels

OVERLAP_BAR: Final = 0.6
"""Of what is drawn and what is wanted, so much must be the same pixels. A blob of the whole mask reaches about half."""
_FILLED_FROM: Final = 128


def judge_drawing(outcome: Outcome) -> Iterator[Check]:
    """Return the checks of a scored job's outputs. Raises ValueError where nobody can say what is wanted."""
    scene = wanted_scene(outcome.job, outcome.material)
    for picture in outcome.pictures:
        made = _pixels(picture)
        yield _continued(scene, made) if scene.wanted is None else _obeyed(scene, scene.wanted, made)


def wanted_scene(job: DemoJob, material: Material) -> Scene:
    """Return the scene that a scored job is about, with what should come of it. Raises ValueError."""
    if not isinstance(material.source, Drawing):
        raise ValueError(f"{job.name}: a photograph does not tell what belongs into its mask")
    mask = np.asarray(material.filled) >= _FILLED_FROM
    before, prompt = _pixels(material.original), str(job.fields["prompt"])
    if not prompt:
        return Scene(before, mask, prompt, _pixels(draw_truth(material.source)), None)
    wanted = _wanted(prompt, mask)
    return Scene(before, mask, prompt, painted(before, wanted), wanted)


def _obeyed(scene: Scene, wanted: Figure, made: Pixels) -> Check:
    found = {shape: _overlap(scene, replace(wanted, shape=shape), made) for shape in SHAPES}
    shape = max(found, key=lambda name: found[name])
    colour = judge_drawn(scene, made, "").nearest
    said = f"{colour} {shape}, {found[shape]:.0%} of both are the same pixels"
    obeyed = (colour, shape) == (wanted.colour, wanted.shape) and found[shape] >= OVERLAP_BAR
    return Check("the prompt is obeyed", obeyed, said)


def _overlap(scene: Scene, figure: Figure, made: Pixels) -> float:
    """Return the intersection over union of what was drawn and `figure`."""
    return judge_drawn(replace(scene, wanted=figure), made, "").iou


def _continued(scene: Scene, made: Pixels) -> Check:
    found = psnr(scene, made)
    return Check("the background goes on", found >= PSNR_BAR, f"{found:.1f} dB inside the mask")


def _wanted(prompt: str, mask: Mask) -> Figure:
    """Return the figure that a prompt of "a COLOUR SHAPE" asks for: in the mask's middle, as large as it allows."""
    *_, colour, shape = prompt.split()
    if colour not in COLOURS or shape not in SHAPES:
        raise ValueError(f"{prompt!r} names no colour and shape that the demo model knows")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    radius = FILL_SHARE * min(right - left, bottom - top) / 2
    return Figure(shape, colour, COLOURS[colour], ((left + right) / 2, (top + bottom) / 2), float(radius))


def _pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255)
