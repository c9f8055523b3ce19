"""Each line of the design's Canvas section: what is filled, what is kept, and at which size."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from common.contract import MAX_SIDE, MIN_SIDE, Size
from common.errors import Rejected
from common.settings import Environment, Settings
from worker.canvas import Canvas, draw_canvas, paste_back
from worker.decode import decode_mask
from worker.encode import encode_image

Array = npt.NDArray[np.uint8]


def noise(width: int, height: int, seed: int = 1, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values)


def smooth(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(20, 235, width), np.linspace(20, 235, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))


def box_mask(width: int, height: int, box: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(value, box)
    return mask


def generated(canvas: Canvas, seed: int = 99) -> Image.Image:
    return noise(canvas.width, canvas.height, seed)


def pixels(image: Image.Image) -> Array:
    return np.asarray(image)


def check_shape(canvas: Canvas) -> None:
    """What holds for every canvas."""
    assert (canvas.image.mode, canvas.mask.mode, canvas.original.mode, canvas.blend.mode) == ("RGB", "L", "RGB", "L")
    assert canvas.image.size == canvas.mask.size == (canvas.width, canvas.height)
    assert canvas.original.size == canvas.blend.size == (canvas.output_width, canvas.output_height)
    assert canvas.width % 16 == canvas.height % 16 == 0
    assert 0 <= canvas.width - canvas.output_width < 16
    assert 0 <= canvas.height - canvas.output_height < 16
    assert set(np.unique(pixels(canvas.mask))) <= {0, 255}
    assert 0 < canvas.coverage <= 1


class TestMask:
    def test_white_is_filled_and_black_is_kept(self) -> None:
        mask = box_mask(256, 256, (64, 96, 128, 160))
        canvas = draw_canvas(smooth(256, 256), mask, None)
        assert np.array_equal(pixels(canvas.mask), pixels(mask))
        assert canvas.coverage == 64 * 64 / 256**2

    @pytest.mark.parametrize(("value", "snapped"), [(0, 0), (7, 0), (8, 8), (247, 247), (248, 255), (255, 255)])
    def test_under_eight_snaps_to_zero_and_over_247_to_full(self, value: int, snapped: int) -> None:
        mask = Image.new("L", (256, 256), value)
        mask.paste(255, (0, 0, 256, 20))  # so that something is filled whatever the value is
        canvas = draw_canvas(smooth(256, 256), mask, None)
        assert (pixels(canvas.blend)[40:] == snapped).all()

    @pytest.mark.parametrize(("value", "counts"), [(127, 0), (128, 255)])
    def test_grey_counts_as_filled_for_the_model_from_128(self, value: int, counts: int) -> None:
        mask = box_mask(256, 256, (100, 100, 200, 200), value)
        mask.paste(255, (0, 0, 20, 20))
        canvas = draw_canvas(smooth(256, 256), mask, None)
        assert (pixels(canvas.mask)[100:200, 100:200] == counts).all()

    @pytest.mark.parametrize("value", [8, 64, 128, 200, 247])
    def test_grey_blends_softly_in_proportion(self, value: int) -> None:
        mask = box_mask(256, 256, (100, 100, 200, 200), value)
        mask.paste(255, (0, 0, 20, 20))
        canvas = draw_canvas(Image.new("RGB", (256, 256), (0, 0, 0)), mask, None)
        out = pixels(paste_back(canvas, Image.new("RGB", (256, 256), (255, 255, 255))))
        assert (out[110:190, 110:190] == value).all()

    def test_a_mask_saved_as_jpeg_keeps_what_is_well_outside_exact(self) -> None:
        mask = Image.new("L", (512, 512))
        ImageDraw.Draw(mask).ellipse((150, 150, 350, 350), fill=255)
        buffer = io.BytesIO()
        mask.save(buffer, "JPEG", quality=80)
        noisy = decode_mask(buffer.getvalue(), what="mask_image", settings=Settings(fillfleet_env=Environment.TEST))
        assert np.count_nonzero(pixels(noisy)) - np.count_nonzero(pixels(mask)) > 0  # it is noisy
        image = noise(512, 512)
        out = pixels(paste_back(draw_canvas(image, noisy, None), noise(512, 512, 2)))
        kept = np.ones((512, 512), dtype=bool)
        kept[136:368, 136:368] = False  # JPEG's noise stays within its blocks of 8 (16 with luminance doubled)
        assert np.array_equal(out[kept], pixels(image)[kept])

    @pytest.mark.parametrize("mask_size", [(128, 128), (300, 200), (512, 256), (256, 900), (1024, 1024)])
    def test_a_mask_of_another_size_is_brought_to_the_image_s(self, mask_size: tuple[int, int]) -> None:
        width, height = mask_size
        mask = box_mask(width, height, (width // 4, height // 4, width // 2, height // 2))
        filled = pixels(draw_canvas(smooth(256, 256), mask, None).mask) > 0
        wanted = np.zeros((256, 256), dtype=bool)
        wanted[64:128, 64:128] = True
        rows, columns = np.nonzero(filled)
        assert np.abs(np.array([rows.min(), columns.min()]) - 64).max() <= 2
        assert np.abs(np.array([rows.max(), columns.max()]) - 127).max() <= 2
        assert np.mean(filled == wanted) > 0.98

    @pytest.mark.parametrize("side", [256, 281, 400, 512, 1000, 1536])
    @pytest.mark.parametrize("position", [0, 101, 511])
    def test_a_hairline_survives_any_resizing_of_the_mask(self, side: int, position: int) -> None:
        for upright in (False, True):
            mask = Image.new("L", (512, 512))
            line = (position, 0, position, 511) if upright else (0, position, 511, position)
            ImageDraw.Draw(mask).line(line, fill=255)
            canvas = draw_canvas(smooth(512, 512), mask, Size(side, side))
            strongest = pixels(canvas.blend).max(axis=1 if upright else 0)
            assert (strongest == 255).all()

    def test_what_was_black_and_white_stays_so_when_the_mask_shrinks(self) -> None:
        mask = Image.fromarray((pixels(noise(900, 900))[..., 0] > 250).astype(np.uint8) * np.uint8(255))
        canvas = draw_canvas(smooth(900, 900), mask, Size(300, 300))
        # 3 x 3 pixels of the mask fall on one of the canvas, and the brightest of them counts.
        together = pixels(mask).reshape(300, 3, 300, 3).max(axis=(1, 3))
        assert np.array_equal(pixels(canvas.mask)[:300, :300], together)

    def test_the_mask_counts_alone_where_the_image_has_alpha_too(self) -> None:
        image = noise(256, 256, mode="RGBA")
        mask = box_mask(256, 256, (10, 10, 60, 60))
        canvas = draw_canvas(image, mask, None)
        assert np.array_equal(pixels(canvas.mask), pixels(mask))
        assert np.array_equal(pixels(canvas.original), pixels(image)[..., :3])

    def test_colours_under_alpha_are_not_lost_in_resizing_where_a_mask_is_given(self) -> None:
        image = smooth(600, 600)
        image.putalpha(box_mask(600, 600, (0, 0, 300, 600)))
        canvas = draw_canvas(image, box_mask(600, 600, (0, 0, 100, 100)), Size(300, 300))
        assert np.abs(pixels(canvas.original).astype(int) - pixels(smooth(300, 300))).max() <= 3

    @pytest.mark.parametrize("value", [0, 7, 127])
    def test_an_empty_mask_is_refused(self, value: int) -> None:
        with pytest.raises(
            Rejected, match=rf"^mask_image: the mask is empty: its brightest pixel is {value} of 255"
        ) as no:
            draw_canvas(smooth(300, 300), Image.new("L", (300, 300), value), None)
        assert no.value.code == "mask_empty"

    def test_an_empty_mask_is_fine_where_bars_are_outpainted(self) -> None:
        canvas = draw_canvas(smooth(300, 300), Image.new("L", (300, 300)), Size(600, 300))
        assert canvas.coverage == 0.5

    def test_a_full_mask_fills_everything(self) -> None:
        canvas = draw_canvas(smooth(300, 300), Image.new("L", (300, 300), 255), None)
        assert canvas.coverage == 1
        made = generated(canvas)
        assert np.array_equal(pixels(paste_back(canvas, made)), pixels(made)[:300, :300])


class TestAlpha:
    def image(self, alpha: Image.Image) -> Image.Image:
        image = smooth(*alpha.size)
        image.putalpha(alpha)
        return image

    def test_without_a_mask_transparent_pixels_are_the_mask(self) -> None:
        hole = box_mask(256, 256, (64, 64, 128, 128))
        canvas = draw_canvas(self.image(hole.point(lambda v: 255 - v)), None, None)
        assert np.array_equal(pixels(canvas.mask), pixels(hole))

    def test_half_transparent_pixels_blend_softly(self) -> None:
        alpha = Image.new("L", (256, 256), 255)
        alpha.paste(155, (64, 64, 128, 128))
        alpha.paste(0, (128, 64, 192, 128))
        canvas = draw_canvas(self.image(alpha), None, None)
        assert pixels(canvas.blend)[96, 96] == 100
        assert pixels(canvas.mask)[96, 96] == 0
        assert pixels(canvas.mask)[96, 160] == 255

    def test_opaque_pixels_stay_exact(self) -> None:
        alpha = Image.new("L", (256, 256), 255)
        alpha.paste(0, (64, 64, 128, 128))
        image = noise(256, 256)
        image.putalpha(alpha)
        canvas = draw_canvas(image, None, None)
        out, opaque = pixels(paste_back(canvas, generated(canvas))), pixels(alpha) == 255
        assert np.array_equal(out[opaque], pixels(image)[opaque][:, :3])

    def test_the_junk_under_transparent_pixels_does_not_fringe_the_edge(self) -> None:
        image = Image.new("RGBA", (512, 512), (200, 150, 100, 255))
        image.paste((0, 0, 0, 0), (200, 200, 300, 300))  # black, as most editors leave it
        canvas = draw_canvas(image, None, None)
        out = pixels(paste_back(canvas, Image.new("RGB", (512, 512), (200, 150, 100))))
        assert np.abs(out.astype(int) - (200, 150, 100)).max() <= 3

    def test_alpha_and_bars_are_filled_together(self) -> None:
        hole = box_mask(256, 256, (64, 64, 128, 128))
        canvas = draw_canvas(self.image(hole.point(lambda v: 255 - v)), None, Size(512, 256))
        wanted = np.full((256, 512), 255, dtype=np.uint8)
        wanted[:, 128:384] = pixels(hole)
        assert np.array_equal(pixels(canvas.mask), wanted)


class TestBars:
    @pytest.mark.parametrize(
        ("image_size", "size", "box"),
        [
            ((512, 512), Size(1024, 512), (256, 0, 768, 512)),
            ((512, 512), Size(512, 1024), (0, 256, 512, 768)),
            ((400, 300), Size(1024, 1024), (0, 128, 1024, 896)),
            ((3000, 1000), Size(600, 600), (0, 200, 600, 400)),
            ((300, 400), Size(1000, 256), (404, 0, 596, 256)),
            ((5000, 2), Size(512, 512), (0, 255, 512, 256)),
        ],
    )
    @pytest.mark.parametrize("masked", [False, True])
    def test_the_image_lies_whole_and_centred_and_the_bars_are_filled(
        self, image_size: tuple[int, int], size: Size, box: tuple[int, int, int, int], masked: bool
    ) -> None:
        mask = box_mask(*image_size, (0, 0, image_size[0] // 2, image_size[1])) if masked else None
        canvas = draw_canvas(smooth(*image_size), mask, size)
        check_shape(canvas)
        left, top, right, bottom = box
        wanted = np.full((size.height, size.width), 255, dtype=np.uint8)
        wanted[top:bottom, left:right] = 0
        if masked:
            wanted[top:bottom, left : (left + right) // 2] = 255
        assert np.array_equal(pixels(canvas.mask)[: size.height, : size.width], wanted)

    def test_an_image_that_fits_as_it_is_stays_exact_between_the_bars(self) -> None:
        image = noise(500, 400)
        canvas = draw_canvas(image, None, Size(901, 400))
        out = paste_back(canvas, generated(canvas))
        assert out.size == (901, 400)
        assert np.array_equal(pixels(out)[:, 200:700], pixels(image))

    def test_the_edge_of_the_image_goes_over_into_the_bars(self) -> None:
        image = Image.new("RGB", (512, 512), (200, 150, 100))
        canvas = draw_canvas(image, None, Size(1024, 512))
        out = pixels(paste_back(canvas, Image.new("RGB", (1024, 512), (200, 150, 100))))
        assert np.abs(out.astype(int) - (200, 150, 100)).max() <= 3  # a grey or black bar would show in the feather

    def test_without_mask_alpha_and_bars_there_is_nothing_to_fill(self) -> None:
        with pytest.raises(Rejected, match=r"^image: nothing to fill: there is no mask_image") as no:
            draw_canvas(smooth(512, 512), None, Size(1024, 1024))
        assert no.value.code == "nothing_to_fill"
        assert "size 1024*1024 has the image's own aspect" in no.value.message

    def test_an_opaque_alpha_channel_leaves_nothing_to_fill(self) -> None:
        with pytest.raises(Rejected) as no:
            draw_canvas(smooth(512, 512).convert("RGBA"), None, None)
        assert no.value.code == "nothing_to_fill"


class TestSize:
    @pytest.mark.parametrize("size", [Size(512, 512), Size(1024, 1024), Size(257, 257), Size(1023, 1023)])
    def test_a_size_of_the_image_s_aspect_resizes(self, size: Size) -> None:
        canvas = draw_canvas(smooth(640, 640), box_mask(640, 640, (0, 0, 320, 640)), size)
        check_shape(canvas)
        assert canvas.original.size == (size.width, size.height)
        reference = pixels(smooth(size.width, size.height)).astype(int)
        assert np.abs(pixels(canvas.original) - reference).mean() < 2
        half = pixels(canvas.mask)[: size.height, : size.width]
        assert abs((half[0] > 0).sum() - size.width / 2) <= 1

    @pytest.mark.parametrize(
        ("image_size", "size", "same"),
        [
            ((1000, 667), Size(1024, 683), True),  # 683.008
            ((1000, 667), Size(1024, 682), True),  # one pixel off
            ((1000, 667), Size(1024, 684), True),
            ((1000, 667), Size(1024, 685), False),
            ((1000, 667), Size(1024, 681), False),
            ((667, 1000), Size(683, 1024), True),
            ((667, 1000), Size(685, 1024), False),
            ((1500, 257), Size(1536, 262), True),  # 263.2: the long side is 7 pixels off, the short one just 1
            ((1500, 257), Size(1536, 261), False),
        ],
    )
    def test_an_aspect_is_the_same_up_to_one_pixel(self, image_size: tuple[int, int], size: Size, same: bool) -> None:
        image = smooth(*image_size)
        if same:
            with pytest.raises(Rejected):
                draw_canvas(image, None, size)
        else:
            assert draw_canvas(image, None, size).coverage < 0.01

    @pytest.mark.parametrize(
        ("image_size", "output"),
        [
            ((256, 256), (256, 256)),
            ((1000, 751), (1000, 751)),
            ((1536, 256), (1536, 256)),
            ((3072, 2048), (1536, 1024)),
            ((2000, 4000), (768, 1536)),
            ((1537, 256), (1536, 256)),
            ((1542, 256), (1536, 256)),  # 255.004
            ((100, 50), (512, 256)),
            ((1, 1), (256, 256)),
            ((600, 100), (1536, 256)),
        ],
    )
    def test_without_a_size_it_is_the_image_s_own_within_bounds(
        self, image_size: tuple[int, int], output: tuple[int, int]
    ) -> None:
        canvas = draw_canvas(smooth(*image_size), Image.new("L", image_size, 255), None)
        check_shape(canvas)
        assert (canvas.output_width, canvas.output_height) == output

    @pytest.mark.parametrize("image_size", [(1600, 200), (100, 5000), (7, 1), (1550, 256)])
    def test_an_image_too_narrow_for_its_own_size_is_refused(self, image_size: tuple[int, int]) -> None:
        with pytest.raises(Rejected) as no:
            draw_canvas(smooth(*image_size), Image.new("L", image_size, 255), None)
        assert no.value.code == "image_too_narrow"
        assert no.value.message.startswith(f"image: {image_size[0]}x{image_size[1]} pixels")
        assert "256 to 1536" in no.value.message

    @given(width=st.integers(1, 4000), height=st.integers(1, 4000))
    @hypothesis_settings(max_examples=40, deadline=None)
    def test_an_image_at_its_own_size_never_gets_bars(self, width: int, height: int) -> None:
        assume(max(width, height) <= 6 * min(width, height))
        with pytest.raises(Rejected) as no:
            draw_canvas(Image.new("RGB", (width, height)), None, None)
        assert no.value.code == "nothing_to_fill"

    @pytest.mark.parametrize(("width", "height"), [(300, 500), (1000, 751), (257, 271)])
    def test_padding_up_to_sixteen_mirrors_image_and_mask(self, width: int, height: int) -> None:
        image, mask = noise(width, height), box_mask(width, height, (width - 20, 0, width, 60))
        canvas = draw_canvas(image, mask, None)
        check_shape(canvas)
        right = canvas.width - width
        assert 0 < right < 16
        wide = pixels(canvas.image)[:height]
        assert np.array_equal(wide[:, width:], pixels(image)[:, width - 1 - right : width - 1][:, ::-1])
        assert (pixels(canvas.mask)[:60, width:] == 255).all()
        assert (pixels(canvas.mask)[60:height, width:] == 0).all()


class TestPasteBack:
    def test_zero_is_the_original_and_full_is_the_generated_picture(self) -> None:
        image, mask = noise(600, 500), box_mask(600, 500, (100, 100, 400, 400))
        canvas = draw_canvas(image, mask, None)
        made = generated(canvas)
        out, blend = pixels(paste_back(canvas, made)), pixels(canvas.blend)
        assert np.array_equal(out[pixels(mask) == 0], pixels(image)[pixels(mask) == 0])
        assert np.array_equal(out[blend == 255], pixels(made)[:500, :600][blend == 255])
        assert (blend[110:390, 110:390] == 255).all()

    def test_every_weight_mixes_as_it_says(self) -> None:
        values = np.arange(65536, dtype=np.uint32)
        kept, made = (
            (values % 256).astype(np.uint8).reshape(256, 256),
            (values // 256).astype(np.uint8).reshape(256, 256),
        )
        one, other = (Image.fromarray(np.dstack([v] * 3)) for v in (kept, made))
        for weight in (0, 1, 51, 127, 128, 204, 254, 255):
            blend = Image.new("L", (256, 256), weight)
            canvas = Canvas(one, blend, one, blend, 256, 256, 256, 256, coverage=1.0)
            exact = (kept.astype(float) * (255 - weight) + made.astype(float) * weight) / 255
            assert np.abs(pixels(paste_back(canvas, other))[..., 0] - exact).max() <= 0.51

    def test_the_feather_lies_inside_the_mask_only(self) -> None:
        canvas = draw_canvas(smooth(1024, 1024), box_mask(1024, 1024, (300, 300, 700, 700)), None)
        edge = pixels(canvas.blend)[500, 298:307]
        assert edge.tolist() == [0, 0, 51, 102, 153, 204, 255, 255, 255]

    @pytest.mark.parametrize("output_format", ["png", "webp"])
    def test_kept_pixels_are_exact_in_the_file_too(self, output_format: Any) -> None:
        image, mask = noise(300, 260), box_mask(300, 260, (50, 50, 150, 150))
        canvas = draw_canvas(image, mask, None)
        encoded = encode_image(paste_back(canvas, generated(canvas)), output_format)
        stored, kept = pixels(Image.open(io.BytesIO(encoded.data)).convert("RGB")), pixels(mask) == 0
        assert np.array_equal(stored[kept], pixels(image)[kept])

    @pytest.mark.parametrize(("mode", "size"), [("RGB", (300, 260)), ("RGBA", (304, 272)), ("RGB", (272, 304))])
    def test_a_picture_of_another_canvas_is_an_error(self, mode: str, size: tuple[int, int]) -> None:
        canvas = draw_canvas(smooth(300, 260), Image.new("L", (300, 260), 255), None)
        with pytest.raises(ValueError, match="expected RGB of 304x272"):
            paste_back(canvas, Image.new(mode, size))


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Image.Image, Image.Image | None, Size | None]:
    sides = st.integers(1, 700)
    width, height = draw(sides), draw(sides)
    image = noise(width, height, draw(st.integers(0, 99)), draw(st.sampled_from(["RGB", "RGBA"])))
    own = draw(st.booleans())
    mask_size = (width, height) if own else (draw(sides), draw(sides))
    kind = draw(st.sampled_from(["none", "shape", "grey", "noise", "empty"]))
    mask: Image.Image | None = Image.new("L", mask_size)
    if kind == "none":
        mask = None
    elif kind == "noise":
        mask = noise(*mask_size, mode="RGB").getchannel("R")
    elif kind != "empty":
        assert mask is not None
        pencil, fill = ImageDraw.Draw(mask), 255 if kind == "shape" else draw(st.integers(1, 254))
        pencil.circle((draw(st.integers(0, mask_size[0])), draw(st.integers(0, mask_size[1]))), 60, fill=fill)
        pencil.line((0, 0, *mask_size), fill=fill, width=draw(st.integers(1, 5)))
    own_size = st.just(Size(width, height)) if min(width, height) >= MIN_SIDE else st.none()
    any_size = st.builds(Size, st.integers(MIN_SIDE, 640), st.integers(MIN_SIDE, 640))
    return image, mask, draw(st.one_of(st.none(), own_size, any_size))


@given(job=jobs())
@hypothesis_settings(max_examples=200, deadline=None)
def test_whatever_the_job_kept_pixels_are_exact_and_sizes_hold(
    job: tuple[Image.Image, Image.Image | None, Size | None],
) -> None:
    image, mask, size = job
    try:
        canvas = draw_canvas(image, mask, size)
    except Rejected as refusal:
        assume(refusal.code not in {"mask_empty", "nothing_to_fill", "image_too_narrow"})
        raise
    check_shape(canvas)
    made = generated(canvas)
    out, blend = paste_back(canvas, made), pixels(canvas.blend)
    assert out.size == (canvas.output_width, canvas.output_height)
    assert all(MIN_SIDE <= side <= MAX_SIDE for side in out.size)
    if size is not None:
        assert out.size == (size.width, size.height)
    kept, full = blend == 0, blend == 255
    assert np.array_equal(pixels(out)[kept], pixels(canvas.original)[kept])
    assert np.array_equal(pixels(out)[full], pixels(made)[: out.height, : out.width][full])
    # What the model is to fill can be seen in the output, and nothing else than the mask is touched.
    filled = pixels(canvas.mask)[: out.height, : out.width] == 255
    assert (blend[filled] > 0).all()
    if out.size == image.size:
        soft = 255 - pixels(image)[..., 3] if mask is None else pixels(mask)
        if soft.shape == blend.shape:
            assert np.array_equal(kept, soft < 8)
        assert np.array_equal(pixels(out)[kept], pixels(image)[kept][:, :3])
