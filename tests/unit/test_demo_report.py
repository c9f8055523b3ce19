"""The report stands alone, says who made the photographs, and can be trusted with any text."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest

from infra.demo.command_line import Said
from infra.demo.jobs import JOBS
from infra.demo.model_card import read_model_card
from infra.demo.photos import PHOTOS
from infra.demo.report import render_report
from infra.demo.run import Run, addresses_of
from infra.embedded.ready_file import Ready
from tests.support.demo_run import CARD, GONE, batch_of, job_named, outcome_of, run_of

EVIL = "<script>alert('x')</script> & \"quotes\""


@cache
def whole_run() -> Run:
    return run_of([outcome_of(job) for job in JOBS])


@cache
def whole_report() -> str:
    return render_report(whole_run())


def test_it_shows_every_job_with_its_pictures() -> None:
    report = whole_report()
    for job in JOBS:
        assert f'id="{job.name}"' in report
    completed = [job for job in JOBS if job.name != "gone"]
    # before and mask of each, and as many after it as were asked for; of the failed one only the mask is there
    pictures = sum(2 + job.images for job in completed) + 1
    assert report.count('<img src="data:image/webp;base64,') == pictures == report.count("<img ")


def test_it_says_how_each_job_came() -> None:
    report = whole_report()
    assert report.count("<small>single call</small>") == whole_run().calls == 2
    for number in range(1, len(JOBS) - 1):
        assert report.count(f"<small>row {number} of the batch</small>") == 1


def test_it_shows_what_was_typed_for_the_batch_and_leads_to_its_files() -> None:
    report = whole_report()
    assert "<b>$ fillfleet submit dataset/manifest.jsonl --name demo</b>" in report
    for file in ("dataset/manifest.jsonl", "results.parquet", "batch.html"):
        assert f'href="{file}"' in report


def test_it_loads_nothing_from_anywhere() -> None:
    report = whole_report()
    assert "<script" not in report
    assert "<link" not in report
    assert not re.search(r"url\(|@import", report)
    assert not re.search(r'\bsrc="(?!data:)', report)


def test_it_is_small_enough_to_be_mailed() -> None:
    assert len(whole_report()) < 5_000_000


def test_it_names_every_photograph_with_author_and_licence() -> None:
    table = whole_report().partition("<h2>The photographs</h2>")[2]
    for photo in PHOTOS:
        assert photo.author in table
        assert photo.licence in table
        assert photo.file in table


def test_it_says_why_a_job_failed() -> None:
    assert GONE.replace('"', "&quot;") in whole_report()


def test_it_gives_light_and_dark_colours() -> None:
    assert "prefers-color-scheme: dark" in whole_report()


def test_text_from_outside_is_escaped() -> None:
    circle = job_named("circle")
    job = replace(circle, title=EVIL, fields={**circle.fields, "prompt": EVIL}, is_scored=False)
    failed = outcome_of(job_named("gone"), error=EVIL, error_code=EVIL, id=EVIL)
    outcomes = [outcome_of(job), failed]
    batch = replace(batch_of(outcomes), said=(Said((EVIL,), EVIL),), state=EVIL)
    report = render_report(run_of(outcomes, replace(CARD, title=EVIL, licence=EVIL), batch))
    assert "<script" not in report
    assert report.count("&lt;script&gt;alert(") >= 9


def test_it_says_that_a_model_is_untrained_only_where_its_card_does() -> None:
    assert "untrained" not in whole_report()
    untrained = render_report(replace(whole_run(), card=replace(CARD, untrained=True)))
    assert "untrained: it shows the path, not the picture" in untrained


def test_it_says_what_the_bundled_model_knows_and_nothing_of_another_one() -> None:
    assert "ten colours and seven shapes" in whole_report()
    assert "ten colours" not in render_report(replace(whole_run(), card=replace(CARD, name="some/other")))


def test_it_says_what_was_not_as_expected() -> None:
    report = render_report(run_of([outcome_of(job_named("circle"), flags=())]))
    assert "not everything as expected" in report
    assert "circle: one has_nsfw flag per image" in report


def test_no_password_reaches_it() -> None:
    secret = "s3cret-password"
    ready = Ready(
        api_url="http://127.0.0.1:8000",
        api_key=secret,
        flower_url="http://127.0.0.1:5555",
        flower_user="fillfleet",
        flower_password=secret,
        redis_url=f"redis://:{secret}@127.0.0.1:6379/0",
        database_url=f"postgresql://app:{secret}@127.0.0.1:5432/fillfleet",
        s3_endpoint="http://127.0.0.1:8333",
        s3_access_key=secret,
        s3_secret_key=secret,
        s3_bucket="fillfleet",
        pids={"api": 1},
    )
    report = render_report(replace(whole_run(), addresses=addresses_of(ready), pids=ready.pids))
    assert "127.0.0.1:5432" in report
    assert secret not in report


@pytest.mark.parametrize("name", ["no/such-hub-id", "/no/such/folder"])
def test_a_model_whose_card_is_not_here_is_named_and_nothing_is_claimed(name: str) -> None:
    card = read_model_card(name)
    assert (card.title, card.licence, card.untrained) == (name, "", False)
