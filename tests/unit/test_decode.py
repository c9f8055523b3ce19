"""What a user's file may be, and what becomes of one that is broken, hostile, or no picture at all."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw
from PIL.ExifTags import Base

from common.errors import Rejected
from common.settings import Environment, Settings
from worker.decode import decode_image, decode_mask

SETTINGS = Settings(fillfleet_env=Environment.TEST)
Array = npt.NDArray[np.uint8]


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """A small colourful picture without symmetry."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))
    ImageDraw.Draw(image).rectangle((2, 3, 12, 9), fill=(250, 10, 30))
    return image


def saved(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    return decode_image(data, what="image", settings=SETTINGS)


def decoded_mask(data: bytes) -> Array:
    mask = decode_mask(data, what="mask_image", settings=SETTINGS)
    assert mask.mode == "L"
    return np.asarray(mask)


def refused(data: bytes, settings: Settings = SETTINGS) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode_image(data, what="image", settings=settings)
    assert caught.value.message.startswith("image: ")
    return caught.value


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand, for what Pillow reads but cannot write. `rows` begin each with a filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


SIXTEEN_BIT = np.array([[0, 128, 257, 32896, 65279, 65535]], dtype=">u2")
IN_EIGHT_BITS = [0, 0, 1, 128, 254, 255]


class TestFormatsAndModes:
    @pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
    def test_a_lossless_file_comes_back_bit_for_bit(self, file_format: str, options: dict[str, object]) -> None:
        assert same(decoded(saved(picture(), file_format, **options)), picture())

    def test_a_jpeg_comes_back_close_to_what_it_was(self) -> None:
        image = decoded(saved(picture(), "JPEG", quality=98, subsampling=0))
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(picture()))
        assert image.mode == "RGB"
        assert difference.mean() < 2

    @pytest.mark.parametrize("mode", ["1", "L", "P"])
    def test_grey_bilevel_and_palette_pictures_become_rgb(self, mode: str) -> None:
        stored = picture().convert(mode)
        assert same(decoded(saved(stored)), stored.convert("RGB"))

    def test_a_grey_jpeg_becomes_rgb(self) -> None:
        image = decoded(saved(Image.new("L", (32, 32), 77), "JPEG"))
        assert image.mode == "RGB"
        assert image.getpixel((9, 9)) == (77, 77, 77)

    def test_a_cmyk_jpeg_becomes_rgb_of_the_right_colour(self) -> None:
        image = decoded(saved(Image.new("RGB", (32, 32), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95))
        assert image.mode == "RGB"
        assert np.allclose(np.asarray(image)[9, 9], (200, 40, 90), atol=4)

    @pytest.mark.parametrize(("mode", "file_format"), [("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP")])
    def test_alpha_is_kept_beside_the_very_colours(self, mode: str, file_format: str) -> None:
        stored = picture().convert(mode)
        stored.putalpha(Image.fromarray(np.arange(48 * 32, dtype=np.uint32).reshape(32, 48).astype(np.uint8)))
        options: dict[str, object] = {} if file_format == "PNG" else {"lossless": True, "exact": True}
        assert same(decoded(saved(stored, file_format, **options)), stored.convert("RGBA"))

    def test_an_alpha_channel_that_is_opaque_everywhere_is_dropped(self) -> None:
        assert same(decoded(saved(picture().convert("RGBA"))), picture())

    def test_a_palette_with_transparency_becomes_alpha(self) -> None:
        stored = Image.new("P", (4, 1))
        stored.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
        stored.putdata([0, 1, 2, 3])
        one_clear = np.asarray(decoded(saved(stored, transparency=1)))
        assert one_clear[0, :, 3].tolist() == [255, 0, 255, 255]
        assert one_clear[0, :, :3].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]
        graded = np.asarray(decoded(saved(stored, transparency=bytes([0, 90, 255, 255]))))
        assert graded[0, :, 3].tolist() == [0, 90, 255, 255]

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_a_colour_that_the_file_calls_transparent_becomes_alpha(self, mode: str) -> None:
        stored = Image.new("RGB", (2, 1), (7, 7, 7))
        stored.putpixel((1, 0), (200, 200, 200))
        image = decoded(saved(stored.convert(mode), transparency=7 if mode == "L" else (7, 7, 7)))
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [(7, 7, 7, 0), (200, 200, 200, 255)]

    def test_sixteen_bit_grey_is_scaled_and_not_clipped(self) -> None:
        image = np.asarray(decoded(png(6, 1, 16, 0, b"\0" + SIXTEEN_BIT.tobytes())))
        assert image.shape == (1, 6, 3)
        assert image[0, :, 1].tolist() == IN_EIGHT_BITS

    def test_sixteen_bit_colour_is_scaled_and_not_clipped(self) -> None:
        rows = b"\0" + np.stack([SIXTEEN_BIT] * 3, axis=-1).astype(">u2").tobytes()
        assert np.asarray(decoded(png(6, 1, 16, 2, rows)))[0, :, 2].tolist() == IN_EIGHT_BITS

    def test_sixteen_bit_grey_with_alpha_keeps_both(self) -> None:
        rows = b"\0" + np.stack([SIXTEEN_BIT, SIXTEEN_BIT[:, ::-1]], axis=-1).astype(">u2").tobytes()
        image = np.asarray(decoded(png(6, 1, 16, 4, rows)))
        assert image[0, :, 0].tolist() == IN_EIGHT_BITS
        assert image[0, :, 3].tolist() == IN_EIGHT_BITS[::-1]

    def test_a_transparent_sixteen_bit_grey_becomes_alpha(self) -> None:
        clear = chunk(b"tRNS", struct.pack(">H", 32896))
        image = np.asarray(decoded(png(6, 1, 16, 0, b"\0" + SIXTEEN_BIT.tobytes(), clear)))
        assert image[0, :, 3].tolist() == [255, 255, 255, 0, 255, 255]

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_of_an_animation_the_first_frame_counts(self, file_format: str) -> None:
        second = Image.new("RGB", (48, 32), (0, 0, 255))
        data = saved(picture(), file_format, save_all=True, append_images=[second], duration=50, lossless=True)
        assert same(decoded(data).convert("RGB"), picture())

    def test_of_a_camera_file_with_several_pictures_the_first_counts(self) -> None:
        first, second = Image.new("RGB", (32, 32), (200, 30, 30)), Image.new("RGB", (32, 32), (0, 0, 255))
        image = decoded(saved(first, "MPO", save_all=True, append_images=[second]))
        assert np.allclose(np.asarray(image)[5, 5], (200, 30, 30), atol=3)

    def test_nothing_of_the_file_but_its_pixels_is_handed_on(self) -> None:
        exif = Image.Exif()
        exif[Base.ImageDescription] = "where I live"
        data = saved(picture(), "JPEG", exif=exif, dpi=(300, 300), comment=b"hello")
        assert decoded(data).info == {}
        assert decode_mask(data, what="mask_image", settings=SETTINGS).info == {}


