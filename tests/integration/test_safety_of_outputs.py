"""What becomes of flagged outputs, by a worker with the real classifier. Its threshold decides what it flags here."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from tests.support.fleet import Fleet


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
