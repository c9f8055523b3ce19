"""Rows on their way into a batch: a chunk of lines is taken wholly or not at all, and may be sent again.

A line that is no row at all is a mistake of the sender: 400, and nothing is taken. A row whose fields are wrong is a
bad row of the batch: it is written down, and the others are taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from common.contract import Problem, Text
from producer.api import batch_docs
from producer.api.auth import CallerOf
from producer.api.batch_lookup import check_receives, known_batch
from producer.api.envelope import ApiError, invalid, success
from producer.api.json_body import parse_json_object
from producer.api.lines_body import check_lines, spool
from producer.api.links import ApiRootOf
from producer.api.own_fields import own_body, own_query
from producer.api.services import Services, ServicesOf
from producer.batch_wire import CheckedWire, RejectWire, TakenWire
from producer.intake import CHUNK_ROWS, Chunk, Intake, Taken
from producer.manifest import BadRow, ManifestRow
from producer.row_wire import MAX_ROW, BadLine, read_lines

T = TypeVar("T")
MAX_ROWS: Final = 2 * CHUNK_ROWS
_LINES: Final = (
    '{"row": 1, "where": "products.csv, line 2", "custom_id": "sku-1", "body": {"image": "https://example.com/1.jpg"}, '
    '"extra": {"shelf": "A7"}}\n'
    '{"row": 2, "where": "products.csv, line 3", "reject": {"field": "image", "value": "", "reason": "is missing"}}\n'
)
_CHECK_LINES: Final = '{"defaults": {"prompt": "an empty table"}}\n' + _LINES

router = APIRouter(tags=["batches"])


class ChunkWish(BaseModel):
    """Which part of the manifest a chunk is."""

    model_config = ConfigDict(strict=True)

    upto: int = Field(
        ge=1, le=MAX_ROW, description=f"the number of the manifest's last row in this chunk, from 1 to {MAX_ROW}"
    )
    digest: Annotated[Text, Field(max_length=200, pattern=r"^[\x20-\x7e]*$")] = Field(
        default="", description="a text of at most 200 ASCII characters: of all rows so far, told back with the batch"
    )


class CheckWish(BaseModel):
    """What holds for rows that are only judged."""

    model_config = ConfigDict(strict=True)

    defaults: dict[str, Any] = Field(default={}, description="an object of fields for rows that say nothing of them")


@router.post(
    "/batches/{batch}/rows",
    summary="Send rows",
    responses=batch_docs.responses(TakenWire, 400, 401, 404, 409, 413, 503),
    openapi_extra=batch_docs.lines_extra(_LINES, ChunkWish),
)
async def take(batch: str, request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """Send a chunk of the manifest: the rows up to number `upto`, in order, all of them or none.

    A line is `{row, where, custom_id, body, extra}`, or `{row, where, custom_id, reject: {field, value, reason}}` of a
    row that could not be read. The same chunk again changes nothing; a row of the same identity (its custom_id, else
    its number) with other content is a 409. Then `…/open` starts them.
    """
    check_lines(request)
    wish = own_query(ChunkWish, request)
    found = await services.in_transaction(lambda connection: known_batch(connection, caller.owner, batch))
    check_receives(found, "sent rows")
    intake = Intake(services.settings, services.objects, caller.owner, root.base, services.deny)

    def judge_and_store(data: bytes) -> Taken:
        # Judged before the transaction begins, so that the batch is locked no longer than the database needs.
        good, bad = intake.judge(_rows(data, wish.upto), found.defaults, services.ask)
        chunk = Chunk(good, bad, wish.upto, wish.digest)
        return services.ask(lambda connection: intake.store(connection, found.id, chunk))

    return success(TakenWire.of(await _with_body(request, services, judge_and_store)).model_dump())


@router.post(
    "/batches/check",
    summary="Judge rows without storing them",
    responses=batch_docs.responses(CheckedWire, 400, 401, 413, 503),
    openapi_extra=batch_docs.lines_extra(_CHECK_LINES),
)
async def check(request: Request, caller: CallerOf, services: ServicesOf, root: ApiRootOf) -> Response:
    """Say which rows would be bad. The first line is `{"defaults": {…}}`; the others are as for `…/rows`."""
    check_lines(request)
    intake = Intake(services.settings, services.objects, caller.owner, root.base, services.deny)

    def judge(data: bytes) -> CheckedWire:
        first, _, rest = data.partition(b"\n")
        defaults = own_body(CheckWish, _first_line(first)).defaults
        good, bad = intake.judge(_rows(rest, MAX_ROW, before=1), defaults, services.ask)
        return CheckedWire(good=len(good), rejects=[RejectWire.of(reject) for reject in bad])

    return success((await _with_body(request, services, judge)).model_dump())


async def _with_body(request: Request, services: Services, work: Callable[[bytes], T]) -> T:
    """Return what `work` makes of the body. Those that come slowly, or wait for their turn, wait on the disk."""
    with tempfile.TemporaryDirectory(prefix="fillfleet-rows-") as folder:
        body = await spool(request, Path(folder) / "body")
        return await services.on_intake_thread(lambda: work(body.path.read_bytes()))


def _first_line(line: bytes) -> Mapping[str, Any]:
    try:
        return parse_json_object(line)
    except ApiError as error:
        raise ApiError(error.status, f'{error.message} as the first line, or {{"defaults": {{}}}}') from None


def _rows(data: bytes, upto: int, *, before: int = 0) -> list[ManifestRow | BadRow]:
    try:
        rows = list(islice(read_lines(data, upto, before=before), MAX_ROWS + 1))
    except BadLine as error:
        raise invalid([Problem("body", "", str(error), 'lines such as {"row": 1, "body": {"image": "…"}}')]) from None
    if len(rows) > MAX_ROWS:
        raise invalid([Problem("body", "", "has too many lines", f"at most {MAX_ROWS} rows in one request")])
    return rows
