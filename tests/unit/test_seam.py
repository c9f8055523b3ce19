"""The seam goes, and with it goes nothing else: not the prompt's colours, no detail, and no pixel that is kept."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from common.contract import Size
from common.settings import Environment, Settings
from worker.canvas import Canvas, draw_canvas, paste_back
from worker.decode import decode_image, decode_mask
from worker.encode import OutputFormat, encode_image
from worker.seam import cell_side, mend_seam

Array = npt.NDArray[np.int16]
Colour = tuple[int, int, int]

SETTINGS = Settings(fillfleet_env=Environment.TEST)
SIDE = 512
HOLE = (150, 150, 350, 350)
SHIFT = (7, -6, 4)
MOST_IN_COMMON = 12
MOST = 68
"""Levels: 12 in common, and 32 of one place's own, in the mean square over three channels."""


def levels(image: Image.Image) -> Array:
    return np.asarray(image).astype(np.int16)


def picture(values: npt.NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values.astype(np.float64)), 0, 255).astype(np.uint8))


def shifted(image: Image.Image, shift: Colour = SHIFT) -> Image.Image:
    return picture(levels(image) + np.array(shift, dtype=np.int16))


def landscape(side: int = SIDE) -> Image.Image:
    """Colours that change slowly, far from black and white."""
    x, y = np.meshgrid(np.linspace(40, 200, side), np.linspace(60, 180, side))
    return picture(np.stack([x, y, (x + y) / 2], axis=-1))


def hole(side: int = SIDE, box: tuple[int, int, int, int] = HOLE) -> Image.Image:
    mask = Image.new("L", (side, side))
    mask.paste(255, box)
    return mask


def flat_canvas(colour: Colour, mask: Image.Image | None = None) -> Canvas:
    return draw_canvas(Image.new("RGB", (SIDE, SIDE), colour), mask or hole(), None)


def most_apart(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(levels(one) - levels(other)).max())


def masks() -> dict[str, Image.Image]:
    """Every kind of mask: hard, thin, touching the border, soft, faint."""
    drawn = {name: Image.new("L", (SIDE, SIDE)) for name in ("stroke", "hairline", "border", "faint")}
    ImageDraw.Draw(drawn["stroke"]).line((40, 470, 250, 60, 480, 300), fill=255, width=14)
    ImageDraw.Draw(drawn["hairline"]).line((0, 200, 511, 330), fill=255)
    drawn["border"].paste(255, (300, 0, 512, 260))
    drawn["faint"].paste(100, (100, 100, 300, 300))
    drawn["faint"].paste(255, (350, 350, 450, 450))
    return {"hole": hole(), "soft": hole().filter(ImageFilter.GaussianBlur(20)), **drawn}


class TestShift:
    @pytest.mark.parametrize("name", masks())
    def test_a_shift_of_the_whole_picture_is_taken_back_everywhere(self, name: str) -> None:
        canvas = draw_canvas(landscape(), masks()[name], None)
        mended = paste_back(canvas, mend_seam(canvas, shifted(canvas.image)))
        assert most_apart(mended, canvas.original) <= 1

    @pytest.mark.parametrize("shift", [(9, 9, 9), (-9, 5, 0), (0, 0, 12)])
    def test_no_ring_is_left_along_the_edge(self, shift: Colour) -> None:
        canvas = flat_canvas((120, 130, 110))
        made = Image.new("RGB", (SIDE, SIDE), tuple(np.add((120, 130, 110), shift).tolist()))
        across = levels(paste_back(canvas, mend_seam(canvas, made)))[250]
        assert np.abs(across - (120, 130, 110)).max() <= 1

    def test_a_shift_that_differs_from_place_to_place_is_taken_back_at_each(self) -> None:
        canvas = draw_canvas(landscape(), hole(), None)
        slope = np.linspace(-20, 20, SIDE)[None, :, None]
        out = levels(paste_back(canvas, mend_seam(canvas, picture(levels(canvas.image) + slope))))
        beside = np.abs(out - levels(canvas.original))[160:340]
        assert np.abs(slope[0, 155]) > 7
        assert beside[:, 150:156].max() <= 2
        assert beside[:, 344:350].max() <= 2

    @pytest.mark.parametrize("gamma", [0.95, 1.05])
    def test_a_shift_of_tone_is_taken_back_at_the_edge(self, gamma: float) -> None:
        canvas = draw_canvas(landscape(), hole(), None)
        made = picture(255 * (levels(canvas.image) / 255) ** gamma)
        before, after = (levels(paste_back(canvas, one)) for one in (made, mend_seam(canvas, made)))
        ring = np.asarray(canvas.mask.filter(ImageFilter.MinFilter(13))) == 0
        inside = (np.asarray(canvas.mask) > 0) & ring
        truth = levels(canvas.original)
        assert np.abs(after - truth)[inside].mean() < 0.4 * np.abs(before - truth)[inside].mean()

    def test_the_image_s_own_border_is_an_edge_where_bars_are_outpainted(self) -> None:
        canvas = draw_canvas(Image.new("RGB", (SIDE, SIDE), (120, 130, 110)), None, Size(1024, SIDE))
        made = Image.new("RGB", (1024, SIDE), (127, 124, 114))
        out = levels(paste_back(canvas, mend_seam(canvas, made)))
        assert np.abs(out - (120, 130, 110)).max() <= 2

    def test_black_bars_and_the_junk_under_alpha_are_no_measure(self) -> None:
        image = Image.new("RGBA", (SIDE, SIDE), (200, 150, 100, 255))
        image.paste((0, 0, 0, 0), HOLE)
        canvas = draw_canvas(image, None, Size(1024, SIDE))
        made = Image.new("RGB", (1024, SIDE), (200, 150, 100))
        assert most_apart(mend_seam(canvas, made), made) == 0


