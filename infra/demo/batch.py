"""The demo's batch through the HTTP API: upload, submit, wait for every end, download."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from infra.demo.client import Client, Prediction
from infra.demo.jobs import DemoJob, ImageBy, UploadBy
from infra.demo.material import Material
from infra.demo.photo_server import PhotoServer
from infra.demo.photos import as_png

PNG: Final = "image/png"
_POLL_SECONDS: Final = 0.25
_GONE: Final = "/gone.jpg"


@dataclass(frozen=True, eq=False)
class Submitted:
    """A job that the API has taken."""

    job: DemoJob
    material: Material
    prediction: Prediction


def site_files(inputs: Iterable[tuple[DemoJob, Material]]) -> dict[str, tuple[str, bytes]]:
    """Return what the photo server has: the untouched file of each photograph that a job names by URL."""
    files: dict[str, tuple[str, bytes]] = {}
    for job, material in inputs:
        if job.image_by is ImageBy.URL:
            kind = "image/jpeg" if material.photo.path.suffix == ".jpg" else PNG
            files[_site_path(material)] = (kind, material.photo.path.read_bytes())
    return files


def submit(client: Client, job: DemoJob, material: Material, site: PhotoServer) -> Submitted:
    """Upload what the job needs, and submit it. Raises ApiError and requests.RequestException."""
    if job.image_by is ImageBy.URL:
        image = site.url(_site_path(material))
    elif job.image_by is ImageBy.GONE:
        image = site.url(_GONE)
    else:
        image = _upload(client, job, f"{material.photo.name}.png", as_png(material.image))
    mask = None
    if material.mask is not None:
        mask = _upload(client, job, f"{job.mask}.png", as_png(material.mask))
    prediction = client.submit(job.version, job.model, job.body(image, mask), job.queue)
    return Submitted(job, material, prediction)


def follow(
    client: Client,
    submitted: Sequence[Submitted],
    on_end: Callable[[Submitted], None],
    *,
    seconds: float,
) -> list[Submitted]:
    """Ask until every job has ended, or `seconds` are over; return them as they are then, in order.

    `on_end` is told of each as it ends. Raises ApiError and requests.RequestException.
    """
    latest = {one.job.name: one for one in submitted}
    deadline = time.monotonic() + seconds
    while waiting := [one for one in latest.values() if not one.prediction.status.is_terminal]:
        for one in waiting:
            now = Submitted(one.job, one.material, client.result(one.job.version, one.prediction.id))
            latest[one.job.name] = now
            if now.prediction.status.is_terminal:
                on_end(now)
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return [latest[one.job.name] for one in submitted]


def _upload(client: Client, job: DemoJob, name: str, data: bytes) -> str:
    if job.upload_by is UploadBy.TICKET:
        return client.upload_by_ticket(job.version, name, data, PNG)
    return client.upload_form(job.version, name, data, PNG)


def _site_path(material: Material) -> str:
    return f"/{material.photo.path.name}"
