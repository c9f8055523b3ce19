"""What lies in the bucket, goes over the wire and stands in the tables under each policy for flagged outputs.

The worker is put together as in production, but for the GPU's time and for the classifier, which flags on purpose.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.errors import JobFailed
from common.objects import Objects
from common.safety_policy import SafetyPolicy
from common.settings import Settings
from producer.doors.direct import DirectDoor
from producer.report.write import write_report
from producer.results.outputs import BucketOutputs
from producer.results.save import Saved, save_folder, save_tar
from tests.support.api import Account, fetch, running_api
from tests.support.drawing_model import DRAWING, GREEN, MAGENTA, drawing
from tests.support.flags_magenta import FlagsMagenta
from tests.support.fleet import Fleet, png
from worker.runtime import Runtime

BATCHES = "/api/v3/batches"
FLAGGED = 6  # its picture is magenta, and that of the seed behind it green
Start = Callable[..., Runtime]


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> FlagsMagenta:
    """The one that the worker gets."""
    stand_in = FlagsMagenta()
    monkeypatch.setattr("worker.runtime.make_checker", lambda _settings: stand_in)
    return stand_in


@pytest.fixture
def start(settings: Settings, classifier: FlagsMagenta, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a worker in this process, with these settings."""
    monkeypatch.setenv("SLEEP_STEP_SECONDS", "0")
    started: list[Runtime] = []

    def begin(**changes: Any) -> Runtime:
        runtime = Runtime(settings.model_copy(update={"test_model_class": DRAWING} | changes))
        started.append(runtime)
        runtime.start()
        return runtime

    yield begin
    for runtime in started:
        runtime.close()


@pytest.fixture
def account(fleet: Fleet) -> Iterator[Account]:
    """The owner of the fleet's jobs, talking HTTP."""
    with running_api(fleet.settings) as api:
        yield api.account(fleet.owner.hex)


def fields(fleet: Fleet, **more: Any) -> dict[str, Any]:
    image = fleet.store_image()
    return {"image": image, "mask_image": image, "size": "256*256", "num_inference_steps": 1, "seed": FLAGGED} | more


def stored(objects: Objects, owner: UUID) -> dict[str, Image.Image]:
    """Return the outputs that lie in the bucket, by the ends of their names."""
    return {
        key.rpartition("-")[2]: Image.open(io.BytesIO(objects.get(key, max_bytes=10**7))).convert("RGB")
        for key, _ in objects.list_keys(f"outputs/{owner.hex}/")
    }


