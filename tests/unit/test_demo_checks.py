"""The demo notices each broken promise: every check here is seen to fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.contract import Status
from infra.demo.batch import Batch
from infra.demo.batch_checks import judge_batch
from infra.demo.checks import judge
from infra.demo.jobs import JOBS
from infra.demo.outcome import Outcome
from tests.support.demo_run import batch_of, encoded, job_named, outcome_of, painted, run_of


def broken(*outcomes: Outcome) -> set[str]:
    """The promises that the last of these outcomes breaks."""
    return {check.promise for check in judge(outcomes)[-1].checks if not check.kept}


def test_a_run_in_which_all_went_well_breaks_nothing() -> None:
    run = run_of([outcome_of(job) for job in JOBS])
    assert run.broken == []
    assert run.as_expected


def test_one_changed_pixel_outside_the_mask_is_noticed() -> None:
    job = job_named("circle")
    good = outcome_of(job)
    changed = good.pictures[0].convert("RGB")
    red, green, blue = changed.getpixel((0, 0))  # type: ignore[misc]
    changed.putpixel((0, 0), (red ^ 1, green, blue))
    assert broken(outcome_of(job, files=(encoded(changed, job),))) == {"unmasked pixels bit-exact"}


def test_an_output_that_is_the_untouched_original_is_noticed() -> None:
    job = job_named("circle")
    original = outcome_of(job).material.original
    untouched = outcome_of(job, files=(encoded(original, job),))
    assert broken(untouched) == {"the mask is filled", "the prompt is obeyed"}


def test_a_wrong_size_is_noticed() -> None:
    job = job_named("circle")
    small = outcome_of(job).pictures[0].resize((300, 200))
    assert "exact size" in broken(outcome_of(job, files=(encoded(small, job),)))


def test_a_wrong_format_is_noticed() -> None:
    job = job_named("circle")
    as_webp = encoded(outcome_of(job).pictures[0], job_named("sun"))
    assert broken(outcome_of(job, files=(as_webp,))) == {"format as asked for"}


def test_a_missing_image_is_noticed() -> None:
    job = job_named("seeds")
    two = painted("seeds")[:2]
    assert broken(outcome_of(job, files=two)) == {"as many images as asked for"}


def test_equal_images_of_several_seeds_are_noticed() -> None:
    job = job_named("seeds")
    one, *_ = painted("seeds")
    assert broken(outcome_of(job, files=(one, one, one))) == {"each seed another image"}


@pytest.mark.parametrize("flags", [(), ("false",), (None,), (False, False)])
def test_flags_that_are_not_one_boolean_per_image_are_noticed(flags: tuple[object, ...]) -> None:
    assert broken(outcome_of(job_named("circle"), flags=flags)) == {"one has_nsfw flag per image"}


def test_other_bytes_from_the_same_seed_are_noticed() -> None:
    job = job_named("circle-again")
    good = outcome_of(job)
    other = good.pictures[0].convert("RGB")
    other.putpixel((288, 148), (1, 2, 3))
    again = outcome_of(job, files=(encoded(other, job),))
    assert broken(outcome_of(job_named("circle")), again) == {"same bytes as circle"}


def test_a_lora_without_effect_is_noticed() -> None:
    plain = outcome_of(job_named("plain"))
    assert broken(plain, outcome_of(job_named("striped"), files=plain.files)) == {"differs from plain"}


def test_a_second_lora_without_effect_is_noticed() -> None:
    plain, striped, outlined = (outcome_of(job_named(name)) for name in ("plain", "striped", "outlined"))
    both = outcome_of(job_named("both"), files=striped.files)
    assert broken(plain, striped, outlined, both) == {"differs from striped"}


def test_a_file_that_is_not_the_recorded_one_is_noticed() -> None:
    good = outcome_of(job_named("circle"))
    assert broken(replace(good, trail=None)) == {"sha256 as recorded"}


def test_a_job_that_flower_does_not_show_ended_is_noticed() -> None:
    good = outcome_of(job_named("circle"))
    for shown in ("", "STARTED", "FAILURE"):
        assert broken(replace(good, in_flower=shown)) == {"Flower shows its end"}


@pytest.mark.parametrize("status", [Status.CREATED, Status.PROCESSING, Status.FAILED])
def test_a_job_that_did_not_complete_is_noticed(status: Status) -> None:
    bad = outcome_of(job_named("circle"), files=(), status=status, error="the reason")
    assert broken(bad) == {"ends completed"}
    assert "the reason" in run_of([bad]).broken[0]


def test_a_broken_url_that_completes_is_noticed() -> None:
    assert broken(outcome_of(job_named("gone"), status=Status.COMPLETED)) == {"ends failed"}


def test_an_error_that_does_not_name_field_and_cause_is_noticed() -> None:
    assert broken(outcome_of(job_named("gone"), error="something went wrong")) == {"names the field and the cause"}


def test_a_retry_of_what_can_never_work_is_noticed() -> None:
    good = outcome_of(job_named("gone"))
    assert good.trail is not None
    assert broken(replace(good, trail=replace(good.trail, attempts=2))) == {"is not retried"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("custom_id", "outlined"),
        ("status", "failed"),
        ("job_id", "0" * 32),
        ("output_sha256", ["0" * 64]),
        ("output_sha256", None),
        ("seeds", [6]),
        ("shows", None),
    ],
)
def test_a_result_that_tells_something_else_than_the_job_is_noticed(column: str, value: object) -> None:
    good = outcome_of(job_named("striped"))
    assert good.row is not None
    changed = replace(good, row={**good.row, column: value})
    assert broken(outcome_of(job_named("plain")), replace(changed, files=painted("striped"))) == {
        "results.parquet says the same"
    }


def test_a_row_without_a_result_is_noticed() -> None:
    assert broken(replace(outcome_of(job_named("gone")), row=None)) == {"results.parquet says the same"}


def whole_batch() -> Batch:
    return batch_of([outcome_of(job) for job in JOBS])


def broken_of(batch: Batch) -> list[str]:
    return [check.promise for check in judge_batch(batch) if not check.kept]


def test_a_batch_in_which_all_went_well_breaks_nothing() -> None:
    assert broken_of(whole_batch()) == []


def test_a_batch_that_goes_on_is_noticed() -> None:
    assert broken_of(replace(whole_batch(), state="open")) == ["the batch is done"]


def test_a_missing_a_doubled_and_a_strange_result_are_noticed() -> None:
    batch = whole_batch()
    first, *others = batch.table
    for table in [others, [first, first, *others], [*others, first], [*others, {**first, "custom_id": "?"}]]:
        assert broken_of(replace(batch, table=tuple(table))) == ["one result for each good row, in order"]


def test_a_bad_row_that_is_not_named_and_a_good_one_that_is_are_noticed() -> None:
    batch = whole_batch()
    (reject,) = batch.rejects
    for rejects in [(), (reject, {**reject, "custom_id": "circle-again"}), ({**reject, "field": "prompt"},)]:
        assert broken_of(replace(batch, rejects=rejects)) == ["the bad row is named, and it alone"]


def test_a_row_that_is_made_or_run_twice_is_noticed() -> None:
    batch = whole_batch()
    first, *others = batch.table
    twice = [{**first, "attempts": 2}, *others]
    new = [*batch.table, {**first, "job_id": "0" * 32}]
    for rows in (twice, new):
        assert broken_of(replace(batch, after=tuple(rows))) == ["submitted again, no row runs twice"]


def test_a_page_without_one_of_the_rows_is_noticed() -> None:
    batch = whole_batch()
    page = batch.page.replace("sun", "moon")
    assert broken_of(replace(batch, page=page)) == ["its page shows every row"]


def test_what_a_batch_breaks_makes_the_run_not_as_expected() -> None:
    outcomes = [outcome_of(job) for job in JOBS]
    run = run_of(outcomes, batch=replace(batch_of(outcomes), state="open"))
    assert not run.as_expected
    assert run.broken == ["batch: the batch is done: open"]
