"""The demo's single jobs by the HTTP API: upload, submit, ask; the latter for the rows of the batch as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from infra.demo.client import Client, Prediction
from infra.demo.dataset import remote_image
from infra.demo.jobs import Call, DemoJob, UploadBy
from infra.demo.material import Material
from infra.demo.photo_server import PhotoServer
from infra.demo.photos import as_png

PNG: Final = "image/png"
_POLL_SECONDS: Final = 0.25


@dataclass(frozen=True, eq=False)
class Submitted:
    """A job that the system has taken, as a call or as a row."""

    job: DemoJob
    material: Material
    prediction: Prediction


def submit(client: Client, job: DemoJob, call: Call, material: Material, site: PhotoServer) -> Submitted:
    """Upload what the job needs, and submit it. Raises ApiError and requests.RequestException."""
    image = remote_image(job, site)
    if image is None:
        image = _upload(client, call, f"{job.picture}.png", as_png(material.image))
    mask = None
    if material.mask is not None:
        mask = _upload(client, call, f"{job.mask}.png", as_png(material.mask))
    return Submitted(job, material, client.submit(call.version, call.model, job.body(image, mask)))


def follow(
    client: Client,
    batch: str,
    submitted: Sequence[Submitted],
    on_end: Callable[[Submitted], None],
    *,
    seconds: float,
) -> list[Submitted]:
    """Ask until every job has ended, or `seconds` are over; return them as they are then, in order.

    The rows of `batch` are asked for together. `on_end` is told of each as it ends. Raises ApiError and
    requests.RequestException.
    """
    latest = {one.job.name: one for one in submitted}
    deadline = time.monotonic() + seconds
    while waiting := [one for one in latest.values() if not one.prediction.status.is_terminal]:
        over = time.monotonic() > deadline
        ended = {row["job_id"] for row in client.rows(batch, ended=True)}
        for one in waiting:
            if one.job.call is None and one.prediction.id not in ended and not over:
                continue
            now = replace(one, prediction=client.result(one.prediction.id))
            latest[one.job.name] = now
            if now.prediction.status.is_terminal:
                on_end(now)
        if over:
            break
        time.sleep(_POLL_SECONDS)
    return [latest[one.job.name] for one in submitted]


def _upload(client: Client, call: Call, name: str, data: bytes) -> str:
    if call.upload_by is UploadBy.TICKET:
        return client.upload_by_ticket(call.version, name, data, PNG)
    return client.upload_form(call.version, name, data, PNG)
