"""The demo's drawn scenes are told to the pixel, and a model that draws something else in them is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from infra.demo.checks import judge
from infra.demo.drawing_checks import judge_drawing, wanted_scene
from infra.demo.drawings import DRAWINGS, DRAWINGS_BY_NAME, Drawing, draw, draw_truth
from infra.demo.jobs import JOBS, DemoJob
from infra.demo.photos import PHOTOS_BY_NAME
from infra.demo_model.scenes import painted
from infra.demo_model.shapes import COLOURS, SHAPES
from tests.support.demo_run import encoded, job_named, material_of, outcome_of, over_the_original

SCORED = [job for job in JOBS if job.is_scored]
each_scored = pytest.mark.parametrize("job", SCORED, ids=lambda job: job.name)
each_drawing = pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)


def broken(job: DemoJob, made: np.ndarray) -> set[str]:
    """The promises that a job breaks whose mask is filled with `made`, height x width x 3 from 0 to 1."""
    paper = Image.fromarray((made * 255).round().astype(np.uint8))
    output = encoded(over_the_original(paper, material_of(job.name)), job)
    return {check.promise for check in judge([outcome_of(job, files=(output,))])[0].checks if not check.kept}


@each_drawing
def test_a_scene_is_the_same_every_time_and_used_by_a_job(drawing: Drawing) -> None:
    assert draw(drawing).size == (drawing.width, drawing.height)
    assert draw(drawing).tobytes() == draw(drawing).tobytes()
    assert any(job.picture == drawing.name for job in JOBS)


def test_no_drawing_has_the_name_of_a_photograph() -> None:
    assert not DRAWINGS_BY_NAME.keys() & PHOTOS_BY_NAME.keys()
    assert len(DRAWINGS_BY_NAME) == len(DRAWINGS)


@each_drawing
def test_what_is_to_be_removed_is_all_that_truth_and_picture_differ_in(drawing: Drawing) -> None:
    truth = np.asarray(draw_truth(drawing))[:, drawing.beyond : drawing.beyond + drawing.width]
    differs = (truth != np.asarray(draw(drawing))).any(axis=2)
    if drawing.thing is None:
        assert not differs.any()
    else:
        outside = drawing.thing.outside(drawing.width, drawing.height)
        assert differs[outside < -1].all()
        assert not differs[outside > 1].any()


def test_what_is_to_be_removed_lies_whole_under_the_mask_and_what_stays_outside_of_it() -> None:
    for job in JOBS:
        drawing = DRAWINGS_BY_NAME.get(job.picture)
        if drawing is None or job.mask is None:
            continue
        filled = np.asarray(material_of(job.name).filled)
        if drawing.thing is not None:
            assert (filled[drawing.thing.outside(drawing.width, drawing.height) < 1] == 255).all()
        for figure in drawing.figures:
            assert (filled[figure.outside(drawing.width, drawing.height) < 1] < 8).all()


@each_scored
def test_a_scored_job_is_content_with_what_is_wanted(job: DemoJob) -> None:
    checks = list(judge_drawing(outcome_of(job)))
    assert len(checks) == job.images
    assert all(check.kept for check in checks), checks


@each_scored
def test_a_fill_of_grey_is_noticed(job: DemoJob) -> None:
    grey = np.full_like(wanted_scene(job, material_of(job.name)).before, 0.4)
    assert broken(job, grey) == {"the prompt is obeyed" if job.fields["prompt"] else "the background goes on"}


PROMPTED = [job for job in SCORED if job.fields["prompt"]]


@pytest.mark.parametrize("job", PROMPTED, ids=lambda job: job.name)
def test_every_other_shape_and_every_other_colour_is_noticed(job: DemoJob) -> None:
    scene = wanted_scene(job, material_of(job.name))
    assert scene.wanted is not None
    for shape in SHAPES.keys() - {scene.wanted.shape}:
        assert broken(job, painted(scene.before, replace(scene.wanted, shape=shape))) == {"the prompt is obeyed"}
    for colour in COLOURS.keys() - {scene.wanted.colour}:
        other = replace(scene.wanted, colour=colour, rgb=COLOURS[colour])
        assert "the prompt is obeyed" in broken(job, painted(scene.before, other))


def test_a_thing_that_was_not_removed_is_noticed() -> None:
    job = job_named("no-star")
    before = wanted_scene(job, material_of(job.name)).before
    assert "the background goes on" in broken(job, before)


def test_the_scores_are_said_for_each_image() -> None:
    checks = {check.promise: check.detail for job in SCORED for check in judge([outcome_of(job)])[0].checks}
    assert checks["the prompt is obeyed"].endswith("% of both are the same pixels")
    assert checks["the background goes on"].endswith(" dB inside the mask")


def test_a_photograph_and_a_prompt_without_a_known_shape_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="a photograph"):
        wanted_scene(job_named("coffee"), material_of("coffee"))
    circle = job_named("circle")
    car = replace(circle, fields={**circle.fields, "prompt": "a red car"})
    with pytest.raises(ValueError, match="a red car"):
        wanted_scene(car, material_of("circle"))
