"""Region auto through a real worker: the result names the areas, what is kept is exact, the same job is the same."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from common import lifecycle
from common.lifecycle import NewBatch
from common.objects import input_key
from common.tables import jobs
from producer.intake import Intake
from producer.manifest import ManifestRow
from tests.support.fleet import SLEEPING, Fleet, png
from worker.runtime import Runtime

ISLANDS = ((40, 60, 140, 160), (860, 840, 980, 960))
"""Left, top, right and bottom of what is masked, on 1024 x 1024."""
AREAS = [[0, 0, 384, 384], [640, 640, 384, 384]]


@contextmanager
def working(fleet: Fleet, **settings: Any) -> Iterator[Runtime]:
    """Yield a worker in this process."""
    runtime = Runtime(fleet.settings.model_copy(update=settings))
    try:
        runtime.start()
        yield runtime
    finally:
        runtime.close()


def store(fleet: Fleet, image: Image.Image) -> str:
    """Put a picture into the bucket as the owner's input; returns its URI."""
    data = png(image)
    key = input_key(fleet.owner, hashlib.sha256(data).hexdigest(), "png")
    fleet.objects.put(key, data, "image/png")
    return fleet.objects.uri(key)


def picture() -> Image.Image:
    """Return a picture in which no two places are alike."""
    slope = Image.linear_gradient("L").resize((1024, 1024))
    return Image.merge("RGB", (slope, slope.rotate(90), Image.radial_gradient("L").resize((1024, 1024))))


def mask(*islands: tuple[int, int, int, int]) -> Image.Image:
    """Return a mask of rectangles."""
    drawn = Image.new("L", (1024, 1024))
    for island in islands:
        drawn.paste(255, island)
    return drawn


def result_of(fleet: Fleet, runtime: Runtime, job: UUID) -> dict[str, Any]:
    """Let the worker do the job; returns its result."""
    runtime.run(job)
    row = fleet.row(job)
    assert row["status"] == "completed", row["error"]
    result: dict[str, Any] = row["result"]
    return result


def test_a_job_with_far_islands_is_filled_in_areas_exact_outside_the_mask_and_again_the_same(fleet: Fleet) -> None:
    wish: dict[str, Any] = {"image": store(fleet, picture()), "mask_image": store(fleet, mask(*ISLANDS))}
    wish |= {"size": "match", "region": "auto", "num_inference_steps": 2, "num_images": 2, "seed": 5}
    with working(fleet, fill_model="bundled") as runtime:
        first, again = (result_of(fleet, runtime, fleet.submit(**wish)) for _ in range(2))
        second_seed = result_of(fleet, runtime, fleet.submit(**wish | {"num_images": 1, "seed": 6}))
    assert (first["region"], first["regions"]) == ("auto", AREAS)
    assert first["max_difference_outside_mask"] == 0
    assert first["timings"]["inference"] > 0
    hashes = [[output["sha256"] for output in result["outputs"]] for result in (first, again, second_seed)]
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[0][1] == hashes[2][0], "each image is the solo run with its seed"

    stored = fleet.objects.get(first["outputs"][0]["key"], max_bytes=10**8)
    output, original = (np.asarray(one.convert("RGB")) for one in (Image.open(io.BytesIO(stored)), picture()))
    filled = np.asarray(mask(*ISLANDS)) > 0
    assert (output[~filled] == original[~filled]).all()
    for left, top, right, bottom in ISLANDS:
        assert (output[top:bottom, left:right] != original[top:bottom, left:right]).any(axis=2).mean() > 0.5


@pytest.mark.parametrize(
    ("fleets", "asked", "areas"),
    [("full", None, None), ("full", "auto", AREAS), ("auto", None, AREAS), ("auto", "full", None)],
)
def test_the_request_decides_and_the_fleet_where_it_says_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, fleets: str, asked: str | None, areas: list[list[int]] | None
) -> None:
    monkeypatch.setenv("SLEEP_STEP_SECONDS", "0")
    wish: dict[str, Any] = {"image": store(fleet, picture()), "mask_image": store(fleet, mask(*ISLANDS))}
    wish |= {"size": "match", "region": asked}
    with working(fleet, test_model_class=SLEEPING, fill_region=fleets) as runtime:
        result = result_of(fleet, runtime, fleet.submit(**wish))
    assert (result["region"], result["regions"]) == (asked or fleets, areas)


def test_a_row_says_more_than_its_batch_and_the_batch_more_than_the_fleet(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLEEP_STEP_SECONDS", "0")
    body = {"image": store(fleet, picture()), "mask_image": store(fleet, mask(*ISLANDS))}
    rows = [ManifestRow(1, "line 1", dict(body)), ManifestRow(2, "line 2", body | {"region": "full"})]
    with working(fleet, test_model_class=SLEEPING, fill_region="full") as runtime:
        results = [result_of(fleet, runtime, job) for job in _batch(fleet, {"region": "auto"}, rows)]
    assert [(one["region"], one["regions"]) for one in results] == [("auto", AREAS), ("full", None)]


def test_where_a_crop_helps_nothing_auto_makes_the_very_image_that_full_makes(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLEEP_STEP_SECONDS", "0")
    large: dict[str, Any] = {
        "image": store(fleet, picture()),
        "mask_image": store(fleet, mask((100, 100, 900, 900))),
        "size": "match",
    }
    bars: dict[str, Any] = {"image": store(fleet, picture()), "size": "1280*1024"}
    with working(fleet, test_model_class=SLEEPING) as runtime:
        for wish in (large, bars):
            full, auto = (result_of(fleet, runtime, fleet.submit(**wish, region=mode)) for mode in ("full", "auto"))
            assert (auto["region"], auto["regions"]) == ("auto", None)
            assert full["outputs"][0]["sha256"] == auto["outputs"][0]["sha256"]


def _batch(fleet: Fleet, defaults: dict[str, Any], rows: Sequence[ManifestRow]) -> list[UUID]:
    intake = Intake(fleet.settings, fleet.objects, fleet.owner)
    with fleet.engine.begin() as connection:
        batch = intake.start(connection, NewBatch("regions", defaults))
        assert intake.take(connection, batch, rows, upto=len(rows)).new == len(rows)
        lifecycle.open_batch(connection, fleet.owner, batch.id)
        wanted = select(jobs.c.id).where(jobs.c.batch_id == batch.id).order_by(jobs.c.row_no)
        return list(connection.execute(wanted).scalars())
