"""The canvas: image and mask brought to the size that the model generates, and the way back to the size asked for.

What the mask leaves alone must come back bit for bit, so nothing of the original is ever resampled after this file has
made `original`, and no feather or rounding reaches outside the mask. Nothing here reads files or knows the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from common.contract import MAX_SIDE, MIN_SIDE, Size
from common.errors import Rejected
from worker.feather import Bytes, feather, feather_radius

MODEL_MULTIPLE = 16
"""The model's sides are multiples of this: 8 for the VAE, 2 for the patches of its latents."""
SNAP_BELOW = 8
SNAP_ABOVE = 247
"""Masks saved as JPEG are noisy: values under 8 mean 0, and over 247 mean 255."""
FILLED_FROM = 128
"""The model knows only filled or not; grey counts as filled from here on."""
_NEUTRAL = (128, 128, 128)

_SNAP = np.array([0 if v < SNAP_BELOW else 255 if v > SNAP_ABOVE else v for v in range(256)], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class Canvas:
    """One job's picture, ready for the model. The two sizes differ by less than 16 pixels to the right and below."""

    image: Image.Image
    """RGB, width x height: what the model sees."""
    mask: Image.Image
    """L of 0 and 255, width x height: 255 is what the model fills."""
    original: Image.Image
    """RGB, output size: what is kept where the mask is 0."""
    blend: Image.Image
    """L, output size: how much of the generated picture goes over the original. 0 wherever the snapped mask is 0."""
    width: int
    height: int
    output_width: int
    output_height: int
    coverage: float
    """The share of the output, 0..1, that the model fills."""


@dataclass(frozen=True)
class _Place:
    """Where the whole image lies on the canvas, in the output's pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def draw_canvas(image: Image.Image, mask: Image.Image | None, size: Size | None) -> Canvas:
    """Return the canvas for `image` (RGB or RGBA), `mask` (L: white is filled) and the output `size`.

    Without a size it is the image's own, bounded. A mask counts alone; without one, transparent pixels are the mask.
    Where the size has another aspect than the image, the bars around the image are filled, too.
    Raises Rejected: mask_empty, nothing_to_fill, image_too_narrow.
    """
    output = size or _own_size(image.width, image.height)
    place = _place(image.width, image.height, output)
    has_bars = (place.width, place.height) != (output.width, output.height)
    by_alpha = mask is None and image.mode == "RGBA"

    soft = np.full((output.height, output.width), 255, dtype=np.uint8)
    soft[place.window] = _soft_mask(image, mask, place)
    filled = soft >= FILLED_FROM
    if not filled.any():
        raise _nothing_filled(mask, output)

    content = _resized(image if by_alpha else image.convert("RGB"), place)
    original = Image.new("RGB", (output.width, output.height), _NEUTRAL)
    original.paste(content.convert("RGB"), (place.left, place.top))
    radius = feather_radius(output.width, output.height)
    if has_bars or by_alpha:
        original = _continued(original, _known(soft, place, by_alpha=by_alpha), radius)
    blend = feather(soft, radius)

    width, height = _next_multiple(output.width), _next_multiple(output.height)
    return Canvas(
        image=_padded(np.asarray(original), width, height),
        mask=_padded(filled.astype(np.uint8) * np.uint8(255), width, height),
        original=original,
        blend=Image.fromarray(blend),
        width=width,
        height=height,
        output_width=output.width,
        output_height=output.height,
        coverage=float(filled.mean()),
    )


def paste_back(canvas: Canvas, generated: Image.Image) -> Image.Image:
    """Return the output: `generated` (RGB, the canvas's width x height) over the original, by the canvas's blend.

    Where the blend is 0 the result is the original and where it is 255 the generated picture, each bit for bit.
    Raises ValueError where `generated` is not of this canvas.
    """
    if generated.mode != "RGB" or generated.size != (canvas.width, canvas.height):
        raise ValueError(f"expected RGB of {canvas.width}x{canvas.height}, got {generated.mode} of {generated.size}")
    cropped = generated.crop((0, 0, canvas.output_width, canvas.output_height))
    return Image.composite(cropped, canvas.original, canvas.blend)


def _own_size(width: int, height: int) -> Size:
    shrink = min(1.0, MAX_SIDE / max(width, height))
    grow = max(1.0, MIN_SIDE / min(width, height))
    scale = shrink if shrink < 1 else grow
    wanted = [round(width * scale), round(height * scale)]
    fitting = [min(MAX_SIDE, max(MIN_SIDE, side)) for side in wanted]
    # One pixel of give: 1542x256 is as good as 6 to 1.
    if any(abs(side - fit) > 1 for side, fit in zip(wanted, fitting, strict=True)):
        raise Rejected(
            "image_too_narrow",
            f"image: {width}x{height} pixels do not fit sides of {MIN_SIDE} to {MAX_SIDE} in proportion "
            f"(at most {MAX_SIDE // MIN_SIDE} to 1); set size to W*H, and what the image leaves free is outpainted",
        )
    return Size(*fitting)


def _place(width: int, height: int, output: Size) -> _Place:
    # The largest rectangle of the image's aspect, whole on the canvas and centred. An aspect is the canvas's own if one
    # side, in whole pixels, is within one pixel of what the other side asks for: however a client rounded, it is met.
    fit_width = max(1, (2 * width * output.height + height) // (2 * height))
    fit_height = max(1, (2 * height * output.width + width) // (2 * width))
    if abs(fit_width - output.width) <= 1 or abs(fit_height - output.height) <= 1:
        return _Place(0, 0, output.width, output.height)
    fit_width, fit_height = min(fit_width, output.width), min(fit_height, output.height)
    return _Place((output.width - fit_width) // 2, (output.height - fit_height) // 2, fit_width, fit_height)


def _soft_mask(image: Image.Image, mask: Image.Image | None, place: _Place) -> Bytes:
    # The snapped mask, at the size the image has on the canvas.
    if mask is not None:
        values = np.asarray(mask)
    elif image.mode == "RGBA":
        values = 255 - np.asarray(image.getchannel("A"))
    else:
        return np.zeros((place.height, place.width), dtype=np.uint8)
    values = _shrunk(_shrunk(_SNAP[values], place.height, axis=0), place.width, axis=1)
    if values.shape == (place.height, place.width):
        return values
    # Between the mask's pixels it rises smoothly, but none of them is dimmed: that would dot a hairline.
    small, size = Image.fromarray(values), (place.width, place.height)
    smooth = np.asarray(small.resize(size, Image.Resampling.BILINEAR))
    snapped: Bytes = _SNAP[np.maximum(smooth, np.asarray(small.resize(size, Image.Resampling.NEAREST)))]
    return snapped


def _shrunk(values: Bytes, length: int, *, axis: int) -> Bytes:
    # Of the mask's pixels that fall together the brightest stays: a hairline does not fade away, what was black and
    # white stays so, and no pixel that something to be removed went into is kept.
    if values.shape[axis] <= length:
        return values
    starts = (np.arange(length) * values.shape[axis]) // length
    shrunk: Bytes = np.maximum.reduceat(values, starts, axis=axis)
    return shrunk


def _nothing_filled(mask: Image.Image | None, output: Size) -> Rejected:
    if mask is not None:
        brightest = mask.getextrema()[1]
        return Rejected(
            "mask_empty",
            f"mask_image: the mask is empty: its brightest pixel is {brightest} of 255, and what is filled must have "
            f"{FILLED_FROM} or more; paint white what is to be filled",
        )
    return Rejected(
        "nothing_to_fill",
        f"image: nothing to fill: there is no mask_image, the image has no transparent pixels, and size {output} has "
        "the image's own aspect, so that no bars are left; give a mask_image (white is filled), an image with "
        "transparent pixels, or a size of another aspect",
    )


def _resized(image: Image.Image, place: _Place) -> Image.Image:
    if image.size == (place.width, place.height):
        return image  # not one bit changes
    # The gap lets a much larger picture be halved cheaply first, without a visible difference.
    return image.resize((place.width, place.height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _known(soft: Bytes, place: _Place, *, by_alpha: bool) -> Bytes:
    # 255 where the original has a colour of its own: not under the bars, and not where the image is transparent.
    known = np.zeros_like(soft)
    known[place.window] = np.where(soft[place.window] == 255, 0, 255) if by_alpha else 255
    return known


def _continued(original: Image.Image, known: Bytes, radius: int) -> Image.Image:
    # Bars have no colours, and those under transparent pixels are junk, mostly black. The feather mixes a few pixels
    # of them in, so there the known colours are continued outwards (a blur weighted by what is known); further off it
    # is mid-grey, which is also what the model's pipeline puts under the mask.
    pixels = Image.fromarray(np.dstack([np.asarray(original), known]))
    spread = pixels.convert("RGBa").filter(ImageFilter.BoxBlur(2 * radius + 1)).convert("RGBA")
    reached = spread.getchannel("A").point([0] + [255] * 255)
    continued = Image.composite(spread.convert("RGB"), Image.new("RGB", original.size, _NEUTRAL), reached)
    return Image.composite(original, continued, Image.fromarray(known))


def _next_multiple(side: int) -> int:
    return -(-side // MODEL_MULTIPLE) * MODEL_MULTIPLE


def _padded(values: Bytes, width: int, height: int) -> Image.Image:
    # Up to the next multiple of 16, to be cut off again, because every pixel of the output is then a pixel that the
    # model made: no resampling, and the kept ones can stay exact. The picture and its mask are mirrored into the
    # padding, so the model sees natural surroundings at the edge (repeating the last column would show it streaks to
    # continue), and what is filled up to the edge is filled beyond it.
    below, right = height - values.shape[0], width - values.shape[1]
    if below or right:
        values = np.pad(values, [(0, below), (0, right), (0, 0)][: values.ndim], mode="reflect")
    return Image.fromarray(values)
