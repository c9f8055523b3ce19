"""A run of the demo as the report gets it, without any system: real pictures and masks, outputs painted by hand."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from common.contract import BatchState, Queue, Status
from common.result import JobResult, Output, Timings
from infra.demo.batch import Batch
from infra.demo.checks import judge
from infra.demo.client import Prediction
from infra.demo.command_line import Said
from infra.demo.dataset import OWN_COLUMN, Dataset
from infra.demo.drawing_checks import wanted_scene
from infra.demo.jobs import BAD_ROW, JOBS, DemoJob
from infra.demo.material import Material, prepare
from infra.demo.model_card import ModelCard
from infra.demo.outcome import Outcome
from infra.demo.run import Run
from infra.demo.trail import Step, Trail
from infra.demo_model.styles import STYLES

CARD: Final = ModelCard(name="bundled", title="A model", licence="apache-2.0", untrained=False)
GONE: Final = 'image: "http://127.0.0.1:1/gone.jpg": the server answered HTTP 404: nothing is there; check the URL'
_PAINT: Final = ("#2a7f3f", "#7a2a9f", "#2a4fbf", "#bf2a4f")
_ROWS: Final = [job.name for job in JOBS if job.call is None]
_TIMINGS: Final = {"queue": 20, "fetch": 60, "wait": 5, "inference": 900, "upload": 90}


def job_named(name: str) -> DemoJob:
    """Return one of the demo's jobs."""
    return next(job for job in JOBS if job.name == name)


@cache
def material_of(name: str) -> Material:
    """Return the inputs of one of the demo's jobs."""
    return prepare(job_named(name))


@cache
def painted(name: str) -> tuple[bytes, ...]:
    """Return as many outputs as the job asks for: where the mask is, what is wanted, or paint if nobody knows that."""
    job, material = job_named(name), material_of(name)
    if job.same_as is not None:
        return painted(job.same_as)
    if job.is_scored:
        truth = wanted_scene(job, material).truth
        papers = [Image.fromarray((truth * 255).round().astype(np.uint8))]
    else:
        # A LoRA shows, a seed shows, and what is the same stays the same.
        first = sum(1 << STYLES.index(path) for path, _ in job.loras)
        papers = [Image.new("RGB", material.size, colour) for colour in _PAINT[first:][: job.images]]
    return tuple(encoded(over_the_original(paper, material), job) for paper in papers)


def over_the_original(paper: Image.Image, material: Material) -> Image.Image:
    """Return `paper` where the mask is, over the original as a worker blends it."""
    snapped = material.filled.point([0] * 8 + list(range(8, 256)))
    return Image.composite(paper, material.original, snapped)


def encoded(picture: Image.Image, job: DemoJob) -> bytes:
    """Return `picture` as a file of the job's format, exact where the format can be."""
    buffer = io.BytesIO()
    picture.save(buffer, job.output_format, lossless=True, exact=True)
    return buffer.getvalue()


def outcome_of(job: DemoJob, *, files: tuple[bytes, ...] | None = None, error: str = "", **said: object) -> Outcome:
    """Return the outcome of `job` as it should be, with other `files`, an `error`, or what else the API `said`."""
    material = material_of(job.name)
    failed = job.expected is Status.FAILED
    outputs = files if files is not None else () if failed else painted(job.name)
    first = int(job.fields.get("seed", 1234))
    prediction = Prediction(
        id=hashlib.sha256(job.name.encode()).hexdigest()[:32],
        model="wavespeed-ai/flux-dev-fill",
        status=job.expected,
        outputs=tuple(f"http://127.0.0.1:1/{number}" for number in range(len(outputs))),
        flags=(False,) * len(outputs),
        seeds=tuple(first + number for number in range(len(outputs))),
        error=error or (GONE if failed else ""),
        error_code="fetch_not_found" if failed else "",
        created_at="2026-04-01T12:34:56.789Z",
        timings=_TIMINGS if outputs else {"inference": 0},
        model_version={"model": "bundled", "torch": "2.13.0"} if outputs else {},
    )
    outcome = Outcome(
        job=job,
        material=material,
        prediction=replace(prediction, **said),  # type: ignore[arg-type]
        files=outputs,
        trail=_trail(job, material, outputs),
        in_flower="FAILURE" if failed else "SUCCESS",
    )
    return outcome if job.call is not None else replace(outcome, row=row_of(outcome))


def row_of(outcome: Outcome) -> dict[str, object]:
    """Return the row of the results table that tells the truth about an outcome."""
    prediction = outcome.prediction
    return {
        "custom_id": outcome.job.name,
        "row": _ROWS.index(outcome.job.name) + 1,
        "status": prediction.status.value,
        "job_id": prediction.id,
        "attempts": 1,
        "output_sha256": list(outcome.sha256) or None,
        "seeds": list(prediction.seeds) or None,
        OWN_COLUMN: outcome.job.shows,
    }


def batch_of(outcomes: list[Outcome]) -> Batch:
    """Return the batch that these outcomes, as far as they are its rows, are of."""
    table = tuple(outcome.row for outcome in outcomes if outcome.row is not None)
    rows = tuple(
        {"custom_id": outcome.job.name, **outcome.job.body("images/x.png", None)}
        for outcome in outcomes
        if outcome.job.call is None
    )
    bad_row = {"image": "images/x.png", **BAD_ROW}
    reject = {
        "row": len(rows) + 1,
        "custom_id": BAD_ROW["custom_id"],
        "where": "manifest.jsonl, line 10",
        "field": "num_inference_steps",
        "value": "99",
        "reason": "is too large; allowed: an integer from 1 to 50",
    }
    return Batch(
        name="demo",
        dataset=Dataset(Path("dataset/manifest.jsonl"), rows, bad_row),
        said=(Said(("submit", "dataset/manifest.jsonl", "--name", "demo"), "Batch demo\n  new rows 9\nNext:\n  x"),),
        state=BatchState.DONE,
        before=table,
        after=table,
        table=table,
        rejects=(reject,),
        page=" ".join(str(row["custom_id"]) for row in rows),
    )


def run_of(outcomes: list[Outcome], card: ModelCard = CARD, batch: Batch | None = None) -> Run:
    """Return a run that found these outcomes, and this batch (else the one that they make)."""
    return Run(
        judged=judge(outcomes),
        batch=batch if batch is not None else batch_of(outcomes),
        card=card,
        at=datetime(2026, 4, 1, 12, 34, tzinfo=UTC),
        start_seconds=9.5,
        batch_seconds=21.5,
        addresses={"api": "127.0.0.1:8000", "postgres": "127.0.0.1:5432"},
        pids={"api": 11, "worker": 12},
    )


def _trail(job: DemoJob, material: Material, files: tuple[bytes, ...]) -> Trail:
    outputs = tuple(
        Output(
            key=f"outputs/{number}",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            format=job.output_format,
            width=material.size[0],
            height=material.size[1],
            seed=number,
            nsfw=False,
        )
        for number, data in enumerate(files)
    )
    result = JobResult(
        outputs=outputs,
        timings=Timings(**_TIMINGS),
        model_version={},
        worker="worker",
        mask_coverage=0.1,
        inputs={},
    )
    return Trail(
        attempts=1,
        failures=0,
        publishes=1,
        queue=(Queue.BULK if job.call is None else Queue.INTERACTIVE).value,
        seconds=1.1,
        result=result if files else None,
        steps=(Step("created", 0.0), Step("claimed", 0.02), Step(job.expected.value, 1.1)),
    )
