"""A manifest that comes as the body of one request: one object a line, brought to the disk and read from there.

A small one is taken in before the answer, so that the answer tells of its bad rows. A large one is put into the bucket,
from where the server reads it like any other manifest: it is safe by then, whoever is killed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from starlette.requests import Request

from common import lifecycle
from common.contract import Problem
from common.lifecycle import NewBatch
from common.objects import input_key
from producer.api.batch_lookup import known_batch
from producer.api.batch_start import start_batch
from producer.api.batch_wish import BodyWish, new_batch_of_body
from producer.api.envelope import invalid
from producer.api.idempotency import HEADER, read_once_key
from producer.api.lines_body import Spooled, check_lines, spool
from producer.api.own_fields import own_query
from producer.api.services import Services
from producer.batch_wire import ROWS_TYPE
from producer.batches import Batch
from producer.intake import Chunk, Intake
from producer.manifest import BadRow, ManifestRow
from producer.manifest.open import open_manifest
from producer.manifest.options import Form, ManifestOptions, options_to_json
from producer.submission import chunks

LARGE_BYTES: Final = 32 * 1024 * 1024
"""What is taken in before the answer takes some ten seconds at most: proxies wait for a minute."""
_OPTIONS: Final = ManifestOptions(form=Form.JSONL, local_files=False)

Rows = Sequence[ManifestRow | BadRow]


async def batch_of_body(request: Request, services: Services, owner: UUID, intake: Intake) -> Batch:
    """Take the body in and return the batch as it is then. Raises ApiError, InvalidRequest, Rejected, ManifestError."""
    check_lines(request)
    wish = own_query(BodyWish, request)
    new = new_batch_of_body(wish, services.settings, read_once_key(request.headers.get(HEADER), {}))
    with tempfile.TemporaryDirectory(prefix="fillfleet-body-") as folder:
        body = await spool(request, Path(folder) / "body")
        await services.on_intake_thread(lambda: _check_plain(body))
        if wish.open and body.size > LARGE_BYTES:
            return await services.on_storage_thread(_hand_over, services, owner, intake, new, body)
        batch = await _take(services, intake, new, body)
    if wish.open:
        await services.in_transaction(lambda connection: lifecycle.open_batch(connection, owner, batch.id))
    return await services.in_transaction(lambda connection: known_batch(connection, owner, batch.id.hex))


async def _take(services: Services, intake: Intake, new: NewBatch, body: Spooled) -> Batch:
    """Take all rows in, chunk by chunk, each in its turn among those of others."""
    rows = chunks(open_manifest(str(body.path), _OPTIONS))
    batch: Batch | None = None

    def step() -> bool:
        nonlocal batch
        chunk: Rows | None = next(rows, None)
        if batch is None:  # only now, so that a body that holds no rows leaves no batch behind
            batch = services.ask(lambda connection: start_batch(connection, intake, new))
        if chunk is None:
            return False
        _store(services, intake, batch, chunk)
        return True

    while await services.on_intake_thread(step):
        pass
    assert batch is not None  # noqa: S101 - the first step made it
    return batch


def _store(services: Services, intake: Intake, batch: Batch, chunk: Rows) -> None:
    good, bad = intake.judge(chunk, batch.defaults, services.ask)
    judged = Chunk(good, bad, chunk[-1].number)
    services.ask(lambda connection: intake.store(connection, batch.id, judged))


def _hand_over(services: Services, owner: UUID, intake: Intake, new: NewBatch, body: Spooled) -> Batch:
    """Put the body into the bucket for the loop that reads manifests."""
    key = input_key(owner, body.sha256, "jsonl")
    if services.objects.size(key) != body.size:
        with body.path.open("rb") as file:
            services.objects.put(key, file, ROWS_TYPE)
    manifest = {"source": services.objects.uri(key), "options": options_to_json(_OPTIONS)}
    named = NewBatch(
        name=new.name,
        defaults=new.defaults,
        strict=new.strict,
        priority=new.priority,
        webhook_url=new.webhook_url,
        manifest=manifest,
    )
    return services.ask(lambda connection: start_batch(connection, intake, named))


def _check_plain(body: Spooled) -> None:
    with body.path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise invalid(
                [Problem("body", "", "is gzipped", "plain lines; or upload the file and name its link as the manifest")]
            )
