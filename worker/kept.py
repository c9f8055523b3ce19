"""How far a stored picture is from the original where nothing was to be filled: 0 where the promise of exactness holds.

It is about the file as it was stored. A lossless one holds just the pixels that it was made of, so they are compared;
of a lossy one the bytes are decoded again. It changes nothing, and must stay cheap: it runs for every image.
"""

from __future__ import annotations

import io
from typing import Final, cast

from PIL import Image, ImageChops

from worker.canvas import Canvas
from worker.encode import Encoded

_LOSSLESS: Final = frozenset({"png", "webp"})  # as worker/encode.py writes them
_WHERE_FILLED: Final = [0] + [255] * 255


def max_difference_outside_mask(canvas: Canvas, image: Image.Image, encoded: Encoded) -> int | None:
    """Return the largest difference of a channel, 0 to 255, between the stored picture and the canvas's original.

    `image` is what was encoded. Only pixels count where the snapped mask is 0; None where there are none.
    """
    if canvas.blend.histogram()[0] == 0:
        return None
    if encoded.extension in _LOSSLESS:
        return _difference(canvas, image)
    with Image.open(io.BytesIO(encoded.data)) as stored:
        return _difference(canvas, stored.convert("RGB"))


def _difference(canvas: Canvas, image: Image.Image) -> int:
    # Pillow's own loops: a fifth of numpy's time for a megapixel, and the other threads go on meanwhile.
    difference = ImageChops.difference(image, canvas.original)
    difference.paste(0, mask=canvas.blend.point(_WHERE_FILLED))
    return max(highest for _, highest in cast(tuple[tuple[int, int], ...], difference.getextrema()))
