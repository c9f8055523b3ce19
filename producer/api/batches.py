"""The routes of batches as a whole: make, list, show, open, pause, resume and cancel them, and retry their failures.

They are our own, under /api/v3 alone. Another owner's batch is the same 404 as an unknown one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from common import lifecycle
from common.contract import BatchState, Text
from common.errors import Rejected
from producer.api import batch_docs, openapi
from producer.api.auth import CallerOf
from producer.api.batch_body import batch_of_body
from producer.api.batch_lookup import check_receives, known_batch
from producer.api.batch_start import start_batch
from producer.api.batch_wish import BatchWish, BodyWish, new_batch
from producer.api.envelope import success
from producer.api.idempotency import HEADER, read_once_key
from producer.api.json_body import read_json_object
from producer.api.lines_body import is_lines
from producer.api.links import ApiRootOf
from producer.api.own_fields import own_body, own_query
from producer.api.predictions import MAX_PAGE_SIZE
from producer.api.services import ServicesOf
from producer.batch_wire import BatchDetailWire, BatchPageWire, BatchWire, RetriedWire
from producer.batches import Batch, error_causes, list_batches, workers_on
from producer.inputs import InputResolver
from producer.intake import Intake

_MAX_PAGE: Final = 1_000_000
_EXAMPLES: Final = {
    "manifest": {
        "summary": "The server reads a CSV",
        "value": {
            "name": "products, spring",
            "manifest": "https://example.com/products.csv",
            "options": {"columns": {"image": "picture_url", "custom_id": "sku"}},
            "defaults": {"prompt": "an empty table", "num_inference_steps": 28},
        },
    },
    "rows": {
        "summary": "Rows will be sent; nothing runs if one of them is bad",
        "value": {"name": "catalogue 7", "strict": True, "priority": 8},
    },
}
_LINES: Final = (
    '{"custom_id": "sku-1", "image": "https://example.com/1.jpg", "mask_image": "https://example.com/1.png"}\n'
)

_RETRY_SECONDS: Final = 10.0
"""How long one request may go on retrying: proxies wait for a minute."""

router = APIRouter(tags=["batches"])


class BatchListWish(BaseModel):
    """What to list."""

    model_config = ConfigDict(strict=True)

    page: int = Field(default=1, ge=1, le=_MAX_PAGE, description=f"an integer from 1 to {_MAX_PAGE}")
    page_size: int = Field(default=20, ge=1, le=MAX_PAGE_SIZE, description=f"an integer from 1 to {MAX_PAGE_SIZE}")
    state: Annotated[BatchState, Field(strict=False)] | None = Field(
        default=None, description=f"one of {', '.join(BatchState)}"
    )
    name: Text | None = Field(default=None, max_length=1000, description="a batch's name or id: lists that one alone")


class DetailWish(BaseModel):
    """What to tell of a batch beside the batch itself."""

    details: list[Literal["workers", "causes"]] = Field(
        default=["workers", "causes"], description="workers, causes, both joined by a comma, or nothing"
    )


@router.post(
    "/batches",
    summary="Make a batch",
    responses=batch_docs.responses(BatchWire, 400, 401, 404, 409, 413, 503),
    openapi_extra=batch_docs.batch_extra(BatchWish, _EXAMPLES, BodyWish, _LINES),
)
async def make(request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """Make a batch in one of three ways, and get it back, counts and bad rows included.

    As JSON with `manifest`: the server reads the manifest itself (`state` is `receiving` until it has) and opens the
    batch. As JSON without one: rows are sent to `…/rows`, then `…/open` starts them. As `application/x-ndjson`: the
    body is the manifest, one object a line, with the other fields as the query.

    The same name and defaults again are the same batch, and rows that it has are not made twice. For a batch without
    a name the header `Idempotency-Key` does the same.
    """
    intake = Intake(services.settings, services.objects, caller.owner, root.base, services.deny)
    if is_lines(request.headers.get("content-type", "")):
        return _told(await batch_of_body(request, services, caller.owner, intake))
    wish = own_body(BatchWish, await read_json_object(request))
    resolver = InputResolver(services.settings, services.objects, caller.owner, root.base)
    once = read_once_key(request.headers.get(HEADER), {})

    def start(connection: Connection) -> Batch:
        new = new_batch(wish, services.settings, resolver, lambda look: look(connection), once)
        return start_batch(connection, intake, new)

    return _told(await services.in_transaction(start))


@router.get(
    "/batches",
    summary="List batches",
    responses=batch_docs.responses(BatchPageWire, 400, 401, 503),
    openapi_extra=openapi.query_extra(BatchListWish),
)
async def list_all(request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """List your batches, newest first."""
    wish = own_query(BatchListWish, request)

    def read(connection: Connection) -> tuple[list[Batch], int]:
        if wish.name is None:
            return list_batches(connection, caller.owner, page=wish.page, page_size=wish.page_size, state=wish.state)
        try:
            found = known_batch(connection, caller.owner, wish.name)
        except Rejected:
            return [], 0
        items = [found] if wish.state in {None, found.state} else []
        return items if wish.page == 1 else [], len(items)

    found, total = await services.in_transaction(read)
    page = BatchPageWire(
        page=wish.page, page_size=wish.page_size, total=total, items=[BatchWire.of(batch) for batch in found]
    )
    return success(page.model_dump(mode="json"))


@router.get(
    "/batches/{batch}",
    summary="One batch",
    responses=batch_docs.responses(BatchDetailWire, 400, 401, 404, 503),
    openapi_extra=openapi.query_extra(DetailWish),
)
async def show(batch: str, request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Tell how far a batch is, who works on it, and why rows of it failed. A batch goes by its id or name."""
    told = own_query(DetailWish, request, lists=["details"]).details

    def read(connection: Connection) -> BatchDetailWire:
        found = known_batch(connection, caller.owner, batch)
        workers = workers_on(connection, found.id) if "workers" in told else []
        return BatchDetailWire.detailed(found, workers, error_causes(connection, found.id) if "causes" in told else [])

    return success((await services.in_transaction(read)).model_dump(mode="json"))


