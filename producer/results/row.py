"""One job's row, as it is stored, brought into the columns of the results table.

Rows may be older or newer than this code: what cannot be read is null, and no row ever stops the stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from common.contract import FillRequest
from common.safety_policy import SafetyPolicy
from producer.results.columns import EXTRA, Row

T = TypeVar("T")

_INT64_END: Final = 2**63
_MOST_PIXELS: Final = 2**31
"""Of a side; no picture is nearly so large, and the sum of two fits any column."""
_TIMINGS: Final = ("queue", "fetch", "wait", "inference", "upload")
_DEFAULTS: Final[Mapping[str, Any]] = {
    name: field.default for name, field in FillRequest.model_fields.items() if not field.is_required()
}


def flatten(job: Mapping[str, Any], *, bucket: str) -> Row:
    """Return the row of a job: `job` has the columns of the jobs table.

    Outputs become s3:// URIs in `bucket`. Lists are null unless the job is completed, and so are its measurements.
    """
    request, result = _object(job.get("request")), _object(job.get("result"))
    return {
        "custom_id": _text(job.get("custom_id")),
        "row": _integer(job.get("row_no")),
        "job_id": _id(job.get("id")),
        "batch_id": _id(job.get("batch_id")),
        "status": _text(job.get("status")),
        "error_code": _text(job.get("error_code")),
        "error": _text(job.get("error")),
        "attempts": _integer(job.get("attempt")),
        "failures": _integer(job.get("failures")),
        "retryable": _flag(job.get("retryable")),
        **_inputs(job, request, result),
        **_outputs(request, result, bucket),
        **_parameters(request),
        "loras": _loras(job, request, result),
        **_generated(request, result),
        **_measured(job, result),
        EXTRA: dict(_object(job.get("extra"))),
    }


def _inputs(job: Mapping[str, Any], request: Mapping[str, Any], result: Mapping[str, Any]) -> Row:
    seen, pins = _object(result.get("inputs")), _object(job.get("pins"))  # a failed job has only its pins
    return {
        "image": _text(request.get("image")),
        "mask_image": _text(request.get("mask_image")),
        "image_sha256": _text(seen.get("image")) or _text(pins.get("image")),
        "mask_sha256": _text(seen.get("mask_image")) or _text(pins.get("mask_image")),
    }


def _outputs(request: Mapping[str, Any], result: Mapping[str, Any], bucket: str) -> Row:
    stored = result.get("outputs")
    outputs = [_object(output) for output in stored] if isinstance(stored, list) else None
    first = outputs[0] if outputs else {}

    def each(name: str, read: Callable[[object], T | None]) -> list[T | None] | None:
        return None if outputs is None else [read(output.get(name)) for output in outputs]

    return {
        "outputs": each("key", lambda key: f"s3://{bucket}/{key}" if isinstance(key, str) else None),
        "output_sha256": each("sha256", _text),
        "output_bytes": each("bytes", _integer),
        "output_format": _text(first.get("format")) or _text(_parameter(request, "output_format")),
        "output_width": _integer(first.get("width")),
        "output_height": _integer(first.get("height")),
        "seeds": each("seed", _integer),
        "nsfw": each("nsfw", _flag),
        "nsfw_policy": None if outputs is None else [_policy(output) for output in outputs],
    }


def _policy(output: Mapping[str, Any]) -> str | None:
    if output.get("nsfw") is not True:
        return None
    return _text(output.get("policy")) or SafetyPolicy.BLANK.value  # of a worker that knew no other


def _parameters(request: Mapping[str, Any]) -> Row:
    return {
        "prompt": _text(_parameter(request, "prompt")),
        "size": _text(_parameter(request, "size")),
        "num_inference_steps": _integer(_parameter(request, "num_inference_steps")),
        "guidance_scale": _number(_parameter(request, "guidance_scale")),
        "seed": _integer(request.get("seed")),
        "num_images": _integer(_parameter(request, "num_images")),
        "enable_safety_checker": _flag(_parameter(request, "enable_safety_checker")),
    }


def _loras(job: Mapping[str, Any], request: Mapping[str, Any], result: Mapping[str, Any]) -> list[Row]:
    asked = _objects(request.get("loras"))
    used, pins = _objects(result.get("loras")), _object(job.get("pins"))
    rows = []
    for number, lora in enumerate(asked):
        path = _text(lora.get("path"))
        seen = used[number] if number < len(used) and used[number].get("path") == path else {}
        rows.append(
            {
                "path": path,
                "scale": _number(lora.get("scale")),
                "sha256": _text(seen.get("sha256")) or _text(pins.get(f"loras[{number}].path")),
                "revision": _text(seen.get("revision")),
            }
        )
    return rows


def _generated(request: Mapping[str, Any], result: Mapping[str, Any]) -> Row:
    regions = _boxes(result.get("regions"))
    return {
        "region": _text(result.get("region")) or _text(request.get("region")),
        "regions": regions,
        "crop_box": None if regions is None else _around(regions),
    }


def _around(boxes: Sequence[list[int]]) -> list[int]:
    corners = [(left, top, left + width, top + height) for left, top, width, height in boxes]
    lefts, tops, rights, bottoms = zip(*corners, strict=True)
    return [min(lefts), min(tops), max(rights), max(bottoms)]


def _boxes(value: object) -> list[list[int]] | None:
    stored = value if isinstance(value, list) else []
    read = [box for one in stored if (box := _box(one)) is not None]
    return read if read and len(read) == len(stored) else None


def _box(value: object) -> list[int] | None:
    sides = [_integer(side) for side in value] if isinstance(value, list) else []
    read = [side for side in sides if side is not None and 0 <= side < _MOST_PIXELS]
    return read if len(read) == len(sides) == 4 else None


def _measured(job: Mapping[str, Any], result: Mapping[str, Any]) -> Row:
    timings, version = _object(result.get("timings")), result.get("model_version")
    return {
        "mask_coverage": _number(result.get("mask_coverage")),
        "max_difference_outside_mask": _integer(result.get("max_difference_outside_mask")),
        "model_version": dict(version) if isinstance(version, Mapping) else None,
        "created_at": _time(job.get("created_at")),
        "started_at": _time(job.get("started_at")),
        "ended_at": _time(job.get("ended_at")),
        **{f"{name}_ms": _integer(timings.get(name)) for name in _TIMINGS},
        "worker": _text(result.get("worker")) or _text(job.get("worker_id")),
    }


def _parameter(request: Mapping[str, Any], name: str) -> object:
    """Return what the job runs with: a field that its version did not know yet has the default."""
    value = request.get(name)
    return _DEFAULTS[name] if value is None else value


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> Sequence[Mapping[str, Any]]:
    return [_object(item) for item in value] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str) else None


def _id(value: object) -> str | None:
    return value.hex if isinstance(value, UUID) else None  # as the wire has it


def _integer(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -_INT64_END <= value < _INT64_END else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
