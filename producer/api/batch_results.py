"""What has become of a batch's rows, as streams: the results table in each of its forms, and the bad rows.

A stream is made as its reader takes it, page by page: no reader, however slow, holds a connection to the database or
more than a page of rows. Where it cannot be finished the connection is broken off, so that no part passes as the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from common.contract import Problem, Status, Text, shorten
from producer.api import batch_docs, openapi
from producer.api.auth import CallerOf
from producer.api.batch_lookup import known_batch
from producer.api.envelope import ApiError, invalid
from producer.api.errors import RETRY_SECONDS
from producer.api.own_fields import own_query
from producer.api.services import Services, ServicesOf
from producer.api.stream import BreakableStream
from producer.batch_wire import RejectWire, parse_position
from producer.batches import Batch, read_rejects
from producer.results import csv, ndjson, parquet
from producer.results.columns import Row
from producer.results.read import RowFilter, read_jobs
from producer.results.resubmit import write_resubmit
from producer.results.row import flatten
from producer.row_wire import MAX_ROW

_LINE_EXAMPLE: Final = (
    '{"custom_id":"sku-1","row":1,"status":"completed","outputs":["s3://fillfleet/outputs/…/1-0.png"]}\n'
)
_REJECT_EXAMPLE: Final = (
    '{"row":17,"custom_id":"sku-17","where":"products.csv, line 18","field":"num_images","value":"9",'
    '"reason":"is too large; allowed: an integer from 1 to 4"}\n'
)
_PLAIN: Final = re.compile(r"[^A-Za-z0-9._ -]+")

router = APIRouter(tags=["batches"])


@dataclass(frozen=True)
class _Kind:
    """A form that the results come in."""

    media_type: str
    ending: str
    write: Callable[[Iterator[Row], Batch], Iterator[bytes]]


_KINDS: Final[Mapping[str, _Kind]] = {
    "ndjson": _Kind(ndjson.MEDIA_TYPE, "results.jsonl", lambda rows, _: ndjson.write_ndjson(rows)),
    "csv": _Kind(csv.MEDIA_TYPE, "results.csv", lambda rows, batch: csv.write_csv(rows, batch.extra_columns)),
    "parquet": _Kind(
        parquet.MEDIA_TYPE, "results.parquet", lambda rows, batch: parquet.write_parquet(rows, batch.extra_columns)
    ),
    "resubmit": _Kind(ndjson.MEDIA_TYPE, "failed.jsonl", lambda rows, _: write_resubmit(rows)),
}
_Word = Annotated[Text, Field(max_length=100)]


class ResultsWish(BaseModel):
    """Which rows, and in which form."""

    model_config = ConfigDict(strict=True)

    format: Literal["ndjson", "csv", "parquet", "resubmit"] = Field(
        default="ndjson", description="ndjson, csv, parquet, or resubmit (failed rows as a manifest)"
    )
    status: list[Annotated[Status, Field(strict=False)]] | None = Field(
        default=None, description=f"one or several of {', '.join(Status)}, joined by commas"
    )
    error_code: list[_Word] | None = Field(
        default=None, max_length=100, description="one or several error codes, joined by commas"
    )
    after: _Word | None = Field(
        default=None,
        description="ROW.JOB: the row and job_id of the last row that one has; the stream begins behind it",
    )


class RejectsWish(BaseModel):
    """Which bad rows."""

    model_config = ConfigDict(strict=True)

    after: int = Field(default=0, ge=0, le=MAX_ROW, description="an integer: only rows with a number above it")


@router.get(
    "/batches/{batch}/results",
    summary="The results table",
    response_model=None,
    responses=batch_docs.stream_responses(
        *dict.fromkeys(kind.media_type for kind in _KINDS.values()), example=_LINE_EXAMPLE
    ),
    openapi_extra=openapi.query_extra(ResultsWish),
)
async def results(batch: str, request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Stream one row for each row of the manifest, in its order, as they are now."""
    wish = own_query(ResultsWish, request, lists=["status", "error_code"])
    after = None if wish.after is None else parse_position(wish.after)
    if wish.after is not None and after is None:
        raise invalid(
            [Problem("after", shorten(wish.after), "is no place in the results", "ROW.JOB, such as 17.0195d3c1…")]
        )
    found = await services.in_transaction(lambda connection: known_batch(connection, caller.owner, batch))
    statuses = None if wish.status is None else frozenset(wish.status)
    if wish.format == "resubmit":
        statuses = frozenset({Status.FAILED}) & (statuses or frozenset(Status))
    wanted = RowFilter(statuses, None if wish.error_code is None else frozenset(wish.error_code))
    jobs = read_jobs(services.engine, caller.owner, found.id, wanted, after=after)
    rows = (flatten(job, bucket=services.objects.bucket) for job in jobs)
    kind = _KINDS[wish.format]
    return _stream(services, caller.owner, kind.write(rows, found), kind.media_type, f"{found.name}-{kind.ending}")


@router.get(
    "/batches/{batch}/rejects",
    summary="The bad rows",
    response_model=None,
    responses=batch_docs.stream_responses(ndjson.MEDIA_TYPE, example=_REJECT_EXAMPLE),
    openapi_extra=openapi.query_extra(RejectsWish),
)
async def rejects(batch: str, request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """Stream the rows that became no jobs, in order: row, custom_id, where, field, value and reason of each."""
    wish = own_query(RejectsWish, request)
    found = await services.in_transaction(lambda connection: known_batch(connection, caller.owner, batch))

    def lines() -> Iterator[bytes]:
        after = wish.after
        while page := services.ask(partial(read_rejects, batch=found.id, after=after)):
            yield from ndjson.write_ndjson(RejectWire.of(reject).model_dump() for reject in page)
            after = page[-1].number

    return _stream(services, caller.owner, lines(), ndjson.MEDIA_TYPE, f"{found.name}-rejects.jsonl")


def _stream(services: Services, owner: UUID, pieces: Iterator[bytes], media_type: str, name: str) -> BreakableStream:
    if not services.begin_stream(owner):
        message = "too many results of yours are being read at once; finish or close one, and try again"
        raise ApiError(429, message, headers={"Retry-After": str(RETRY_SECONDS)})
    plain = _PLAIN.sub("_", name)
    headers = {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return BreakableStream(
        services.streamed(_joined(pieces)),
        media_type=media_type,
        headers=headers,
        on_end=partial(services.end_stream, owner),
    )


def _joined(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield the same bytes in pieces that are worth a thread's while."""
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= ndjson.CHUNK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)
