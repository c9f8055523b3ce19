"""Areas of a canvas: cut out exactly, put together exactly, and as if there were none where the whole is generated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from common.contract import Size
from worker.canvas import Canvas, draw_canvas, paste_back
from worker.region.areas import areas_of
from worker.seam import mend_seam

COLOURS = ((250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10), (10, 250, 250), (250, 10, 250))


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a picture in which no two places are alike."""
    slope = Image.linear_gradient("L").resize((width, height))
    bands = (slope, slope.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.radial_gradient("L").resize(slope.size))
    return Image.merge("RGB", bands).convert(mode)


def spots(width: int, height: int, *at: tuple[int, int], radius: int = 20, blur: float = 0) -> Image.Image:
    """Return a mask of discs around these places."""
    mask = Image.new("L", (width, height))
    pencil = ImageDraw.Draw(mask)
    for place in at:
        pencil.circle(place, radius, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(blur))


def filled_with(part: Canvas, colour: tuple[int, int, int]) -> Image.Image:
    """Return what a model would make that draws this colour, and gets all around it right."""
    made = part.image.copy()
    made.paste(colour, mask=part.mask)
    return made


@st.composite
def _canvases(draw: st.DrawFn) -> Canvas:
    width, height = draw(st.integers(600, 1100)), draw(st.integers(600, 1100))
    places = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    mask = spots(
        width,
        height,
        *draw(st.lists(places, min_size=1, max_size=4)),
        radius=draw(st.integers(1, 60)),
        blur=draw(st.sampled_from((0, 0, 2, 9))),
    )
    mask.putpixel(draw(places), 255)  # however much is blurred away, something is filled
    return draw_canvas(picture(width, height), mask, None)


@given(_canvases())
@settings(max_examples=25, deadline=None)
def test_what_each_area_made_is_where_it_belongs_and_all_that_is_kept_is_exact(canvas: Canvas) -> None:
    areas = areas_of(canvas, "auto")
    made = [filled_with(part, colour) for part, colour in zip(areas.parts, COLOURS, strict=False)]
    output = np.asarray(paste_back(canvas, areas.together(made)))
    blend = np.asarray(canvas.blend)
    assert (output[blend == 0] == np.asarray(canvas.original)[blend == 0]).all()
    mask = np.asarray(canvas.mask)[: canvas.output_height, : canvas.output_width]
    where = np.zeros(mask.shape, dtype=np.int64)
    for (left, top, width, height), colour in zip(areas.regions or [(0, 0, *mask.T.shape)], COLOURS, strict=False):
        window = slice(top, top + height), slice(left, left + width)
        inside = (mask[window] > 0) & (blend[window] == 255)
        assert (output[window][inside] == colour).all()
        where[window] += 1
    assert (where[mask > 0] == 1).all()


@given(_canvases())
@settings(max_examples=15, deadline=None)
def test_an_area_is_a_canvas_of_its_own_cut_out_of_the_whole(canvas: Canvas) -> None:
    areas = areas_of(canvas, "auto")
    for box, part in zip(areas.boxes, areas.parts, strict=False):
        assert part.image.size == part.mask.size == (part.width, part.height) == (box.width, box.height)
        assert part.original.size == part.blend.size == (part.output_width, part.output_height)
        assert part.image.tobytes() == canvas.image.crop(box.corners).tobytes()
        assert part.mask.tobytes() == canvas.mask.crop(box.corners).tobytes()
        assert 0 <= part.width - part.output_width < 16
        assert 0 <= part.height - part.output_height < 16
        assert part.coverage <= 0.5


def test_full_is_the_whole_canvas_and_nothing_else() -> None:
    canvas = draw_canvas(picture(1024, 1024), spots(1024, 1024, (200, 200)), None)
    areas = areas_of(canvas, "full")
    assert areas.parts == (canvas,)
    assert areas.regions is None
    made = picture(1024, 1024).rotate(180)
    assert areas.together([made]).tobytes() == mend_seam(canvas, made).tobytes()


@pytest.mark.parametrize(
    "canvas",
    [
        draw_canvas(picture(1024, 1024), None, Size(1280, 1024)),
        draw_canvas(picture(1024, 1024), spots(1024, 1024, (200, 200)), Size(1024, 1400)),
        draw_canvas(picture(1024, 1024), spots(1024, 1024, (500, 500), radius=420), None),
        draw_canvas(picture(320, 320), spots(320, 320, (100, 100)), None),
    ],
    ids=["bars", "bars and a mask", "a large mask", "a small picture"],
)
def test_auto_is_the_whole_canvas_where_that_is_due(canvas: Canvas) -> None:
    assert areas_of(canvas, "auto").parts == (canvas,)


def test_grey_that_the_model_does_not_fill_stays_the_original_where_no_area_is() -> None:
    mask = spots(1024, 1024, (130, 130))
    mask.paste(100, (700, 700, 760, 760))  # under 128
    canvas = draw_canvas(picture(1024, 1024), mask, None)
    areas = areas_of(canvas, "auto")
    assert areas.regions == ((0, 0, 384, 384),)
    output = paste_back(canvas, areas.together([filled_with(areas.parts[0], (255, 0, 0))]))
    grey = (700, 700, 760, 760)
    assert output.crop(grey).tobytes() == canvas.original.crop(grey).tobytes()
    assert output.getpixel((130, 130)) == (255, 0, 0)


def test_regions_end_where_the_output_ends() -> None:
    # 1000 is no multiple of 16: the canvas has eight more columns and rows, which are cut off again.
    canvas = draw_canvas(picture(1000, 1000), spots(1000, 1000, (990, 990)), None)
    assert (canvas.width, areas_of(canvas, "auto").regions) == (1008, ((624, 624, 376, 376),))


def test_each_areas_seam_is_mended_by_its_own_surroundings() -> None:
    # Each crop comes out in its own wrong tone; measured over the canvas as a whole the two would be mixed.
    canvas = draw_canvas(Image.new("RGB", (1024, 1024), (100, 100, 100)), spots(1024, 1024, (90, 90), (900, 900)), None)
    areas = areas_of(canvas, "auto")
    made = [
        Image.new("RGB", (part.width, part.height), (tone,) * 3)
        for part, tone in zip(areas.parts, (106, 95), strict=True)
    ]
    output = np.asarray(paste_back(canvas, areas.together(made))).astype(int)
    assert np.abs(output - 100).max() <= 1
