"""The demo notices each broken promise: every check here is seen to fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.contract import Status
from infra.demo.checks import judge
from infra.demo.jobs import JOBS
from infra.demo.outcome import Outcome
from tests.support.demo_run import encoded, job_named, outcome_of, painted, run_of


def broken(*outcomes: Outcome) -> set[str]:
    """The promises that the last of these outcomes breaks."""
    return {check.promise for check in judge(outcomes)[-1].checks if not check.kept}


def test_a_run_in_which_all_went_well_breaks_nothing() -> None:
    run = run_of([outcome_of(job) for job in JOBS])
    assert run.broken == []
    assert run.as_expected


def test_one_changed_pixel_outside_the_mask_is_noticed() -> None:
    job = job_named("matcha")
    good = outcome_of(job)
    changed = good.pictures[0].convert("RGB")
    red, green, blue = changed.getpixel((0, 0))  # type: ignore[misc]
    changed.putpixel((0, 0), (red ^ 1, green, blue))
    assert broken(outcome_of(job, files=(encoded(changed, job),))) == {"unmasked pixels bit-exact"}


def test_an_output_that_is_the_untouched_original_is_noticed() -> None:
    job = job_named("matcha")
    original = outcome_of(job).material.original
    assert broken(outcome_of(job, files=(encoded(original, job),))) == {"the mask is filled"}


def test_a_wrong_size_is_noticed() -> None:
    job = job_named("matcha")
    small = outcome_of(job).pictures[0].resize((300, 200))
    assert "exact size" in broken(outcome_of(job, files=(encoded(small, job),)))


def test_a_wrong_format_is_noticed() -> None:
    job = job_named("matcha")
    as_webp = encoded(outcome_of(job).pictures[0], job_named("evening"))
    assert broken(outcome_of(job, files=(as_webp,))) == {"format as asked for"}


def test_a_missing_image_is_noticed() -> None:
    job = job_named("dahlias")
    two = painted("dahlias")[:2]
    assert broken(outcome_of(job, files=two)) == {"as many images as asked for"}


def test_equal_images_of_several_seeds_are_noticed() -> None:
    job = job_named("dahlias")
    one, *_ = painted("dahlias")
    assert broken(outcome_of(job, files=(one, one, one))) == {"each seed another image"}


@pytest.mark.parametrize("flags", [(), ("false",), (None,), (False, False)])
def test_flags_that_are_not_one_boolean_per_image_are_noticed(flags: tuple[object, ...]) -> None:
    assert broken(outcome_of(job_named("matcha"), flags=flags)) == {"one has_nsfw flag per image"}


def test_other_bytes_from_the_same_seed_are_noticed() -> None:
    job = job_named("matcha-again")
    good = outcome_of(job)
    other = good.pictures[0].convert("RGB")
    other.putpixel((288, 148), (1, 2, 3))
    again = outcome_of(job, files=(encoded(other, job),))
    assert broken(outcome_of(job_named("matcha")), again) == {"same bytes as matcha"}


def test_a_lora_without_effect_is_noticed() -> None:
    plain = outcome_of(job_named("curtain"))
    assert broken(plain, outcome_of(job_named("curtain-lora"), files=plain.files)) == {"differs from curtain"}


def test_a_file_that_is_not_the_recorded_one_is_noticed() -> None:
    good = outcome_of(job_named("matcha"))
    assert broken(replace(good, trail=None)) == {"sha256 as recorded"}


def test_a_job_that_flower_does_not_show_ended_is_noticed() -> None:
    good = outcome_of(job_named("matcha"))
    for shown in ("", "STARTED", "FAILURE"):
        assert broken(replace(good, in_flower=shown)) == {"Flower shows its end"}


@pytest.mark.parametrize("status", [Status.CREATED, Status.PROCESSING, Status.FAILED])
def test_a_job_that_did_not_complete_is_noticed(status: Status) -> None:
    bad = outcome_of(job_named("matcha"), files=(), status=status, error="the reason")
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
