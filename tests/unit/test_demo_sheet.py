"""The contact sheet shows every job, readable and without overlap."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from infra.demo.jobs import JOBS
from infra.demo.sheet import WIDTH, draw_sheet
from tests.support.demo_run import job_named, outcome_of, run_of


@cache
def whole_sheet() -> Image.Image:
    return draw_sheet(run_of([outcome_of(job) for job in JOBS]))


def columns_with_pictures(sheet: Image.Image, row: int) -> int:
    """How many separate runs of non-paper pixels one row of the sheet has."""
    used = np.any(np.asarray(sheet)[row] != np.asarray(sheet)[0, 0], axis=1)
    return int(np.count_nonzero(np.diff(used.astype(int)) == 1))


def test_it_is_of_a_width_that_a_page_can_show() -> None:
    assert (whole_sheet().mode, whole_sheet().width) == ("RGB", WIDTH)
    assert 1200 <= WIDTH <= 1600


def test_two_jobs_stand_side_by_side_with_three_pictures_each() -> None:
    sheet = draw_sheet(run_of([outcome_of(job_named("matcha")), outcome_of(job_named("matcha-again"))]))
    assert columns_with_pictures(sheet, sheet.height - 100) == 6


def test_a_job_with_three_images_has_a_row_of_its_own() -> None:
    alone = draw_sheet(run_of([outcome_of(job_named("dahlias"))]))
    assert columns_with_pictures(alone, alone.height - 100) == 5
    pair = draw_sheet(run_of([outcome_of(job_named("matcha")), outcome_of(job_named("dahlias"))]))
    assert pair.height > alone.height


def test_the_jobs_before_and_after_a_wide_one_share_a_row() -> None:
    names = ["matcha", "dahlias", "no-rocket"]
    three = draw_sheet(run_of([outcome_of(job_named(name)) for name in names]))
    two = draw_sheet(run_of([outcome_of(job_named(name)) for name in names[:2]]))
    assert three.height == two.height


def test_a_failed_job_shows_its_error_in_red() -> None:
    sheet = np.asarray(draw_sheet(run_of([outcome_of(job_named("gone"))]))).astype(int)
    red = (sheet[..., 0] > 150) & (sheet[..., 1] < 60) & (sheet[..., 2] < 60)
    assert red.sum() > 100
