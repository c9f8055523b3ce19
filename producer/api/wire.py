"""A job as the hosted endpoint's clients expect it: the `data` of submit, result and list.

The documented fields always have their type (`error` "" and not null, lists and not null, `executionTime` an int),
since clients crash otherwise; what we add beside them is left out where there is nothing to say.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, Field

from common.contract import RegionMode, Status
from common.errors import Rejected
from common.objects import Objects
from producer.api.envelope import ApiError, VendorCode
from producer.api.links import ApiRoot
from producer.jobs import Job

_MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
_MEDIA: Final = ("fetch_", "image_", "input_", "object_", "source_")
_PARAMETER: Final = ("lora_", "mask_", "nothing_", "prompt_")


class Urls(BaseModel):
    """Where to ask again."""

    get: str = Field(examples=["https://fill.example.com/api/v3/predictions/0195d3c1c8a67cf0a3f0b0c5a1b2c3d4/result"])


class Prediction(BaseModel):
    """One job."""

    id: str = Field(examples=["0195d3c1c8a67cf0a3f0b0c5a1b2c3d4"])
    model: str = Field(examples=["wavespeed-ai/flux-dev-fill"])
    outputs: list[str] = Field(
        description="Links to the images, valid for a while from now; or bare base64. Empty text in the place of an "
        "image that was flagged and of which nothing is stored."
    )
    urls: Urls
    has_nsfw_contents: list[bool] = Field(description="One for each output; empty where no checker looked.")
    status: Status
    created_at: str = Field(examples=["2026-04-01T12:34:56.789Z"])
    error: str = Field(description="Empty where there is none.")
    timings: dict[str, int] = Field(description="Milliseconds; `inference` is always there.")
    executionTime: int = Field(description="Milliseconds of inference.")  # noqa: N815 - the wire's name
    input: dict[str, Any] = Field(description="The request with every default and the drawn seed.")
    seeds: list[int] = Field(description="The seed of each output.")
    region: RegionMode | None = Field(default=None, description="full or auto: what it was filled under.")
    regions: list[list[int]] | None = Field(
        default=None,
        description="Left, top, width and height of each part that was generated; not there where all of it was.",
    )
    mask_coverage: float | None = Field(default=None, description="The part of the canvas that was filled, 0 to 1.")
    model_version: dict[str, str] | None = None
    code: int | None = Field(default=None, description="1401, 1402, 5000 or 5004 where something went wrong.")
    error_code: str | None = Field(default=None, description="A stable word for what went wrong.")


def to_wire(job: Job, root: ApiRoot, objects: Objects, *, inline: bool = False) -> dict[str, Any]:
    """Return the job as `data`. `inline` puts the images themselves in place of links, read from the bucket.

    Raises ApiError (410) where an image is no longer stored, Unavailable where the bucket does not answer.
    """
    result = job.result
    outputs = result.outputs if result else ()
    flags = [output.nsfw for output in outputs]
    inference = result.timings.inference if result else 0
    prediction = Prediction(
        id=job.id.hex,
        model=job.model,
        outputs=[_shown(objects, output.key, inline=inline) for output in outputs],
        urls=Urls(get=root.prediction(job.id)),
        has_nsfw_contents=[flag for flag in flags if flag is not None] if None not in flags else [],
        status=job.status,
        created_at=_timestamp(job.created_at),
        error=job.error or "",
        timings=result.timings.model_dump() if result else {"inference": inference},
        executionTime=inference,
        input=job.request.model_dump(mode="json"),
        seeds=[output.seed for output in outputs],
        region=result.region if result else None,
        regions=[list(box) for box in result.regions] if result and result.regions else None,
        mask_coverage=result.mask_coverage if result else None,
        model_version=result.model_version if result else None,
        code=_vendor_code(job.error_code),
        error_code=job.error_code,
    )
    return prediction.model_dump(mode="json", exclude_none=True)


def _shown(objects: Objects, key: str | None, *, inline: bool) -> str:
    # Of a dropped image "" and not nothing: has_nsfw_contents and seeds have one entry for each output, in its place.
    if key is None:
        return ""
    return _inline(objects, key) if inline else objects.presigned_get(key)


def _inline(objects: Objects, key: str) -> str:
    try:
        data = objects.get(key, max_bytes=_MAX_OUTPUT_BYTES)
    except Rejected:
        raise ApiError(410, "the images of this prediction are no longer stored; submit it again") from None
    return base64.b64encode(data).decode("ascii")


def _timestamp(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _vendor_code(error_code: str | None) -> int | None:
    """Map our word for an error to the hosted endpoint's number; a cancelled job has none."""
    if error_code is None or error_code == "cancelled":
        return None
    if error_code.startswith(_MEDIA):
        return VendorCode.MEDIA_ACCESS_FAILED
    if error_code.startswith(_PARAMETER):
        return VendorCode.INVALID_PARAMETER
    return VendorCode.INTERNAL