Change = Callable[[Connection, UUID, UUID], Any]


def _open(connection: Connection, owner: UUID, batch: UUID) -> None:
    check_receives(known_batch(connection, owner, batch.hex), "opened")
    lifecycle.open_batch(connection, owner, batch)


def _add(wish: str, change: Change, summary: str, description: str) -> None:
    async def route(batch: str, caller: CallerOf, services: ServicesOf) -> Response:
        def work(connection: Connection) -> Batch:
            found = known_batch(connection, caller.owner, batch)
            change(connection, caller.owner, found.id)
            return known_batch(connection, caller.owner, found.id.hex)

        return _told(await services.in_transaction(work))

    endpoint: Callable[..., Awaitable[Response]] = route
    router.add_api_route(
        f"/batches/{{batch}}/{wish}",
        endpoint,
        methods=["POST"],
        name=f"{wish} batch",
        summary=summary,
        description=description,
        responses=batch_docs.responses(BatchWire, 401, 404, 409, 503),
    )


_add("open", _open, "Start a batch", "Say that all rows are sent: they may run. A strict one with bad rows ends.")
_add("pause", lifecycle.pause_batch, "Pause a batch", "Let nothing more of it start; what runs is finished.")
_add("resume", lifecycle.resume_batch, "Resume a batch", "Let a paused batch go on.")
_add("cancel", lifecycle.cancel_batch, "Cancel a batch", "What waits ends soon, what runs within a step.")


class RetryWish(BaseModel):
    """Where to go on."""

    model_config = ConfigDict(strict=True)

    after: Annotated[Text, Field(pattern="^[0-9a-f]{32}$")] | None = Field(
        default=None, description="`next` of the last answer"
    )


@router.post(
    "/batches/{batch}/retry",
    summary="Retry what failed",
    responses=batch_docs.responses(RetriedWire, 400, 401, 404, 409, 503),
    openapi_extra=openapi.query_extra(RetryWish),
)
async def retry(batch: str, request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Put failed rows of a batch back, and say how many. Where `next` is not null, ask again with it as `after`.

    A batch that was over goes on. A million rows take minutes, and no request may.
    """
    wish = own_query(RetryWish, request)
    found = await services.in_transaction(lambda connection: known_batch(connection, caller.owner, batch))
    retried = 0
    after = None if wish.after is None else UUID(wish.after)
    began = time.monotonic()
    # A chunk is a transaction; between two of them others have their turn.
    while ids := await services.in_transaction(
        partial(lifecycle.retry_rows, owner=caller.owner, batch=found.id, after=after)
    ):
        retried += len(ids)
        after = ids[-1]
        if time.monotonic() - began > _RETRY_SECONDS:
            return success(RetriedWire(retried=retried, next=after.hex).model_dump())
    return success(RetriedWire(retried=retried).model_dump())


def _told(batch: Batch) -> Response:
    return success(BatchWire.of(batch).model_dump(mode="json"))
