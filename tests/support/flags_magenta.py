"""A stand-in for a classifier that flags on purpose: what is mostly magenta. No picture in the tests needs more."""

from __future__ import annotations

import numpy as np
from PIL import Image


class FlagsMagenta:
    """A SafetyChecker. `seen` are the sizes of what it was asked about."""

    threshold = 0.5

    def __init__(self) -> None:
        self.loaded = False
        self.seen: list[tuple[int, int]] = []

    def load(self) -> None:
        """Note that it was asked to load."""
        self.loaded = True

    def check(self, image: Image.Image) -> bool:
        """Return whether more than half of the picture is magenta."""
        assert self.loaded, "it is loaded before the first job"
        self.seen.append(image.size)
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=int), -1, 0)
        return bool(((red > 180) & (green < 90) & (blue > 120)).mean() > self.threshold)
