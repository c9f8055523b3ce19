"""One job from its request to its stored images, top to bottom, on the job's own thread.

Only the device computes elsewhere. What goes wrong is raised as one of the errors of common/errors.py; worker/task.py
decides what each means for the job. No state of a job is written here, except the pins of its inputs.
"""

from __future__ import annotations

import time
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Final

from PIL.Image import Image
from sqlalchemy import Engine

from common import lifecycle
from common.contract import FillRequest
from common.database import transaction
from common.errors import Rejected
from common.lifecycle import Claim
from common.objects import Objects, output_key
from common.prompt_deny_file import DENIED, PromptDenyFile
from common.result import JobResult, Output, Timings, UsedLora
from common.settings import Settings
from worker.canvas import Canvas, draw_canvas, paste_back
from worker.device import Device, Filled
from worker.encode import encode_image
from worker.inputs import InputReader, Inputs
from worker.kept import max_difference_outside_mask
from worker.lease import Lease
from worker.region.areas import areas_of
from worker.safety import SafetyGate
from worker.work import Work

_LOOK_SECONDS: Final = 0.5
"""How often a job that waits for the device looks whether it is still wanted."""


@dataclass(frozen=True)
class Workshop:
    """What every job of this worker uses."""

    settings: Settings
    engine: Engine
    objects: Objects
    reader: InputReader
    device: Device
    safety: SafetyGate
    deny: PromptDenyFile
    worker_id: str
    model_version: dict[str, str]


def fill_job(claim: Claim, lease: Lease, shop: Workshop) -> JobResult:
    """Fetch, draw, fill, check, paste back, encode and upload one claimed job; return what to record.

    Raises Rejected, Transient, Unavailable, Draining, Cancelled, LeaseLost or DeviceBroken.
    """
    settings, request = shop.settings, claim.request
    began = time.monotonic()
    _check_prompt(request, shop.deny)
    inputs = shop.reader.read(claim, lease)
    _pin(claim, inputs, shop)
    lease.enter("decode", settings.decode_seconds)
    shop.safety.admit(inputs.image, request)
    canvas = draw_canvas(inputs.image, inputs.mask, request.output_size)
    mode = request.region or settings.fill_region
    areas = areas_of(canvas, mode)

    lease.enter("wait", settings.device_wait_seconds)
    work, *more = [_work(request, part, inputs) for part in areas.parts]
    fetched = time.monotonic()
    filled = compute(work, lease, shop.device, *more)

    lease.enter("upload", settings.upload_seconds * request.num_images)
    returned = time.monotonic()
    finished = [
        _finish(claim, shop, canvas, areas.together(filled.images[number :: len(work.seeds)]), number, seed)
        for number, seed in enumerate(work.seeds)
    ]
    lease.check()
    return JobResult(
        outputs=tuple(output for output, _ in finished),
        timings=_timings(claim, filled, fetch_seconds=fetched - began, upload_seconds=time.monotonic() - returned),
        model_version=shop.model_version,
        worker=shop.worker_id,
        mask_coverage=round(canvas.coverage, 6),
        region=mode,
        regions=areas.regions,
        max_difference_outside_mask=max((one for _, one in finished if one is not None), default=None),
        inputs=inputs.sha256,
        loras=tuple(
            UsedLora(path=one.source, sha256=one.sha256, scale=one.scale, revision=one.revision)
            for one in inputs.adapters
        ),
    )


def _check_prompt(request: FillRequest, deny: PromptDenyFile) -> None:
    # Checked when the job was made; but the rules may have changed since, or its maker had none.
    if (reason := deny.reason(request.prompt)) is not None:
        raise Rejected(DENIED, f"prompt: {reason}")


def _pin(claim: Claim, inputs: Inputs, shop: Workshop) -> None:
    if inputs.pins != dict(claim.pins):
        with transaction(shop.engine) as connection:
            lifecycle.pin(connection, claim.job, claim.attempt, inputs.pins)


def _work(request: FillRequest, canvas: Canvas, inputs: Inputs) -> Work:
    return Work(
        image=canvas.image,
        mask=canvas.mask,
        width=canvas.width,
        height=canvas.height,
        prompt=request.prompt,
        steps=request.num_inference_steps,
        guidance=request.guidance_scale,
        seeds=tuple(request.seed + number for number in range(request.num_images)),
        adapters=inputs.adapters,
    )


def compute(work: Work, lease: Lease, device: Device, *more: Work) -> Filled:
    """Wait in line and for the model. Raises what the model raises, LeaseLost, Cancelled or Draining.

    A job that is no longer wanted leaves the line at once, and the device at its next tick.
    """
    future = device.submit(work, lease, *more)
    try:
        while not wait([future], timeout=_LOOK_SECONDS).done:
            lease.check_off_device()
        return future.result()
    finally:
        device.withdraw(future)


def _finish(
    claim: Claim, shop: Workshop, canvas: Canvas, generated: Image, number: int, seed: int
) -> tuple[Output, int | None]:
    """Store one image unless it is dropped; return what to record, and how far it is from the original where kept."""
    image = paste_back(canvas, generated)
    judged = shop.safety.judge(image, claim.request)
    output = Output(
        key=None,
        sha256=None,
        bytes=None,
        format=claim.request.output_format,
        width=image.width,
        height=image.height,
        seed=seed,
        nsfw=judged.nsfw,
        policy=judged.policy,
    )
    if judged.stored is None:
        return output, None
    encoded = encode_image(judged.stored, claim.request.output_format)
    difference = max_difference_outside_mask(canvas, image, encoded) if judged.stored is image else None
    key = output_key(claim.owner, claim.job, claim.attempt, number, encoded.extension, claim.batch)
    shop.objects.put(key, encoded.data, encoded.content_type)
    stored = {"key": key, "sha256": encoded.sha256, "bytes": len(encoded.data)}
    return output.model_copy(update=stored), difference


def _timings(claim: Claim, filled: Filled, *, fetch_seconds: float, upload_seconds: float) -> Timings:
    queued = (claim.started_at - claim.created_at).total_seconds()
    return Timings(
        queue=round(queued * 1000),
        fetch=round(fetch_seconds * 1000),
        wait=round(filled.waited_seconds * 1000),
        inference=round(filled.inference_seconds * 1000),
        upload=round(upload_seconds * 1000),
    )
