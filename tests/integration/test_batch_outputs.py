"""What a worker leaves of a batch's row: where its output lies, and what its result says of it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select

from common import lifecycle
from common.contract import parse_request
from common.lifecycle import NewBatch
from common.tables import jobs
from tests.support.fleet import Fleet
from tests.support.life import new_row


def _submit(fleet: Fleet, formats: list[str]) -> UUID:
    # The image in the middle is kept, the bars beside it are filled.
    body = {"image": fleet.store_image((300, 256)), "size": "512*256", "num_inference_steps": 1, "seed": 1}
    with fleet.engine.begin() as connection:
        batch = lifecycle.create_batch(connection, fleet.owner, NewBatch(name="outputs"))
        rows = [
            new_row(number, request=parse_request(body | {"output_format": output_format}))
            for number, output_format in enumerate(formats, start=1)
        ]
        lifecycle.insert_rows(connection, fleet.owner, batch, rows)
        lifecycle.open_batch(connection, fleet.owner, batch)
    return batch


def test_outputs_of_a_batch_lie_together_and_say_how_exact_the_kept_part_is(fleet: Fleet) -> None:
    fleet.start("dispatcher")
    fleet.start_sleeping_worker()
    batch = _submit(fleet, ["png", "webp", "jpeg"])
    fleet.until(fleet.all_over, "the batch is over")
    with fleet.engine.begin() as connection:
        assert lifecycle.read_counts(connection, [batch])[batch].completed == 3
        results = connection.execute(select(jobs.c.result).where(jobs.c.batch_id == batch)).scalars().all()
    by_format = {result["outputs"][0]["format"]: result for result in results}
    for result in by_format.values():
        (output,) = result["outputs"]
        assert output["key"].startswith(f"outputs/{fleet.owner.hex}/{batch.hex}/")
        assert fleet.objects.size(output["key"]) == output["bytes"]
    assert by_format["png"]["max_difference_outside_mask"] == 0
    assert by_format["webp"]["max_difference_outside_mask"] == 0
    assert by_format["jpeg"]["max_difference_outside_mask"] > 0, "a lossy file is measured as it was stored"