def run_batch(fleet: Fleet, account: Account, runtime: Runtime, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Run rows as the batch `b`; return their results as NDJSON has them."""
    body = "\n".join(json.dumps(row) for row in rows)
    headers = {"Content-Type": "application/jsonl"}
    account.ask("POST", f"{BATCHES}?name=b", content=body, headers=headers)
    for line in results(account):
        runtime.run(UUID(line["job_id"]))
    return results(account)


def results(account: Account) -> list[dict[str, Any]]:
    return [json.loads(line) for line in account.client.get(f"{BATCHES}/b/results").text.splitlines()]


def shows(image: Image.Image, ground: tuple[int, int, int]) -> bool:
    """Return whether the picture is the drawing on this ground."""
    return image.tobytes() == drawing(image.size, ground).tobytes()


def edges(image: Image.Image) -> float:
    return float(np.abs(np.diff(np.asarray(image, dtype=float), axis=1)).max())


@pytest.mark.parametrize("policy", SafetyPolicy)
def test_a_flagged_output_and_one_that_is_not_are_told_apart_everywhere(
    policy: SafetyPolicy, fleet: Fleet, account: Account, start: Start, tmp_path: Path
) -> None:
    runtime = start(safety_policy=policy)
    (row,) = run_batch(fleet, account, runtime, fields(fleet, num_images=2))
    is_dropped, is_kept = policy is SafetyPolicy.DROP, policy is SafetyPolicy.ALLOW

    # the bucket
    kept = stored(fleet.objects, fleet.owner)
    assert shows(kept["1.png"], GREEN)
    assert set(kept) == ({"1.png"} if is_dropped else {"0.png", "1.png"})
    if not is_dropped:
        assert shows(kept["0.png"], MAGENTA) is is_kept
        assert (edges(kept["0.png"]) < 40) is not is_kept, "no line of the drawing is left"
        assert (kept["0.png"].getextrema() == ((0, 0),) * 3) is (policy is SafetyPolicy.BLANK)

    # the wire
    data = account.result(row["job_id"])
    assert (data["status"], data["error"]) == ("completed", "")
    assert data["has_nsfw_contents"] == [True, False]
    assert data["seeds"] == [FLAGGED, FLAGGED + 1]
    assert [bool(link) for link in data["outputs"]] == [not is_dropped, True]
    assert Image.open(io.BytesIO(fetch(data["outputs"][1]).content)).size == (256, 256)

    # the table
    assert (row["status"], row["nsfw"], row["nsfw_policy"]) == ("completed", [True, False], [policy.value, None])
    for name in ("outputs", "output_sha256", "output_bytes"):
        assert [value is None for value in row[name]] == [is_dropped, False], name
    assert (row["output_width"], row["output_height"], row["output_format"]) == (256, 256, "png")
    assert row["max_difference_outside_mask"] is None, "the mask covers all"
    parquet = account.client.get(f"{BATCHES}/b/results?format=parquet").content
    assert pq.read_table(io.BytesIO(parquet)).to_pylist()[0]["outputs"] == row["outputs"]

    # what `results` saves
    saved = save_folder([row], BucketOutputs(fleet.objects), tmp_path / "out")
    assert saved == Saved(rows=1, fetched=1 if is_dropped else 2, dropped=int(is_dropped))
    assert saved.complete
    written = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert written["files"] == [None if is_dropped else "row-00000001-0.png", "row-00000001-1.png"]
    assert (written["file_errors"][0] or "").startswith("output_dropped: ") is is_dropped


def test_a_job_whose_every_output_is_dropped_is_completed_and_leaves_no_object(
    fleet: Fleet, account: Account, start: Start, tmp_path: Path
) -> None:
    runtime = start(safety_policy=SafetyPolicy.DROP)
    rows = run_batch(fleet, account, runtime, fields(fleet, num_images=1), fields(fleet, seed=FLAGGED + 1))
    assert [row["status"] for row in rows] == ["completed", "completed"]
    assert (rows[0]["outputs"], rows[0]["nsfw"], rows[0]["seeds"]) == ([None], [True], [FLAGGED])
    assert list(stored(fleet.objects, fleet.owner)) == ["0.png"]
    assert account.result(rows[0]["job_id"])["outputs"] == [""]

    saved = save_tar(rows, BucketOutputs(fleet.objects), tmp_path / "out.tar")
    assert saved == Saved(rows=2, fetched=1, dropped=1)
    with closing(DirectDoor(fleet.settings, fleet.owner)) as door:
        write_report(door, door.find("b"), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "flagged by the safety checker: nothing of it is stored" in page
    assert "flagged 1 image: none of them is shown" in page


def test_bare_base64_has_an_empty_text_in_the_place_of_a_dropped_image(
    fleet: Fleet, account: Account, start: Start
) -> None:
    data = account.submit(**fields(fleet, num_images=2, enable_base64_output=True))
    start(safety_policy=SafetyPolicy.DROP).run(UUID(data["id"]))
    first, second = account.result(data["id"])["outputs"]
    assert first == ""
    assert shows(Image.open(io.BytesIO(base64.b64decode(second))), GREEN)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("policy", [SafetyPolicy.BLANK, SafetyPolicy.BLUR])
def test_what_was_not_masked_is_not_left_around_a_flagged_fill_in_any_format(
    policy: SafetyPolicy, output_format: str, fleet: Fleet, start: Start
) -> None:
    original = png(drawing((256, 256), MAGENTA))
    mask = Image.new("L", (256, 256))
    mask.paste(255, (0, 0, 64, 64))
    for name, data in (("original", original), ("mask", png(mask))):
        fleet.objects.put(f"inputs/{fleet.owner.hex}/{name}.png", data, "image/png")
    named = {
        field: fleet.objects.uri(f"inputs/{fleet.owner.hex}/{name}.png")
        for field, name in (("image", "original"), ("mask_image", "mask"))
    }
    job = fleet.submit(**fields(fleet, output_format=output_format) | named)
    start(safety_policy=policy).run(job)
    (output,) = fleet.row(job)["result"]["outputs"]
    assert (output["nsfw"], output["policy"]) == (True, policy.value)
    assert fleet.row(job)["result"]["max_difference_outside_mask"] is None, "a replaced image is not measured"
    (image,) = stored(fleet.objects, fleet.owner).values()
    assert edges(image) < 40


def test_has_nsfw_contents_is_empty_where_nobody_looked(
    fleet: Fleet, account: Account, start: Start, classifier: FlagsMagenta
) -> None:
    runtime = start(allow_safety_checker_off=True, safety_policy=SafetyPolicy.DROP)
    (row,) = run_batch(fleet, account, runtime, fields(fleet, num_images=2, enable_safety_checker=False))
    assert (row["nsfw"], row["nsfw_policy"]) == ([None, None], [None, None])
    assert account.result(row["job_id"])["has_nsfw_contents"] == []
    assert shows(stored(fleet.objects, fleet.owner)["0.png"], MAGENTA)
    assert classifier.seen == []


def test_a_request_that_may_not_switch_the_checker_off_is_checked(fleet: Fleet, account: Account, start: Start) -> None:
    (row,) = run_batch(fleet, account, start(), fields(fleet, enable_safety_checker=False))
    assert (row["nsfw"], row["nsfw_policy"]) == ([True], ["blank"])


# --- inputs


def submit_magenta_input(fleet: Fleet, **more: Any) -> UUID:
    image = fleet.store_image(colour=MAGENTA)
    return fleet.submit(**fields(fleet, seed=FLAGGED + 1, **more) | {"image": image})


def test_a_flagged_input_fails_its_job_for_good_before_the_device_has_it(
    fleet: Fleet, account: Account, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = start(safety_check_inputs=True)
    monkeypatch.setattr("tests.support.drawing_model.DrawingModel.fill", lambda *_: pytest.fail("it was on the device"))
    job = submit_magenta_input(fleet)
    with pytest.raises(JobFailed):
        runtime.run(job)
    row = fleet.row(job)
    assert (row["status"], row["error_code"], row["retryable"]) == ("failed", "input_flagged", False)
    data = account.result(job.hex)
    assert data["error"].startswith("image: the safety checker flagged this image, and this fleet fills no such images")
    assert (data["outputs"], data["has_nsfw_contents"]) == ([], [])
    assert stored(fleet.objects, fleet.owner) == {}


def test_an_input_that_is_not_flagged_is_filled_and_looked_at_beside_its_output(
    fleet: Fleet, start: Start, classifier: FlagsMagenta
) -> None:
    job = fleet.submit(**fields(fleet, seed=FLAGGED + 1) | {"image": fleet.store_image((300, 200))})
    start(safety_check_inputs=True).run(job)
    assert fleet.row(job)["status"] == "completed"
    assert classifier.seen == [(300, 200), (256, 256)]


def test_inputs_are_not_looked_at_unless_the_operator_wants_it(
    fleet: Fleet, start: Start, classifier: FlagsMagenta
) -> None:
    job = submit_magenta_input(fleet)
    start().run(job)
    assert fleet.row(job)["status"] == "completed"
    assert classifier.seen == [(256, 256)]
