"""The routes that read, list, cancel and delete predictions, as jobs are called on the wire.

Another owner's id, an unknown, a deleted and a malformed one all get the same 404 in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from common import lifecycle
from common.contract import Status, Text
from common.ids import parse_id
from producer.api import openapi
from producer.api.auth import CallerOf
from producer.api.envelope import ApiError, success
from producer.api.json_body import read_json_object
from producer.api.links import ApiRoot, ApiRootOf
from producer.api.services import Services, ServicesOf
from producer.api.validation import ignored, validated
from producer.api.wire import to_wire
from producer.jobs import Job, JobFilter, JobPage, get_job, list_jobs

MAX_PAGE_SIZE: Final = 100
MAX_IDS: Final = 1000
_MAX_PAGE: Final = 1_000_000

router = APIRouter(tags=["predictions"])


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


# JSON has neither times nor enums: they are texts there, too.
_Status = Annotated[Status, Field(strict=False)]
_Time = Annotated[datetime, Field(strict=False), AfterValidator(_utc)]


class ListWish(BaseModel):
    """What to list."""

    model_config = ConfigDict(strict=True)

    page: int = Field(default=1, ge=1, le=_MAX_PAGE, description=f"an integer from 1 to {_MAX_PAGE}")
    page_size: int = Field(default=20, ge=1, le=MAX_PAGE_SIZE, description=f"an integer from 1 to {MAX_PAGE_SIZE}")
    model: Text | None = Field(default=None, max_length=200, description="a model's name")
    status: Annotated[Status, Field(strict=False)] | None = Field(
        default=None, description=f"one of {', '.join(Status)}"
    )
    created_after: _Time | None = Field(default=None, description="an ISO 8601 time such as 2026-04-01T12:00:00Z")
    created_before: _Time | None = Field(default=None, description="an ISO 8601 time such as 2026-04-01T12:00:00Z")


class DeleteWish(BaseModel):
    """What to delete."""

    model_config = ConfigDict(strict=True)

    ids: list[Annotated[str, StringConstraints(max_length=100)]] = Field(
        min_length=1, max_length=MAX_IDS, description=f"a list of 1 to {MAX_IDS} prediction ids"
    )


def no_such_prediction() -> ApiError:
    """Return the one answer to every id that this owner cannot see."""
    return ApiError(404, "no such prediction; check the id, and that your key belongs to the owner who submitted it")


async def answer(job: Job, root: ApiRoot, services: Services) -> dict[str, Any]:
    """Return the job as `data`, with the images themselves where the request asked for base64."""
    if job.request.enable_base64_output and job.result:
        return await services.on_storage_thread(to_wire, job, root, services.objects, inline=True)
    return to_wire(job, root, services.objects)


@router.get(
    "/predictions/{prediction_id}/result",
    summary="The result of a prediction, as far as it is",
    responses=openapi.responses(openapi.PredictionEnvelope, 401, 404, 410, 503),
)
@router.get(
    "/predictions/{prediction_id}",
    summary="The same as its result",
    responses=openapi.responses(openapi.PredictionEnvelope, 401, 404, 410, 503),
)
async def result(prediction_id: str, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """Answer at once, whatever the status is: poll until `data.status` is completed or failed."""

    wanted = _known_id(prediction_id)
    job = await services.in_transaction(lambda connection: get_job(connection, caller.owner, wanted))
    return success(await answer(_found(job), root, services))


@router.get(
    "/predictions",
    summary="List predictions",
    responses=openapi.responses(openapi.PageEnvelope, 400, 401, 503),
    openapi_extra=openapi.query_extra(ListWish),
)
async def list_by_query(request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """List your predictions, newest first. Outputs are always links here."""
    values = dict(request.query_params)
    return await _list(values, validated(ListWish, values, strict=False), caller.owner, services, root)


@router.post(
    "/predictions",
    summary="List predictions (as the vendor's command line asks)",
    responses=openapi.responses(openapi.PageEnvelope, 400, 401, 413, 503),
    openapi_extra=openapi.body_extra(ListWish, {"page": 1, "page_size": 20, "status": "completed"}),
)
async def list_by_body(request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """List your predictions, newest first. Outputs are always links here."""
    values = await read_json_object(request)
    return await _list(values, validated(ListWish, values), caller.owner, services, root)


@router.post(
    "/predictions/delete",
    summary="Delete predictions",
    responses=openapi.responses(openapi.DeletedEnvelope, 400, 401, 404, 413, 503),
    openapi_extra=openapi.body_extra(DeleteWish, {"ids": ["0195d3c1c8a67cf0a3f0b0c5a1b2c3d4"]}),
)
async def delete_many(request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Delete predictions; those under way are cancelled first. 404 only where there was none of them."""
    values = await read_json_object(request)
    names = validated(DeleteWish, values).ids
    data = await _delete(services, caller.owner, names)
    return success(data, headers=ignored(_unknown(values, DeleteWish)))


@router.delete(
    "/predictions/{prediction_id}",
    summary="Delete one prediction",
    responses=openapi.responses(openapi.DeletedEnvelope, 401, 404, 503),
)
async def delete_one(prediction_id: str, caller: CallerOf, services: ServicesOf) -> Response:
    """Delete a prediction; one under way is cancelled first."""
    return success(await _delete(services, caller.owner, [prediction_id]))


@router.post(
    "/predictions/{prediction_id}/cancel",
    summary="Cancel one prediction",
    responses=openapi.responses(openapi.PredictionEnvelope, 401, 404, 503),
)
async def cancel(prediction_id: str, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """Cancel a prediction: one that waits ends at once, one that runs within a step, one that is over stays."""

    wanted = _known_id(prediction_id)

    def stop(connection: Connection) -> Job | None:
        if get_job(connection, caller.owner, wanted) is None:
            return None
        lifecycle.cancel(connection, caller.owner, [wanted])
        return get_job(connection, caller.owner, wanted)

    return success(await answer(_found(await services.in_transaction(stop)), root, services))


async def _list(values: Mapping[str, Any], wish: ListWish, owner: UUID, services: Services, root: ApiRoot) -> Response:
    wanted = JobFilter(wish.model, wish.status, wish.created_after, wish.created_before)

    def read(connection: Connection) -> JobPage:
        return list_jobs(connection, owner, wanted, page=wish.page, page_size=wish.page_size)

    found = await services.in_transaction(read)
    items = [to_wire(job, root, services.objects) for job in found.jobs]
    data = {"page": wish.page, "page_size": wish.page_size, "total": found.total, "items": items}
    return success(data, headers=ignored(_unknown(values, ListWish)))


async def _delete(services: Services, owner: UUID, names: Sequence[str]) -> dict[str, list[str]]:
    ids = {name: parse_id(name) for name in names}
    wanted = {job for job in ids.values() if job is not None}

    def hide(connection: Connection) -> set[UUID]:
        return set(lifecycle.delete(connection, owner, wanted))

    gone = await services.in_transaction(hide)
    if not gone:
        raise no_such_prediction()
    return {
        "deleted": [job.hex for job in dict.fromkeys(ids.values()) if job in gone and job is not None],
        "not_found": [name for name, job in ids.items() if job not in gone],
    }


def _known_id(text: str) -> UUID:
    job = parse_id(text)
    if job is None:
        raise no_such_prediction()
    return job


def _found(job: Job | None) -> Job:
    if job is None:
        raise no_such_prediction()
    return job


def _unknown(values: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    return sorted(set(values) - set(model.model_fields))
