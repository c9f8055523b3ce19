"""Judges the rows of a batch by the contract and takes the good ones in, chunk by chunk, each once.

A chunk is one transaction: its jobs, its bad rows, and the cursor. Whoever sends rows may be killed at any line and
start again: rows that the batch has already are compared, never made twice.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from common import lifecycle
from common.contract import (
    ALLOWED,
    MATCH,
    BatchState,
    FillRequest,
    InvalidRequest,
    Problem,
    draw_seed,
    is_storable,
    parse_request,
    shorten,
)
from common.database import notify_jobs
from common.errors import Rejected
from common.lifecycle import Known, NewBatch, NewRow, Reject
from common.objects import Objects
from common.prompt_deny_file import PromptDenyFile
from common.s3_uri import is_s3_uri
from common.settings import Settings
from common.urls import host_of
from producer.batches import Batch, find_batch
from producer.inputs import Ask, InputResolver
from producer.manifest import BadRow, ManifestRow

CHUNK_ROWS: Final = 5000
MAX_NAME_CHARS: Final = 200
MAX_CUSTOM_ID_CHARS: Final = 512
MAX_EXTRA_COLUMNS: Final = 500
"""Columns of a results table that are passed through; whatever else a row has is in its NDJSON."""
MAX_EXTRA_CHARS: Final = 64 * 1024
"""Of what a row passes through: tables of results are made a page of rows at a time, in memory."""
_FOR_SINGLE_JOBS: Final = frozenset({"enable_sync_mode", "enable_base64_output"})
_FIELDS: Final = frozenset(FillRequest.model_fields) - _FOR_SINGLE_JOBS
_SHOWN_FIELDS: Final = 4
"""More unknown fields of a row are not told of: looking for what was meant takes 60 µs each."""
_SHOWN_CHARACTERS: Final = 100
_SEED: Final = {"seed"}
_sorted_json: Final = json.JSONEncoder(sort_keys=True).encode
_ROW_DEFAULTS: Final[Mapping[str, Any]] = {"size": MATCH}
"""A picture of a dataset keeps its own size, unless the batch or the row says otherwise."""


@dataclass(frozen=True)
class Taken:
    """What became of a chunk."""

    new: int
    same: int
    """Rows that the batch had already."""
    rejected: int
    cursor: int


@dataclass(frozen=True)
class Chunk:
    """Judged rows: what of the manifest lies between two cursors."""

    good: Sequence[NewRow]
    bad: Sequence[Reject]
    upto: int
    """The number of the last row; the cursor afterwards."""
    digest: str = ""
    """Of all rows up to there, as whoever sends them has it."""


class Intake:
    """Takes rows in for one owner. `base` is the API's own address where one is known: links to uploads begin so."""

    def __init__(
        self,
        settings: Settings,
        objects: Objects,
        owner: UUID,
        base: str | None = None,
        deny: PromptDenyFile | None = None,
    ) -> None:
        """`deny` is by default the file that the settings name. Raises Rejected (prompt_rules_invalid)."""
        self._owner = owner
        self._deny = deny or PromptDenyFile(settings.prompt_deny_file)
        self._resolver = InputResolver(settings, objects, owner, base or settings.public_url)

    def start(self, connection: Connection, new: NewBatch) -> Batch:
        """Return the batch of that name: a new one, or the one that these rows were sent to before.

        Raises InvalidRequest where its name or defaults break the contract or their prompt is refused, Rejected
        (batch_exists) where there is one of that name with other defaults.
        """
        self._deny.check(_check_new(new))
        found = find_batch(connection, self._owner, new.name)
        if found is None:
            try:
                with connection.begin_nested():
                    lifecycle.create_batch(connection, self._owner, new)
            except IntegrityError:  # somebody else has just created it
                pass
            found = find_batch(connection, self._owner, new.name)
        if found is None or found.name != new.name:
            raise Rejected(
                "batch_name", f"the name {shorten(new.name)} is the id of another batch; choose another name"
            )
        if differences := _differences(found, new):
            raise Rejected(
                "batch_exists",
                f"there is already a batch named {shorten(new.name)}, with another "
                f"{' and another '.join(differences)}; give this one another name",
            )
        return found

    def judge(
        self, rows: Sequence[ManifestRow | BadRow], defaults: Mapping[str, Any], ask: Ask
    ) -> tuple[list[NewRow], list[Reject]]:
        """Judge rows by the contract and by what this owner may read; `ask` runs a look at the database."""
        known = {**_ROW_DEFAULTS, **defaults}
        good: list[NewRow] = []
        bad: list[Reject] = []
        for row in rows:
            if isinstance(row, BadRow):
                bad.append(Reject(row.number, row.custom_id, row.where, row.field, row.value, row.reason))
                continue
            try:
                good.append(self._row(row, known, ask))
            except InvalidRequest as error:
                bad.append(_reject(row, error.problems))
        return good, bad

    def store(self, connection: Connection, batch: UUID, chunk: Chunk) -> Taken:
        """Take a judged chunk in.

        Raises Rejected: batch_not_found, batch_state, and row_changed where the batch has a row of the same identity
        with other content. Then nothing of the chunk is taken.
        """
        state = lifecycle.lock_batch(connection, self._owner, batch)
        if state.state == BatchState.CANCELLED:
            raise Rejected(
                "batch_state", f"the batch {state.name!r} was cancelled; submit under another name, or retry it"
            )
        fresh, same, doubles = _new_ones(connection, state, chunk.good)
        bad = [*chunk.bad, *doubles]
        if state.strict and (bad or state.rejected):
            fresh = []  # nothing of it will run: only look for more bad rows
        lifecycle.insert_rows(connection, self._owner, batch, fresh)
        numbers = [*(row.number for row in chunk.good), *(row.number for row in bad)]
        again = [number for number in numbers if number <= state.row_cursor]
        lifecycle.advance(
            connection,
            batch,
            upto=chunk.upto,
            digest=chunk.digest,
            more_rejected=lifecycle.replace_rejects(connection, batch, bad, again),
            extra_columns=_extra_columns(state.extra_columns, fresh),
        )
        if fresh and state.state != BatchState.RECEIVING:
            lifecycle.reopen(connection, [batch])
            notify_jobs(connection)
        return Taken(len(fresh), same, len(bad), max(chunk.upto, state.row_cursor))

    def take(
        self, connection: Connection, batch: Batch, rows: Sequence[ManifestRow | BadRow], *, upto: int, digest: str = ""
    ) -> Taken:
        """Judge and store a chunk: rows in the order of their numbers, none above `upto`. Raises as `store` does."""
        good, bad = self.judge(rows, batch.defaults, lambda look: look(connection))
        return self.store(connection, batch.id, Chunk(good, bad, upto, digest))

    def _row(self, row: ManifestRow, defaults: Mapping[str, Any], ask: Ask) -> NewRow:
        _check_row(row)
        request = parse_request({**defaults, **row.body})
        self._deny.check(request)
        request = self._resolver.resolve(request, ask)
        asked = request.model_dump_json(exclude=_SEED)
        extra = _sorted_json(row.extra) if row.extra else ""
        if len(extra) > MAX_EXTRA_CHARS:
            reason = f"passes through columns of {len(extra)} characters as JSON"
            raise InvalidRequest((Problem("row", "", reason, f"at most {MAX_EXTRA_CHARS} beside the fields"),))
        hashed = f"{request.seed}{asked}{extra}"
        seed = request.seed if request.seed >= 0 else draw_seed()
        return NewRow(
            number=row.number,
            custom_id=row.custom_id,
            request_json=f'{{"seed":{seed},{asked[1:]}',
            row_hash=hashlib.blake2b(hashed.encode(), digest_size=16).digest(),
            adapters=_adapters(request) if request.loras else "",
            source_host=_host(request.image),
            extra=row.extra,
        )


