"""What follows from a flag: which images are looked at, and that nothing of a flagged one is left that shows it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import structlog
from PIL import Image, ImageDraw

from common.contract import FillRequest
from common.errors import Rejected
from common.safety_policy import SafetyPolicy
from tests.support.drawing_model import GREEN, MAGENTA, drawing
from tests.support.fills import FillSettings
from tests.support.flags_magenta import FlagsMagenta
from worker.safety import SafetyChecker, SafetyGate
from worker.safety.flagged import BLUR_CELLS, blank, blur, stored_instead

REPLACING = [policy for policy in SafetyPolicy if policy is not SafetyPolicy.ALLOW]


def picture(ground: tuple[int, int, int], size: tuple[int, int] = (640, 400), mode: str = "RGB") -> Image.Image:
    return drawing(size, ground).convert(mode)


def request(**fields: Any) -> FillRequest:
    return FillRequest(image="https://example.com/a.jpg", **fields)


def gate(**settings: Any) -> tuple[SafetyGate, FlagsMagenta]:
    stand_in = FlagsMagenta()
    checker: SafetyChecker = stand_in
    checker.load()
    return SafetyGate(checker, FillSettings(**settings)), stand_in


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"), dtype=float)


def detail(image: Image.Image) -> float:
    """Return what differs between neighbours, as a root of the mean square."""
    values = pixels(image)
    steps = [np.diff(values, axis=axis).ravel() for axis in (0, 1)]
    return math.sqrt(float(np.mean(np.concatenate(steps) ** 2)))


# --- outputs


@pytest.mark.parametrize("policy", SafetyPolicy)
def test_an_output_that_is_not_flagged_is_stored_as_it_is_under_every_policy(policy: SafetyPolicy) -> None:
    image = picture(GREEN)
    judged = gate(safety_policy=policy)[0].judge(image, request())
    assert (judged.nsfw, judged.policy) == (False, None)
    assert judged.stored is image


@pytest.mark.parametrize("policy", SafetyPolicy)
def test_a_flagged_output_says_so_and_what_was_done_under_every_policy(policy: SafetyPolicy) -> None:
    image = picture(MAGENTA)
    before = image.tobytes()
    judged = gate(safety_policy=policy)[0].judge(image, request())
    assert (judged.nsfw, judged.policy) == (True, policy)
    assert image.tobytes() == before
    if policy is SafetyPolicy.ALLOW:
        assert judged.stored is image
    elif policy is SafetyPolicy.DROP:
        assert judged.stored is None
    else:
        assert judged.stored is not None
        assert (judged.stored.mode, judged.stored.size) == ("RGB", image.size)
        assert detail(judged.stored) < 0.1 * detail(image), "no edge of the drawing is left"


def test_each_flagged_image_leaves_a_line_in_the_log() -> None:
    with structlog.testing.capture_logs() as lines:
        gate(safety_policy="drop")[0].judge(picture(MAGENTA), request())
        gate()[0].judge(picture(GREEN), request())
    assert [(line["event"], line["what"], line["policy"]) for line in lines] == [("safety.flagged", "output", "drop")]


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_a_request_does_without_the_checker_only_where_the_operator_allows_it(asked: bool, allowed: bool) -> None:
    checks, stand_in = gate(allow_safety_checker_off=allowed, safety_check_inputs=True)
    wish = request(enable_safety_checker=asked)
    image = picture(MAGENTA)
    if allowed and not asked:
        checks.admit(image, wish)
        judged = checks.judge(image, wish)
        assert (judged.nsfw, judged.policy, judged.stored) == (None, None, image)
        assert stand_in.seen == [], "nobody looked, so nobody says"
    else:
        with pytest.raises(Rejected):
            checks.admit(image, wish)
        assert checks.judge(image, wish).nsfw is True


# --- inputs


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_flagged_input_is_refused_in_words_where_inputs_are_checked(mode: str) -> None:
    checks = gate(safety_check_inputs=True)[0]
    checks.admit(picture(GREEN, mode=mode), request())
    with pytest.raises(Rejected, match="image: the safety checker flagged this image") as caught:
        checks.admit(picture(MAGENTA, mode=mode), request())
    assert caught.value.code == "input_flagged"


def test_what_an_input_hides_under_transparent_pixels_is_looked_at_too() -> None:
    image = picture(MAGENTA)
    image.putalpha(0)
    with pytest.raises(Rejected):
        gate(safety_check_inputs=True)[0].admit(image, request())


def test_inputs_are_not_looked_at_unless_the_operator_wants_it() -> None:
    checks, stand_in = gate()
    checks.admit(picture(MAGENTA), request())
    assert stand_in.seen == []


# --- what is stored instead


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_blank_is_black_and_of_the_same_size(mode: str) -> None:
    image = picture(MAGENTA, (300, 257), mode)
    gone = blank(image)
    assert (gone.mode, gone.size) == ("RGB", (300, 257))
    assert gone.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("size", [(640, 640), (1536, 256), (256, 1536), (300, 257), (5, 9)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_blur_has_the_size_of_its_image_in_every_mode(size: tuple[int, int], mode: str) -> None:
    blurred = blur(picture(MAGENTA, size, mode))
    assert (blurred.mode, blurred.size) == ("RGB", size)


def test_a_blur_is_made_of_64_averages_and_nothing_else_of_the_picture_is_in_it() -> None:
    side = 512
    cell = side // BLUR_CELLS
    noise = np.random.default_rng(1)
    averages = noise.integers(60, 190, (BLUR_CELLS, BLUR_CELLS, 3))
    flat = np.repeat(np.repeat(averages, cell, axis=0), cell, axis=1)
    # Any picture within a cell, as long as its average is that of the cell.
    inside = noise.integers(-50, 51, (side, side, 3))
    inside[:, 1::2] = -inside[:, ::2]
    busy = Image.fromarray((flat + inside).astype(np.uint8))
    assert blur(busy).tobytes() == blur(Image.fromarray(flat.astype(np.uint8))).tobytes()


def test_two_drawings_that_differ_in_their_faces_are_hardly_told_apart_once_blurred() -> None:
    one, other = picture(MAGENTA), picture(MAGENTA).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ImageDraw.Draw(other).text((230, 190), "another face", fill="black", font_size=18)
    apart = np.abs(pixels(one) - pixels(other)).max()
    blurred = np.abs(pixels(blur(one)) - pixels(blur(other))).max()
    assert apart > 200
    assert blurred < 0.25 * apart


@pytest.mark.parametrize("policy", REPLACING)
def test_a_plain_picture_is_no_special_case(policy: SafetyPolicy) -> None:
    stored = stored_instead(Image.new("RGB", (64, 64), MAGENTA), policy)
    assert stored is None or stored.size == (64, 64)
