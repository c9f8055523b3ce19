"""The contact sheet shows every job, readable and without overlap."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

from infra.demo import preview
from infra.demo.jobs import JOBS, DemoJob
from infra.demo.sheet import COLUMNS, WIDTH, draw_sheet
from tests.support.demo_run import CARD, job_named, outcome_of, run_of

LORAS = ["plain", "striped", "outlined", "both"]


@cache
def sheet_of(*names: str) -> Image.Image:
    return draw_sheet(run_of([outcome_of(job_named(name)) for name in names]))


def columns_with_pictures(sheet: Image.Image) -> int:
    """How many separate runs of non-paper pixels a line through the last row of pictures has."""
    used = np.any(np.asarray(sheet)[sheet.height - 120] != np.asarray(sheet)[0, 0], axis=1)
    return int(np.count_nonzero(np.diff(used.astype(int)) == 1))


def test_it_is_of_a_width_that_a_page_can_show() -> None:
    sheet = sheet_of(*(job.name for job in JOBS))
    assert (sheet.mode, sheet.width) == ("RGB", WIDTH)
    assert 1200 <= WIDTH <= 1600


def test_three_jobs_stand_side_by_side_with_two_pictures_each() -> None:
    assert columns_with_pictures(sheet_of("circle", "star", "triangle")) == COLUMNS == 6


def test_a_fourth_job_begins_a_new_row() -> None:
    assert sheet_of("circle", "star", "triangle", "heart").height > sheet_of("circle", "star", "triangle").height


def test_all_images_of_a_job_stand_in_one_row() -> None:
    assert columns_with_pictures(sheet_of("seeds")) == 4


def test_a_job_fills_the_place_that_a_wider_one_before_it_left() -> None:
    assert sheet_of("circle", "triangle", "seeds", "heart").height == sheet_of("circle", "triangle", "seeds").height


def test_what_each_lora_makes_stands_beside_what_none_makes() -> None:
    assert columns_with_pictures(sheet_of(*LORAS)) == 5
    assert sheet_of(*LORAS).height == sheet_of("plain").height


def test_a_caption_stays_under_its_own_picture() -> None:
    sheet = np.asarray(sheet_of(*LORAS, "gone"))
    is_paper = (sheet == sheet[0, 0]).all(axis=2)
    between = is_paper[len(sheet) - 120]
    under = is_paper[-50:-4]  # the captions of the last row
    assert not under.all()
    assert under[:, between].all()


def test_the_whole_sheet_leaves_no_place_open() -> None:
    sheet = sheet_of(*(job.name for job in JOBS))
    row = sheet_of("circle", "star", "triangle", "heart").height - sheet_of("circle").height
    rows = 1 + (sheet.height - sheet_of("circle").height) // row
    shown = [job for job in JOBS if not job.loras and job.name != "gone"]
    cells = sum(1 + job.images for job in shown) + len(LORAS[1:]) + 1  # and the failed one's error
    assert cells == rows * COLUMNS


def test_a_failed_job_shows_its_error_in_red() -> None:
    sheet = np.asarray(sheet_of("gone")).astype(int)
    red = (sheet[..., 0] > 150) & (sheet[..., 1] < 60) & (sheet[..., 2] < 60)
    assert red.sum() > 100


def test_it_calls_a_model_untrained_whose_card_does() -> None:
    run = run_of([outcome_of(job_named("circle"))])
    said = draw_sheet(replace(run, card=replace(CARD, untrained=True)))
    assert said.crop((0, 60, WIDTH, 110)).tobytes() != draw_sheet(run).crop((0, 60, WIDTH, 110)).tobytes()


@pytest.mark.parametrize("job", [job for job in JOBS if job.name != "gone"], ids=lambda job: job.name)
def test_a_mask_is_hatched_over_the_picture_and_the_rest_is_shown_as_it_is(job: DemoJob) -> None:
    outcome = outcome_of(job)
    shown = preview.masked(outcome, 10_000, 10_000)
    assert shown is not None
    assert shown.size == outcome.material.size
    filled = np.asarray(outcome.material.filled)
    sent = preview.before(outcome)
    assert sent is not None
    picture = sent if sent.size == shown.size else outcome.material.original
    differs = (np.asarray(shown) != np.asarray(picture)).any(axis=2)
    assert not differs[filled == 0].any()
    assert differs[filled == 255].mean() > 0.9


def test_a_picture_that_never_came_is_not_shown() -> None:
    assert preview.masked(outcome_of(job_named("gone")), 100, 100) is None
