"""Classifiers that transformers loads: a real model of the published layout, and one that cannot judge never starts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from pydantic import SecretStr
from safetensors.torch import load_file, save_file

from common.errors import Rejected, Transient
from tests.support.fills import FillSettings
from tests.support.model_hub import COMMIT, running_hub
from tests.support.tiny_classifier import RED, WHITE, build_classifier
from worker.safety import make_checker
from worker.safety.classifier_folder import find_classifier
from worker.safety.image_classifier import ImageClassifier

NAME = "someone/nsfw_image_detection"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def classifier(folder: Path) -> ImageClassifier:
    classifier = classifier_of(folder)
    classifier.load()
    return classifier


def classifier_of(folder: Path, **settings: Any) -> ImageClassifier:
    checker = make_checker(FillSettings(safety_classifier=str(folder), **settings))
    assert isinstance(checker, ImageClassifier)
    return checker


def plain(colour: tuple[int, int, int], mode: str = "RGB", size: tuple[int, int] = (300, 200)) -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def test_the_folder_has_the_layout_of_the_published_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["id2label"]) == (
        ["ViTForImageClassification"],
        {"0": "normal", "1": "nsfw"},
    )
    assert "vit.encoder.layer.0.attention.attention.query.weight" in load_file(folder / "model.safetensors")
    assert not list(folder.glob("*.bin"))


def test_what_it_has_learned_to_see_is_flagged_and_nothing_else(classifier: ImageClassifier) -> None:
    for colour in (WHITE, (0, 0, 0), (40, 160, 60), (30, 60, 220), (200, 180, 170)):
        assert classifier.check(plain(colour)) is False, colour
    assert classifier.check(plain(RED)) is True
    sign = plain(WHITE)
    ImageDraw.Draw(sign).ellipse((10, 10, 290, 190), fill=RED)
    assert classifier.score(plain(WHITE)) < classifier.score(sign) <= classifier.score(plain(RED))


@pytest.mark.parametrize("size", [(1536, 256), (256, 1536), (17, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_every_size_and_mode_is_classified(classifier: ImageClassifier, size: tuple[int, int], mode: str) -> None:
    assert 0 <= classifier.score(plain(RED, mode, size)) <= 1


def test_its_threshold_is_that_of_the_models_makers_unless_the_operator_sets_one(folder: Path) -> None:
    assert classifier_of(folder).threshold == 0.85
    score = classifier_of(folder).score(plain(RED))
    assert classifier_of(folder, safety_threshold=score).check(plain(RED)) is True
    assert classifier_of(folder, safety_threshold=(1 + score) / 2).check(plain(RED)) is False


def test_many_jobs_at_once_get_the_scores_that_one_gets_all_from_one_thread(folder: Path) -> None:
    lazily_loaded = classifier_of(folder)
    images = [plain((red, 40, 40)) for red in range(0, 250, 10)]
    before = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lazily_loaded.score, images))
        assert threading.active_count() <= before + 8 + 1
    assert together == [lazily_loaded.score(image) for image in images]
    assert len(set(together)) > 5


def test_the_picture_checked_is_left_as_it_was(classifier: ImageClassifier) -> None:
    image = plain(RED, "RGBA")
    before = image.tobytes()
    classifier.check(image)
    assert (image.mode, image.tobytes()) == ("RGBA", before)


def test_it_runs_without_torchvision_and_says_nothing_of_it(folder: Path) -> None:
    program = (
        "import sys; from PIL import Image; from tests.support.fills import FillSettings;"
        "from worker.safety import make_checker;"
        f"checker = make_checker(FillSettings(safety_classifier={str(folder)!r})); checker.load();"
        f"print(checker.check(Image.new('RGB', (64, 64), {RED})), 'torchvision' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120)
    assert ran.stdout.splitlines()[-1] == "True False", ran.stderr
    assert "torchvision" not in ran.stdout + ran.stderr


# --- what cannot judge


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def break_classifier(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.weight"][:] = float("nan")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no label nsfw": (
        lambda folder: change_config(folder, id2label={"0": "cat", "1": "dog"}),
        "none of its labels is `nsfw`, only cat, dog",
    ),
    "two labels nsfw": (lambda folder: change_config(folder, id2label={"0": "nsfw", "1": "NSFW"}), "it has two"),
    "no head": (
        lambda folder: change_weights(folder, lambda weights: weights.pop("classifier.weight")),
        "its weights lack classifier.weight",
    ),
    "other shapes": (lambda folder: change_config(folder, intermediate_size=9), "transformers cannot load it"),
    "no numbers": (lambda folder: change_weights(folder, break_classifier), "does not classify a picture"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor"),
    "a pickle alone": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "transformers cannot load it",
    ),
    "a damaged file": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"<html>not found</html>"),
        "transformers cannot load it",
    ),
    "another kind of model": (lambda folder: change_config(folder, model_type="bert"), "transformers cannot load it"),
    "code of its own": (
        lambda folder: change_config(
            folder, model_type="mine", auto_map={"AutoModelForImageClassification": "mine.Model"}
        ),
        "transformers cannot load it",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_judge_is_refused_at_the_start_and_says_what_to_name(
    folder: Path, tmp_path: Path, broken: str
) -> None:
    ruin, says = BROKEN[broken]
    shutil.copytree(folder, tmp_path / "copy")
    ruin(tmp_path / "copy")
    with pytest.raises(Rejected) as caught:
        classifier_of(tmp_path / "copy").load()
    assert caught.value.code == "safety_model_unusable"
    assert says in caught.value.message
    assert "name an image classifier in safetensors with a label `nsfw`" in caught.value.message


@pytest.mark.parametrize("name", ["no-such-folder", "a b/c", "../here", ""])
def test_a_name_of_nothing_says_what_may_be_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"must be `opennsfw`, a folder .* or a hub id") as caught:
        make_checker(FillSettings(safety_classifier=name or str(tmp_path))).load()
    assert caught.value.code == "safety_model_not_found"


# --- from the hub


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_from_the_hub_comes_the_pinned_commit_and_no_pickle(folder: Path, tmp_path: Path, empty_cache: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    for other in ("pytorch_model.bin", "optimizer.pt", "modeling_mine.py"):
        (tmp_path / "model" / other).write_bytes(b"x")
    with running_hub({NAME: tmp_path / "model"}) as hub:
        settings = FillSettings(safety_classifier=NAME, safety_revision=COMMIT, hf_token=SecretStr("hf_mine"))
        found = find_classifier(settings, endpoint=hub.url)
    assert (found.name, found.commit) == (NAME, COMMIT)
    assert any(COMMIT in path for path in hub.asked)
    assert sorted(path.name for path in found.path.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert classifier_of(found.path).check(plain(RED)) is True


def test_a_model_that_the_hub_does_not_have_says_what_to_check(empty_cache: Path) -> None:
    with running_hub({}) as hub, pytest.raises(Rejected) as caught:
        find_classifier(FillSettings(safety_classifier=NAME), endpoint=hub.url)
    assert caught.value.code == "safety_model_not_found"
    assert "check SAFETY_CLASSIFIER and SAFETY_REVISION, and for a gated one HF_TOKEN" in caught.value.message
    assert "127.0.0.1" not in caught.value.message


def test_a_hub_that_is_away_says_what_to_do_meanwhile(empty_cache: Path) -> None:
    with pytest.raises(Transient, match="until it does, name a folder") as caught:
        find_classifier(FillSettings(safety_classifier=NAME), endpoint="http://127.0.0.1:1")
    assert caught.value.code == "hub_unavailable"