class TestContent:
    @given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(masks())))
    @hypothesis_settings(max_examples=20, deadline=None)
    def test_where_the_model_kept_the_colours_nothing_is_changed(self, seed: int, name: str) -> None:
        canvas = draw_canvas(landscape(), masks()[name], None)
        noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        made = Image.composite(Image.fromarray(noise), canvas.image, canvas.mask)
        assert mend_seam(canvas, made).tobytes() == made.tobytes()

    def test_what_was_asked_for_in_red_is_red(self) -> None:
        canvas = flat_canvas((90, 140, 200))
        wanted = canvas.image.copy()
        ImageDraw.Draw(wanted).circle((250, 250), 80, fill=(200, 40, 40))
        assert most_apart(paste_back(canvas, mend_seam(canvas, shifted(wanted))), wanted) <= 1

    @pytest.mark.parametrize("off", [20, 40, 80, 120])
    def test_however_far_off_the_surroundings_are_what_lies_deep_inside_keeps_its_colour(self, off: int) -> None:
        canvas = flat_canvas((120, 120, 120), hole(box=(100, 100, 412, 412)))
        made = Image.new("RGB", (SIDE, SIDE), (120 + off, 120 - off, 120))
        made.paste((200, 40, 40), (100, 100, 412, 412))
        out = levels(mend_seam(canvas, made))
        assert np.abs(out[200:312, 200:312] - (200, 40, 40)).max() <= MOST_IN_COMMON + 4

    def test_a_shift_of_one_place_does_not_reach_deep(self) -> None:
        canvas = flat_canvas((120, 120, 120), hole(box=(100, 100, 412, 412)))
        made = canvas.image.copy()
        made.paste((150, 130, 120), (0, 0, 100, 512))  # a quarter of the edge
        out = levels(mend_seam(canvas, made))
        assert out[256, 104].tolist() != [120, 120, 120]
        assert np.abs(out[256, 250:400] - (120, 120, 120)).max() <= 1

    def test_a_thing_that_reaches_out_of_the_mask_keeps_its_colour_and_hardly_lends_it(self) -> None:
        canvas = flat_canvas((120, 130, 110))
        wanted = canvas.image.copy()
        ImageDraw.Draw(wanted).ellipse((310, 210, 390, 290), fill=(230, 20, 20))
        out = levels(mend_seam(canvas, shifted(wanted)))
        inside = np.zeros((SIDE, SIDE), dtype=bool)
        inside[150:350, 150:350] = True
        thing = (levels(wanted)[..., 0] == 230) & inside
        assert np.abs(out[thing] - (230, 20, 20)).max() <= 12
        assert np.abs(out[inside & ~thing] - (120, 130, 110)).max() <= 12

    def test_grain_of_the_original_is_not_copied(self) -> None:
        grain = np.random.default_rng(5).normal(0, 20, (SIDE, SIDE, 3))
        canvas = draw_canvas(picture(120 + grain), hole(), None)
        made = Image.new("RGB", (SIDE, SIDE), (120, 120, 120))
        changed = levels(mend_seam(canvas, made))[150:350, 150:350] - 120
        assert changed.std() < 2
        assert np.abs(changed).max() <= 8

    @pytest.mark.parametrize("value", [64, 120])
    def test_grey_goes_on_blending_in_proportion(self, value: int) -> None:
        mask = hole()
        mask.paste(value, (400, 150, 480, 350))
        canvas = flat_canvas((40, 40, 40), mask)
        made = Image.new("RGB", (SIDE, SIDE), (48, 40, 40))
        made.paste((240, 48, 48), (400, 150, 480, 350))
        mended = mend_seam(canvas, made)
        out, full = levels(paste_back(canvas, mended)), levels(mended)
        assert np.abs(out - (40 + (full - 40) * (value / 255)))[160:340, 410:470].max() <= 1

    def test_where_nothing_is_known_the_picture_stays_as_it_is(self) -> None:
        canvas = flat_canvas((120, 130, 110), Image.new("L", (SIDE, SIDE), 255))
        made = landscape()
        assert mend_seam(canvas, made) is made


