"""What a job is given and what must be kept of it: picture and mask, and both as the output will have them.

The demo's pictures are never resized, so what is kept can be compared bit for bit without knowing any resampling.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageChops

from common.contract import Size, parse_size
from infra.demo.drawings import DRAWINGS_BY_NAME, Drawing, draw
from infra.demo.jobs import DemoJob, ImageBy
from infra.demo.masks import MASKS
from infra.demo.photos import PHOTOS_BY_NAME, Photo, open_photo

_GREY = (128, 128, 128)


@dataclass(frozen=True, eq=False)
class Material:
    """The inputs of one job."""

    source: Photo | Drawing
    image: Image.Image
    """What is sent: RGB, or RGBA where the alpha is the mask."""
    mask: Image.Image | None
    """What is sent as mask_image: L, or None."""
    original: Image.Image
    """RGB, output size: the picture in its place; grey where there is none."""
    filled: Image.Image
    """L, output size: 0 where the original must stay exactly as it is."""

    @property
    def size(self) -> tuple[int, int]:
        """The output's width and height in pixels."""
        return self.original.size


def prepare(job: DemoJob) -> Material:
    """Return the inputs of `job`. Raises FileNotFoundError where its photograph is not installed."""
    source, picture = _picture(job.picture)
    size = parse_size(str(job.fields["size"])) or Size(picture.width, picture.height)
    if picture.width > size.width or picture.height > size.height:
        raise ValueError(f"{job.name}: {size} would shrink a picture of {picture.width}*{picture.height}")
    drawn = MASKS[job.mask](picture.size) if job.mask is not None else None
    place = ((size.width - picture.width) // 2, (size.height - picture.height) // 2)
    original = Image.new("RGB", (size.width, size.height), _GREY)
    original.paste(picture, place)
    filled = Image.new("L", original.size, 255)
    filled.paste(drawn if drawn is not None else 0, (*place, place[0] + picture.width, place[1] + picture.height))
    by_alpha = job.image_by is ImageBy.ALPHA
    if by_alpha and drawn is not None:
        picture.putalpha(ImageChops.invert(drawn))
    return Material(
        source=source,
        image=picture,
        mask=None if by_alpha else drawn,
        original=original,
        filled=filled,
    )


def _picture(name: str) -> tuple[Photo | Drawing, Image.Image]:
    if name in DRAWINGS_BY_NAME:
        drawing = DRAWINGS_BY_NAME[name]
        return drawing, draw(drawing)
    photo = PHOTOS_BY_NAME[name]
    return photo, open_photo(photo)
