"""What a worker stores has no seam, and is exact where nothing was masked: the whole path, a stand-in for the GPU."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from common.objects import input_key
from tests.support.fleet import SLEEPING, Fleet, png
from worker.runtime import Runtime

COLOUR = (100, 0, 128)
MADE = 106
"""The seed, and the red of the plain picture that is made with it: six levels more than the original's."""


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_a_stored_output_has_the_colours_of_its_surroundings_and_is_exact_outside_the_mask(
    fleet: Fleet, output_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLEEP_STEP_SECONDS", "0")
    mask = Image.new("L", (256, 256))
    mask.paste(255, (60, 60, 180, 180))
    data = png(mask)
    key = input_key(fleet.owner, hashlib.sha256(data).hexdigest(), "png")
    fleet.objects.put(key, data, "image/png")
    job = fleet.submit(
        image=fleet.store_image(colour=COLOUR),
        mask_image=fleet.objects.uri(key),
        seed=MADE,
        output_format=output_format,
    )
    runtime = Runtime(fleet.settings.model_copy(update={"test_model_class": SLEEPING}))
    try:
        runtime.start()
        runtime.run(job)
    finally:
        runtime.close()

    row = fleet.row(job)
    assert row["status"] == "completed", row["error"]
    assert row["result"]["max_difference_outside_mask"] == 0
    stored = fleet.objects.get(row["result"]["outputs"][0]["key"], max_bytes=10**7)
    picture = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).astype(int)
    kept = np.asarray(mask) == 0
    assert (picture[kept] == COLOUR).all()
    assert np.abs(picture - COLOUR).max() <= 1
