"""The demo's masks fit its pictures, and its inputs are what the jobs say."""

from __future__ import annotations

import numpy as np
import pytest

from common.contract import Status, parse_request
from infra.demo.jobs import JOBS, DemoJob, ImageBy, UploadBy, choose_jobs
from infra.demo.masks import MASKS
from infra.demo.photos import PHOTOS_BY_NAME
from tests.support.demo_run import job_named, material_of

each_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)


@each_job
def test_a_mask_fits_its_picture_and_leaves_something_to_fill_and_something_to_keep(job: DemoJob) -> None:
    material = material_of(job.name)
    if material.mask is not None:
        assert (material.mask.mode, material.mask.size) == ("L", material.image.size)
    filled = np.asarray(material.filled)
    assert material.filled.size == material.original.size
    assert filled.max() > 247
    assert 0.01 < (filled >= 128).mean() < 0.7
    assert (filled < 8).mean() > 0.25


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_used_and_has_a_soft_edge(name: str) -> None:
    users = [job.name for job in JOBS if job.mask == name]
    assert users, "drawn, but used by no job"
    edge = np.asarray(material_of(users[0]).filled)
    assert ((edge > 8) & (edge < 247)).any()


def test_the_alpha_that_is_sent_is_the_mask_turned_round() -> None:
    (job,) = [job for job in JOBS if job.image_by is ImageBy.ALPHA]
    material = material_of(job.name)
    assert material.mask is None
    alpha = np.asarray(material.image.getchannel("A"))
    assert (alpha == 255 - np.asarray(material.filled)).all()


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_belongs_to_pictures_of_one_size(name: str) -> None:
    """The dataset holds each mask once, however many rows name it."""
    assert len({material_of(job.name).image.size for job in JOBS if job.mask == name}) == 1


def test_an_outpainted_picture_lies_whole_in_the_middle_and_all_around_it_is_filled() -> None:
    material = material_of("wider")
    filled = np.asarray(material.filled)
    assert material.size == (576, 384)
    assert (filled[:, :96] == 255).all()
    assert (filled[:, 96:480] == 0).all()
    assert (filled[:, 480:] == 255).all()


@each_job
def test_every_request_keeps_the_contract(job: DemoJob) -> None:
    request = parse_request(job.body("https://example.com/a.png", None))
    assert request.num_images == job.images
    assert request.output_format == job.output_format


def test_the_jobs_show_all_that_the_demo_promises() -> None:
    assert len(JOBS) >= 8
    assert any(not job.fields["prompt"] and job.mask for job in JOBS), "remove"
    assert any(job.mask is None for job in JOBS), "outpaint"
    assert any(job.images > 1 for job in JOBS), "several images"
    assert {len(job.loras) for job in JOBS} == {0, 1, 2}, "LoRAs, alone and together"
    photographs = {job.name for job in JOBS if job.picture in PHOTOS_BY_NAME and job.expected is Status.COMPLETED}
    assert len(photographs) >= 2
    assert {job.output_format for job in JOBS} == {"png", "jpeg", "webp"}
    calls = [job.call for job in JOBS if job.call is not None]
    assert {call.version for call in calls} == {"v2", "v3"}
    assert {call.upload_by for call in calls} == set(UploadBy)
    assert len(JOBS) - len(calls) >= 8, "the rows of a batch"
    assert {job.image_by for job in JOBS} == set(ImageBy)
    assert [job.name for job in JOBS if job.expected is Status.FAILED] == ["gone"]
    for job in JOBS:
        if job.same_as:
            assert job.fields == job_named(job.same_as).fields
            assert (job.call is None) != (job_named(job.same_as).call is None), "a row against a call"


def test_another_model_gets_no_lora_that_cannot_fit_it_and_owes_no_shapes() -> None:
    jobs = choose_jobs(bundled_model=False)
    assert not any(job.loras or job.is_scored for job in jobs)
    assert len(jobs) >= 8
    names = {job.name for job in jobs}
    assert all(names >= {*job.differs_from, *filter(None, [job.same_as])} for job in jobs)