class TestOrientation:
    # What the EXIF standard says that each value means, written with arrays.
    UPRIGHT: ClassVar[dict[int, Callable[[Array], Array]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_pictures_and_masks_are_turned_upright(self, orientation: int, file_format: str) -> None:
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        data = saved(picture(), file_format, exif=exif, lossless=True)
        turn = self.UPRIGHT[orientation]
        assert np.array_equal(np.asarray(decoded(data)), turn(np.asarray(picture())))
        assert np.array_equal(decoded_mask(data), turn(np.asarray(picture().convert("L"))))

    def test_a_phone_s_jpeg_is_turned_upright(self) -> None:
        exif = Image.Exif()
        exif[Base.Orientation] = 6
        assert decoded(saved(picture(48, 32), "JPEG", exif=exif)).size == (32, 48)

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_does_not_exist_is_ignored(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        assert same(decoded(saved(picture(), exif=exif)), picture())

    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
    )
    def test_broken_exif_is_ignored(self, exif: bytes) -> None:
        assert same(decoded(saved(picture(), exif=exif)), picture())


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # made once, for the date is in it
SWAPPED = SRGB.replace(b"rXYZ", b"swap").replace(b"gXYZ", b"rXYZ").replace(b"swap", b"gXYZ")
"""sRGB with red and green exchanged: a profile whose effect cannot be overlooked."""


def rounded_srgb() -> bytes:
    """sRGB as another program would spell it: red's primary differs in the fourth decimal."""
    spelled = bytearray(SRGB)
    entry = SRGB.index(b"rXYZ")
    place = struct.unpack(">I", SRGB[entry + 4 : entry + 8])[0] + 8
    spelled[place : place + 4] = struct.pack(">i", struct.unpack(">i", SRGB[place : place + 4])[0] + 24)
    return bytes(spelled)


ROUNDED = rounded_srgb()


def linear_grey_profile() -> bytes:
    """The smallest ICC profile of grey whose values are amounts of light (gamma 1)."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv" + bytes(8)
    tags = [(b"wtpt", white), (b"kTRC", curve)]
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags:
        table += name + struct.pack(">II", offset + len(body), len(value))
        body += value
    header = bytearray(128)
    header[0:4] = struct.pack(">I", offset + len(body))
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = b"mntrGRAYXYZ "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    return bytes(header) + table + body


class TestColourProfiles:
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_a_profile_is_applied(self, file_format: str) -> None:
        red = Image.new("RGB", (8, 8), (255, 0, 0))
        image = decoded(saved(red, file_format, icc_profile=SWAPPED, lossless=True))
        assert image.getpixel((3, 3)) == (0, 255, 0)

    @pytest.mark.parametrize("exactly", [True, False])
    def test_a_profile_that_is_srgb_leaves_every_bit(self, exactly: bool) -> None:
        noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        assert same(decoded(saved(noise, icc_profile=SRGB if exactly else ROUNDED)), noise)

    def test_the_rounded_srgb_of_these_tests_would_move_some_bits(self) -> None:
        noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        profile = ImageCms.ImageCmsProfile(io.BytesIO(ROUNDED))
        moved = ImageCms.profileToProfile(noise, profile, ImageCms.createProfile("sRGB"))
        assert moved is not None
        assert moved.tobytes() != noise.tobytes()

    def test_a_profile_leaves_the_alpha_alone(self) -> None:
        stored = Image.new("RGBA", (2, 1), (255, 0, 0, 90))
        stored.putpixel((1, 0), (255, 0, 0, 0))
        image = decoded(saved(stored, icc_profile=SWAPPED))
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [(0, 255, 0, 90), (0, 255, 0, 0)]

    def test_a_profile_reaches_palette_pictures(self) -> None:
        stored = Image.new("RGB", (8, 8), (255, 0, 0)).quantize(4)
        assert decoded(saved(stored, icc_profile=SWAPPED)).getpixel((3, 3)) == (0, 255, 0)

    def test_a_grey_profile_is_applied(self) -> None:
        image = decoded(saved(Image.new("L", (8, 8), 128), icc_profile=linear_grey_profile()))
        assert np.allclose(np.asarray(image)[3, 3], (188, 188, 188), atol=2)  # sRGB's value for half the light

    @pytest.mark.parametrize("profile", [b"junk", b"x" * 200, SRGB[:300], linear_grey_profile()])
    def test_a_broken_or_foreign_profile_is_ignored(self, profile: bytes) -> None:
        assert same(decoded(saved(picture(), icc_profile=profile)), picture())

    def test_a_mask_s_profile_is_left_aside(self) -> None:
        assert decoded_mask(saved(Image.new("L", (8, 8), 128), icc_profile=linear_grey_profile()))[3, 3] == 128


class TestMasks:
    def test_a_colour_mask_counts_by_luminance(self) -> None:
        stored = Image.new("RGB", (4, 1))
        stored.putdata([(0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128)])
        assert decoded_mask(saved(stored))[0].tolist() == [0, 255, 76, 128]

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
    def test_black_and_white_means_the_same_in_every_mode(self, mode: str) -> None:
        stored = Image.new("L", (8, 8))
        stored.paste(255, (2, 2, 5, 6))
        assert np.array_equal(decoded_mask(saved(stored.convert(mode))), np.asarray(stored))

    def test_a_sixteen_bit_mask_is_scaled(self) -> None:
        assert decoded_mask(png(6, 1, 16, 0, b"\0" + SIXTEEN_BIT.tobytes()))[0].tolist() == IN_EIGHT_BITS

    @pytest.mark.parametrize("ground", [None, (0, 0, 0)])
    def test_a_hole_in_the_file_is_what_is_filled(self, ground: tuple[int, int, int] | None) -> None:
        stored = picture() if ground is None else Image.new("RGB", (48, 32), ground)
        alpha = Image.new("L", (48, 32), 255)
        alpha.paste(0, (10, 10, 20, 20))
        alpha.paste(100, (20, 10, 22, 20))
        stored.putalpha(alpha)
        assert np.array_equal(decoded_mask(saved(stored)), 255 - np.asarray(alpha))

    def test_white_paint_on_a_clear_layer_is_what_is_filled(self) -> None:
        stored = Image.new("RGBA", (48, 32), (0, 0, 0, 0))
        stored.paste((255, 255, 255, 255), (10, 10, 20, 20))
        stored.paste((255, 255, 255, 100), (20, 10, 22, 20))
        assert np.array_equal(decoded_mask(saved(stored)), np.asarray(stored.getchannel("A")))

    @pytest.mark.parametrize("level", [0, 120, 255])
    def test_an_alpha_that_is_the_same_everywhere_says_nothing(self, level: int) -> None:
        stored = Image.new("L", (8, 8))
        stored.paste(255, (2, 2, 5, 6))
        layered = stored.convert("RGB")
        layered.putalpha(level)
        assert np.array_equal(decoded_mask(saved(layered)), np.asarray(stored))

    def test_a_mask_is_refused_under_its_own_name(self) -> None:
        with pytest.raises(Rejected, match=r"^mask_image: not an image") as caught:
            decode_mask(b"hello", what="mask_image", settings=SETTINGS)
        assert caught.value.code == "image_not_an_image"


def webp_bomb() -> bytes:
    whole = bytearray(saved(Image.new("RGBA", (16, 16), (1, 2, 3, 4)), "WEBP"))
    assert whole[12:16] == b"VP8X"
    whole[24:30] = (16382).to_bytes(3, "little") * 2
    return bytes(whole)


def jpeg_bomb() -> bytes:
    whole = bytearray(saved(picture(), "JPEG"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    return bytes(whole)


def metadata_bomb(name: bytes) -> bytes:
    return png(1, 1, 8, 0, b"\0\0", chunk(name, b"x\0\0" + zlib.compress(bytes(200_000_000), 1)))


BOMBS = {
    "just-over": ("image_too_large", png(8001, 8000, 8, 2, bytes(100_000))),
    "over-pillows-warning": ("image_too_large", png(10_000, 10_000, 8, 2, bytes(100_000))),
    "over-pillows-limit": ("image_too_large", png(50_000, 50_000, 8, 2, bytes(100_000))),
    "widest": ("image_too_large", png(2**31 - 1, 2**31 - 1, 8, 2, bytes(100_000))),
    "jpeg": ("image_too_large", jpeg_bomb()),
    "webp": ("image_too_large", webp_bomb()),
    "text": ("image_truncated", metadata_bomb(b"zTXt")),
    "profile": ("image_truncated", metadata_bomb(b"iCCP")),
}

WEIGH_BOMBS = """
import json, resource, sys, warnings
from pathlib import Path
from PIL import Image, ImageCms
from common.errors import Rejected
from common.settings import Environment, Settings
from worker.decode import decode_image
settings, refused = Settings(fillfleet_env=Environment.TEST), 0
bombs = [path.read_bytes() for path in Path(sys.argv[1]).iterdir()]
Image.init()
warnings.simplefilter("ignore")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode_image(bomb, what="image", settings=settings)
    except Rejected:
        refused += 1
print(json.dumps([refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


class TestBadFiles:
    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"", "the file is empty"),
            (b"<html><body>404</body></html>", "it starts with '<html><body>404<'"),
            (b'{"error": "no"}', 'it starts with \'{"error": "no"}\''),
            (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "it starts with the bytes 00 01 02 03 04 05 06 07"),
            (b"SIMPLE  =                    T / FITS", "it starts with 'SIMPLE  ='"),
            (saved(picture(), "GIF"), "it is a GIF file"),
            (saved(picture(), "TIFF"), "it is a TIFF file"),
            (saved(picture(), "BMP"), "it is a BMP file"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "it is an AVIF file"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "it is a HEIC or video file"),
        ],
    )
    def test_what_is_no_png_jpeg_or_webp_is_refused_by_what_it_is(self, data: bytes, found: str) -> None:
        refusal = refused(data)
        assert refusal.code == "image_not_an_image"
        assert found in refusal.message
        assert "send a PNG, JPEG or WebP of at most 64 megapixels" in refusal.message

    @pytest.mark.parametrize(("file_format", "name"), [("PNG", "PNG"), ("JPEG", "JPEG"), ("WEBP", "WebP")])
    def test_a_file_cut_short_is_refused_and_never_half_decoded(self, file_format: str, name: str) -> None:
        noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (90, 120, 3), dtype=np.uint8))
        data = saved(noise, file_format)
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            refusal = refused(data[: max(16, int(len(data) * share))])
            assert refusal.code == "image_truncated"
            assert f"the {name} file is incomplete or damaged" in refusal.message
            assert "object at 0x" not in refusal.message

    @given(data=st.data())
    @hypothesis_settings(max_examples=150, deadline=None)
    def test_a_damaged_file_is_either_a_picture_of_its_size_or_refused(self, data: st.DataObject) -> None:
        file_format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
        exif = Image.Exif()
        exif[Base.Orientation] = 3
        whole = bytearray(saved(picture(), file_format, exif=exif, icc_profile=SWAPPED))
        for _ in range(data.draw(st.integers(1, 6))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        small = SETTINGS.model_copy(update={"image_max_pixels": 512 * 512})
        # Anything but a Rejected would fail here.
        with contextlib.suppress(Rejected):
            image = decode_image(bytes(whole), what="image", settings=small)
            assert image.mode in {"RGB", "RGBA"}
            assert image.width * image.height <= 512 * 512

    def test_more_pixels_than_the_setting_allows_are_refused(self) -> None:
        small = SETTINGS.model_copy(update={"image_max_pixels": 512 * 512})
        assert decode_image(saved(Image.new("L", (512, 512))), what="image", settings=small).size == (512, 512)
        refusal = refused(saved(Image.new("L", (512, 513))), small)
        assert refusal.code == "image_too_large"
        assert "512x513 pixels are 0.263 megapixels" in refusal.message
        assert "at most 0.262 megapixels" in refusal.message

    @pytest.mark.parametrize("name", list(BOMBS))
    def test_a_bomb_is_refused_at_once(self, name: str) -> None:
        started = time.thread_time()  # not the clock's: that goes on while this machine stands still
        code, data = BOMBS[name]
        assert refused(data).code == code
        assert time.thread_time() - started < 2

    def test_bombs_take_no_memory(self, tmp_path: Path) -> None:
        # A process of its own, since the highest mark of this one may be far above already.
        for name, (_, data) in BOMBS.items():
            (tmp_path / name).write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-c", WEIGH_BOMBS, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
        )
        refused_bombs, mebibytes = json.loads(done.stdout)
        assert refused_bombs == len(BOMBS)
        assert mebibytes < 48

    def test_a_jpeg_of_endless_scans_is_stopped(self) -> None:
        whole = saved(Image.new("L", (3000, 3000), 99), "JPEG", progressive=True)
        scan = whole[whole.rindex(b"\xff\xda") : -2]  # a few bytes, and yet all blocks are visited for them
        assert len(scan) < 64
        assert decoded(whole[:-2] + scan * 20 + b"\xff\xd9").size == (3000, 3000)
        data = whole[:-2] + scan * 20_000 + b"\xff\xd9"
        brief = SETTINGS.model_copy(update={"image_decode_seconds": 0.3})
        started = time.thread_time()
        refusal = refused(data, brief)
        assert time.thread_time() - started < 5  # and a minute otherwise
        assert refusal.code == "image_too_slow"
        assert "more than 0.3 seconds" in refusal.message