def _differences(known: Batch, new: NewBatch) -> list[str]:
    """Return what the batch would have to be asked for differently, in the contract's names."""
    fields = sorted({*known.defaults, *new.defaults})
    return [
        *(name for name in fields if known.defaults.get(name) != new.defaults.get(name)),
        *(["strict"] if known.strict != new.strict else []),
    ]


def _check_new(new: NewBatch) -> FillRequest:
    """Return a row that says nothing itself. Raises InvalidRequest."""
    problems = []
    if not new.name.strip() or len(new.name) > MAX_NAME_CHARS or not new.name.isprintable():
        allowed = f"a text of 1 to {MAX_NAME_CHARS} printable characters"
        problems.append(Problem("name", shorten(new.name), "is no name for a batch", allowed))
    if not 0 <= new.priority <= 9:
        problems.append(Problem("priority", shorten(new.priority), "is out of range", "0 to 9, the higher goes first"))
    problems += _unknown_ones(new.defaults)
    if problems:
        raise InvalidRequest(tuple(problems))
    return parse_request({"image": "https://example.com/", **new.defaults})


def _check_row(row: ManifestRow) -> None:
    problems = _unknown_ones(row.body)
    if row.custom_id is not None and not 0 < len(row.custom_id) <= MAX_CUSTOM_ID_CHARS:
        allowed = f"a text of 1 to {MAX_CUSTOM_ID_CHARS} characters"
        problems.append(Problem("custom_id", shorten(row.custom_id), "is too long or empty", allowed))
    if row.custom_id is not None and not is_storable(row.custom_id):
        reason = "holds a NUL character or half of a surrogate pair"
        problems.append(Problem("custom_id", shorten(row.custom_id), reason, "a text without such"))
    if row.files:
        name, content = next(iter(row.files.items()))
        problems.append(Problem(name, shorten(content.name), "was not uploaded", "a URL or s3:// URI"))
    if problems:
        raise InvalidRequest(tuple(problems))


