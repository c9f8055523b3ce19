"""What becomes of flagged images, by real worker processes with real classifiers, of which a threshold or the weights
decide what they flag here. What each policy does is in test_safety_policies.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.fleet import SLEEPING, Fleet
from tests.support.tiny_classifier import RED, build_classifier
from worker.exit_code import ExitCode


def filled(fleet: Fleet, **fields: Any) -> tuple[dict[str, Any], Image.Image]:
    """Fill one job; return its only output's record and the stored picture."""
    job = fleet.submit(**fields)
    fleet.until(fleet.all_over, "it is over")
    row = fleet.row(job)
    assert row["status"] == "completed", row["error"]
    (output,) = row["result"]["outputs"]
    return output, Image.open(io.BytesIO(fleet.objects.get(output["key"], max_bytes=10**7)))


def is_black(image: Image.Image) -> bool:
    return all(high == 0 for _, high in image.convert("RGB").getextrema())  # type: ignore[misc]


def test_a_flagged_output_is_stored_as_a_blank_of_its_size_and_never_as_itself(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    fleet.start_sleeping_worker(SAFETY_THRESHOLD="0.0000001")
    output, stored = filled(fleet)
    assert output["nsfw"] is True
    assert stored.size == (256, 256)
    assert is_black(stored)
    assert output["bytes"] == fleet.objects.size(output["key"])


def test_an_output_that_is_not_flagged_is_stored_as_it_is(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    fleet.start_sleeping_worker()
    output, stored = filled(fleet)
    assert output["nsfw"] is False
    assert not is_black(stored)


def test_a_request_cannot_switch_the_checker_off_unless_the_operator_allows_it(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    strict = fleet.start_sleeping_worker(SAFETY_THRESHOLD="0.0000001")
    output, _ = filled(fleet, enable_safety_checker=False)
    assert output["nsfw"] is True
    strict.stop()
    fleet.start_sleeping_worker(SAFETY_THRESHOLD="0.0000001", ALLOW_SAFETY_CHECKER_OFF="true")
    output, stored = filled(fleet, enable_safety_checker=False)
    assert output["nsfw"] is None, "nobody looked, so nobody says"
    assert not is_black(stored)


def test_a_worker_judges_by_the_classifier_that_is_named_outputs_and_inputs_alike(fleet: Fleet, tmp_path: Path) -> None:
    classifier = build_classifier(tmp_path / "classifier")
    fleet.start("dispatcher")
    fleet.start_sleeping_worker(SAFETY_CLASSIFIER=str(classifier), SAFETY_CHECK_INPUTS="true", SAFETY_POLICY="drop")
    red, blue = fleet.submit(seed=250), fleet.submit(seed=0)  # the colours that the stand-in paints
    image = fleet.store_image(colour=RED)
    bad_input = fleet.submit(seed=0, image=image, mask_image=fleet.store_image())
    fleet.until(fleet.all_over, "it is over")
    results = [fleet.row(job)["result"] for job in (red, blue)]
    assert [result["outputs"][0]["nsfw"] for result in results] == [True, False]
    assert results[0]["outputs"][0]["key"] is None
    assert fleet.row(bad_input)["error_code"] == "input_flagged"
    assert [key for key, _ in fleet.objects.list_keys(f"outputs/{fleet.owner.hex}/")] == [
        results[1]["outputs"][0]["key"]
    ]


def test_a_worker_without_a_classifier_says_what_to_name_and_takes_no_job(fleet: Fleet, tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "classifier", labels={0: "cat", 1: "dog"})
    job = fleet.submit()
    worker = fleet.start("worker", TEST_MODEL_CLASS=SLEEPING, SAFETY_CLASSIFIER=str(folder))
    fleet.until(lambda: worker.exit_code() is not None, "it has ended")
    assert worker.exit_code() == ExitCode.CANNOT_START
    assert "none of its labels is `nsfw`, only cat, dog" in worker.last_words()
    assert not fleet.has_been_ready(worker)
    assert fleet.row(job)["status"] == "created"
