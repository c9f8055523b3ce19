"""A stand-in for the GPU's time that draws: a face and a word, on magenta for even seeds and on green for odd ones."""

from __future__ import annotations

from typing import Final

from PIL import Image, ImageDraw

from tests.support.sleeping_model import SleepingModel
from worker.work import Tick, Work

DRAWING: Final = "tests.support.drawing_model:DrawingModel"
MAGENTA: Final = (230, 20, 200)
GREEN: Final = (30, 160, 60)


class DrawingModel(SleepingModel):
    """Takes the time that SleepingModel does. FlagsMagenta flags every other picture of it."""

    def fill(self, work: Work, tick: Tick) -> list[Image.Image]:
        """Return a drawing for each seed."""
        super().fill(work, tick)
        return [drawing((work.width, work.height), MAGENTA if seed % 2 == 0 else GREEN) for seed in work.seeds]


def drawing(size: tuple[int, int], ground: tuple[int, int, int]) -> Image.Image:
    """Return a face and a word on a plain ground."""
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.ellipse((width * 0.3, height * 0.2, width * 0.7, height * 0.8), outline="black", width=max(1, width // 100))
    for eye in (0.42, 0.58):
        draw.ellipse((width * eye - 9, height * 0.4 - 9, width * eye + 9, height * 0.4 + 9), fill="black")
    draw.arc((width * 0.4, height * 0.5, width * 0.6, height * 0.7), 0, 180, fill="black", width=max(1, width // 120))
    draw.text((width * 0.35, height * 0.85), "a name to be read", fill="white", font_size=height / 12)
    return image