FILE_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK")


def file_of(mode: str, width: int, height: int, seed: int) -> bytes:
    """An image file of noise in the given mode."""
    generator = np.random.default_rng(seed)
    if mode == "I;16":
        image = Image.fromarray(generator.integers(0, 65536, (height, width), dtype=np.uint16))
    else:
        colours = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image = colours.convert(mode)
        if mode in {"RGBA", "LA"}:
            image.putalpha(Image.fromarray(generator.integers(0, 256, (height, width), dtype=np.uint8)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


@st.composite
def canvases(draw: st.DrawFn) -> Canvas:
    width, height = draw(st.integers(200, 420)), draw(st.integers(200, 420))
    data = file_of(draw(st.sampled_from(FILE_MODES)), width, height, draw(st.integers(0, 99)))
    image = decode_image(data, what="image", settings=SETTINGS)
    mask = Image.new("L", (width, height))
    pencil, fill = ImageDraw.Draw(mask), draw(st.sampled_from([255, 255, 200, 130]))
    point = st.tuples(st.integers(-20, width + 20), st.integers(-20, height + 20))
    match draw(st.sampled_from(["blob", "stroke", "hairline", "frame", "soft", "specks", "all"])):
        case "blob":
            pencil.circle(draw(point), draw(st.integers(20, 150)), fill=fill)
        case "stroke":
            pencil.line([draw(point), draw(point)], fill=fill, width=draw(st.integers(2, 30)))
        case "hairline":
            pencil.line([(0, draw(st.integers(0, height))), (width, draw(st.integers(0, height)))], fill=fill)
        case "frame":
            pencil.rectangle((0, 0, width - 1, height - 1), outline=fill, width=draw(st.integers(1, 60)))
        case "soft":
            pencil.circle(draw(point), 90, fill=255)
            mask = mask.filter(ImageFilter.GaussianBlur(draw(st.integers(1, 30))))
        case "specks":
            mask = Image.fromarray(np.random.default_rng(draw(st.integers(0, 9))).choice(
                np.array([0, 0, 0, 0, 40, 255], dtype=np.uint8), (height, width)))  # fmt: skip
        case "all":
            mask.paste(255, (0, 0, width, height))
    mask.paste(255, (width // 2, height // 2, width // 2 + 9, height // 2 + 9))  # so that something is filled
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    size = draw(st.one_of(st.none(), st.builds(Size, st.integers(256, 480), st.integers(256, 480))))
    return draw_canvas(image, decode_mask(buffer.getvalue(), what="mask_image", settings=SETTINGS), size)


@given(canvas=canvases(), seed=st.integers(0, 99), kind=st.sampled_from(["noise", "shift", "inverse"]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_whatever_was_made_kept_pixels_are_exact_and_grey_stays_between(canvas: Canvas, seed: int, kind: str) -> None:
    generator = np.random.default_rng(seed)
    if kind == "noise":
        made = picture(generator.integers(0, 256, (canvas.height, canvas.width, 3)))
    elif kind == "shift":
        made = shifted(canvas.image, tuple(generator.integers(-40, 41, 3).tolist()))
    else:
        made = picture(255 - levels(canvas.image))
    before = made.tobytes()

    mended = mend_seam(canvas, made)
    out = paste_back(canvas, mended)

    assert made.tobytes() == before
    assert (mended.mode, mended.size) == (made.mode, made.size)
    assert mended.tobytes() == mend_seam(canvas, made).tobytes(), "the same again"
    assert most_apart(mended, made) <= MOST
    kept = np.asarray(canvas.blend) == 0
    original, inside = levels(canvas.original), levels(mended)[: out.height, : out.width]
    assert np.array_equal(levels(out)[kept], original[kept])
    assert (levels(out) >= np.minimum(original, inside)).all()
    assert (levels(out) <= np.maximum(original, inside)).all()


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_kept_pixels_are_exact_in_the_file_too(output_format: OutputFormat) -> None:
    image = picture(np.random.default_rng(1).integers(0, 256, (260, 300, 3)))
    mask = hole(300, (50, 50, 150, 150)).crop((0, 0, 300, 260))
    canvas = draw_canvas(image, mask, None)
    encoded = encode_image(paste_back(canvas, mend_seam(canvas, shifted(canvas.image))), output_format)
    stored, kept = levels(Image.open(io.BytesIO(encoded.data)).convert("RGB")), np.asarray(mask) == 0
    assert np.array_equal(stored[kept], levels(image)[kept])


@pytest.mark.parametrize(("side", "cell"), [(256, 2), (512, 4), (1024, 8), (1536, 12)])
def test_cells_grow_with_the_output(side: int, cell: int) -> None:
    assert cell_side(side, 1536) == cell_side(1536, side) == cell
