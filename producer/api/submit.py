"""POST /{model}: takes one fill request. What is wrong with it is said at once, and nothing is queued then.

The job's row is all that is written here; the dispatcher publishes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from common import lifecycle
from common.contract import MODELS, FillRequest, LoraRef, Problem, Queue, parse_request, shorten, unknown_fields
from common.telemetry import get_logger
from producer.api import idempotency, openapi
from producer.api.auth import CallerOf
from producer.api.envelope import SUCCESS, invalid, success
from producer.api.idempotency import OnceKey, create_once, read_once_key
from producer.api.json_body import read_json_object
from producer.api.links import ApiRootOf
from producer.api.predictions import answer, no_such_prediction
from producer.api.services import Services, ServicesOf
from producer.api.sync_mode import timed_out, wait_until_over
from producer.api.validation import ignored
from producer.inputs import InputResolver
from producer.jobs import Job, get_job
from producer.keys import Caller

log = get_logger(__name__)

PRIORITY_HEADER: Final = "X-Fillfleet-Priority"
_PRIORITIES: Final = "interactive (the default) or bulk"

Endpoint = Callable[..., Awaitable[Response]]


@dataclass(frozen=True)
class _Order:
    """One accepted request, and how it came."""

    caller: Caller
    model: str
    queue: Queue
    request: FillRequest
    once: OnceKey | None
    base: str


def submit_router() -> APIRouter:
    """Return the submit route of each model name."""
    router = APIRouter(tags=["predictions"])
    for model in MODELS:
        router.add_api_route(
            f"/{model}",
            _submit_to(model),
            methods=["POST"],
            name=f"submit {model.rpartition('/')[2]}",
            summary=f"Submit to {model}",
            description="Queue one fill request; ask `data.urls.get` for its result.",
            responses=openapi.responses(openapi.PredictionEnvelope, 400, 401, 404, 409, 413, 503),
            openapi_extra=openapi.submit_extra(),
        )
    return router


def _submit_to(model: str) -> Endpoint:
    async def submit(request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
        queue = _queue(request.headers.get(PRIORITY_HEADER))
        body = await read_json_object(request)
        fill = parse_request(body)
        once = read_once_key(request.headers.get(idempotency.HEADER), body)
        order = _Order(caller, model, queue, fill, once, root.base)
        job = await services.in_transaction(lambda connection: _accept(connection, services, order))
        message = SUCCESS
        if fill.enable_sync_mode:

            async def look() -> Job:
                return await services.in_transaction(lambda connection: _visible(connection, caller.owner, job.id))

            job = await wait_until_over(job, look, request, services)
        data = await answer(job, root, services)
        if fill.enable_sync_mode and not job.status.is_terminal:
            data = timed_out(data)
            message = data["error"]
        return success(data, message=message, headers=ignored(_ignored_names(request, body)))

    return submit


def _queue(header: str | None) -> Queue:
    if header is None:
        return Queue.INTERACTIVE
    try:
        return Queue(header.strip().lower())
    except ValueError:
        problem = Problem(PRIORITY_HEADER, shorten(header), "is not one of the choices", _PRIORITIES)
        raise invalid([problem]) from None


def _accept(connection: Connection, services: Services, order: _Order) -> Job:
    """Create the job, or find the one that the same request made before. Raises InvalidRequest."""
    services.deny.check(order.request)
    owner = order.caller.owner
    resolver = InputResolver(services.settings, services.objects, owner, order.base)

    def create(inner: Connection) -> UUID:
        fill = resolver.resolve(order.request, lambda look: look(inner)).with_seed()
        return lifecycle.create(inner, owner, fill, queue=order.queue, model=order.model)

    job = create_once(connection, owner, order.once, create) if order.once else create(connection)
    log.info("api.accepted", job=job.hex, queue=order.queue.value)
    return _visible(connection, owner, job)


def _visible(connection: Connection, owner: UUID, job: UUID) -> Job:
    found = get_job(connection, owner, job)
    if found is None:  # deleted while it was waited for, or before its key was used again
        raise no_such_prediction()
    return found


def _ignored_names(request: Request, body: dict[str, Any]) -> list[str]:
    names = unknown_fields(body)
    loras = body.get("loras")
    for number, lora in enumerate(loras if isinstance(loras, list) else []):
        names += [f"loras[{number}].{name}" for name in sorted(set(lora) - set(LoraRef.model_fields))]
    if "webhook" in request.query_params:
        names.append("webhook")
    return names