def _unknown_ones(body: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each of the first unknown fields."""
    unknown = islice((name for name in body if name not in _FIELDS), _SHOWN_FIELDS)
    return [_unknown(name, body[name]) for name in unknown]


def _unknown(given: str, value: object) -> Problem:
    name = given[:_SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()
    if given in _FOR_SINGLE_JOBS:
        return Problem(name, shorten(value), "is for single requests only", "leave it out")
    meant = difflib.get_close_matches(name, _FIELDS, n=1)
    hint = f"is no field; did you mean {meant[0]}?" if meant else "is no field"
    return Problem(name, shorten(value), hint, ALLOWED[meant[0]] if meant else f"one of {', '.join(sorted(_FIELDS))}")


def _reject(row: ManifestRow, problems: Sequence[Problem]) -> Reject:
    first = problems[0]
    reason = f"{first.reason}; allowed: {first.allowed}"
    others = "; ".join(str(problem) for problem in problems[1:4])
    custom_id = row.custom_id if row.custom_id and len(row.custom_id) <= MAX_CUSTOM_ID_CHARS else None
    return Reject(
        number=row.number,
        custom_id=_storable(custom_id) if custom_id else None,
        place=_storable(row.where),
        field=_storable(first.field[:200]),
        value=_storable(first.value),
        reason=_storable(f"{reason}; {others}" if others else reason),
    )


def _new_ones(
    connection: Connection, state: Row[*tuple[Any, ...]], rows: Sequence[NewRow]
) -> tuple[list[NewRow], int, list[Reject]]:
    """Return the rows that the batch does not have yet, how many it has, and those that use a custom_id again."""
    read_before = [row.number for row in rows if row.custom_id is None and row.number <= state.row_cursor]
    custom_ids = [row.custom_id for row in rows if row.custom_id is not None]
    by_number, by_id = lifecycle.find_rows(connection, state.id, read_before, custom_ids)
    doubles_before = lifecycle.find_doubles(connection, state.id, [row.number for row in rows], state.row_cursor)
    fresh: list[NewRow] = []
    doubles: list[Reject] = []
    same = 0
    for row in rows:
        known = by_number.get(row.number) if row.custom_id is None else by_id.get(row.custom_id)
        if known is None:
            fresh.append(row)
            if row.custom_id is not None:
                by_id[row.custom_id] = Known(row.number, row.row_hash)
        elif known.number != row.number and (
            row.number > state.row_cursor or doubles_before.get(row.number) == row.custom_id
        ):
            doubles.append(_double(row, known))
        elif known.row_hash == row.row_hash:
            same += 1
        else:
            raise _changed(state.name, row)
    return fresh, same, doubles


def _extra_columns(known: Sequence[str], rows: Sequence[NewRow]) -> list[str]:
    names = dict.fromkeys(known)
    for row in rows:
        names.update(dict.fromkeys(map(_storable, row.extra)))
    return list(names)[:MAX_EXTRA_COLUMNS]


def _double(row: NewRow, known: Known) -> Reject:
    reason = f"is the custom_id of row {known.number} already; give each row its own"
    return Reject(row.number, row.custom_id, f"row {row.number}", "custom_id", shorten(row.custom_id), reason)


def _changed(batch: str, row: NewRow) -> Rejected:
    which = f"row {row.number}" if row.custom_id is None else f"row {row.number} (custom_id {shorten(row.custom_id)})"
    return Rejected(
        "row_changed",
        f"{which} says something else than when the batch {batch!r} took it in; "
        "submit the changed manifest under another name",
    )


def _adapters(request: FillRequest) -> str:
    paths = json.dumps(sorted(lora.path for lora in request.loras))
    return hashlib.blake2b(paths.encode(), digest_size=8).hexdigest()


def _host(source: str) -> str:
    return "" if is_s3_uri(source) else host_of(source)


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
