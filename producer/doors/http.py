"""To a fleet by its HTTP API, with a key, from any machine: nothing of the fleet but the API has to be in reach."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from common.errors import Rejected
from common.lifecycle import NewBatch, Reject
from producer.batch_wire import (
    PREFIX,
    ROWS_TYPE,
    BatchDetailWire,
    BatchPageWire,
    BatchWire,
    CheckedWire,
    RejectWire,
    RetriedWire,
    TakenWire,
    position_text,
)
from producer.batches import Batch, ErrorCause, WorkerLine
from producer.doors.http_calls import PATIENCE_SECONDS, TROUBLE, Calls, in_words
from producer.doors.http_files import HttpInputs, HttpOutputs
from producer.input_files import InputStore
from producer.intake import Taken
from producer.manifest import BadRow, ManifestRow
from producer.results.ndjson import read_ndjson
from producer.results.outputs import OutputStore
from producer.results.read import ANY, Position, RowFilter
from producer.row_wire import pieces

_PIECE_BYTES: Final = 8 * 1024 * 1024
"""Of a chunk whose rows are long several are sent, so that none is too much for a server or a proxy."""


Query = dict[str, str | list[str]]
Row = dict[str, Any]


class HttpDoor:
    """See Door. It belongs to the owner of the key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        """`on_trouble` is told in words when a call has to be repeated. Raises Rejected (url_invalid, key_missing)."""
        self._calls = Calls(url, key, patience_seconds=patience_seconds, on_trouble=on_trouble)
        self._inputs = HttpInputs(self._calls)
        self._outputs = HttpOutputs(self._calls)

    @property
    def name(self) -> str:
        """See Door."""
        return self._calls.url

    def start(self, new: NewBatch) -> Batch:
        """See Door."""
        wish: dict[str, Any] = {
            "name": new.name,
            "defaults": dict(new.defaults),
            "strict": new.strict,
            "priority": new.priority,
            "webhook_url": new.webhook_url,
        }
        if new.manifest is not None:
            wish |= {"manifest": new.manifest["source"], "options": new.manifest["options"]}
        return self._calls.json(BatchWire, "POST", PREFIX, json=wish).batch()

    def send(self, batch: Batch, rows: Sequence[ManifestRow | BadRow], *, upto: int, digest: str) -> Taken:
        """See Door."""
        return self.prepare(batch, rows, upto=upto, digest=digest)()

    def prepare(
        self, batch: Batch, rows: Sequence[ManifestRow | BadRow], *, upto: int, digest: str
    ) -> Callable[[], Taken]:
        """See Door. What is too long for one request goes in several, each of which is taken wholly or not at all."""
        bodies = list(pieces(rows, _PIECE_BYTES)) or [(b"", upto)]
        return lambda: self._send(batch, bodies, upto, digest)

    def open(self, batch: Batch) -> Batch:
        """See Door."""
        return self._wish(batch, "open")

    def find(self, name_or_id: str) -> Batch:
        """See Door."""
        # A name may hold anything, so it stands in the query and not in the path.
        found = self._calls.json(BatchPageWire, "GET", PREFIX, params={"name": name_or_id}).items
        if not found:
            raise Rejected("batch_not_found", f"no batch is named {name_or_id!r}; `fillfleet status` lists yours")
        return found[0].batch()

    def list(self, *, page: int = 1, page_size: int = 20) -> tuple[Sequence[Batch], int]:
        """See Door."""
        found = self._calls.json(BatchPageWire, "GET", PREFIX, params={"page": page, "page_size": page_size})
        return [item.batch() for item in found.items], found.total

    def workers(self, batch: Batch) -> Sequence[WorkerLine]:
        """See Door."""
        return [line.value() for line in self._detail(batch, "workers").workers]

    def causes(self, batch: Batch) -> Sequence[ErrorCause]:
        """See Door."""
        return [cause.value() for cause in self._detail(batch, "causes").causes]

    def rejects(self, batch: Batch) -> Iterator[Reject]:
        """See Door."""

        def params(last: Row | None) -> Query:
            return {} if last is None else {"after": str(last["row"])}

        for row in self._stream(f"{_path(batch)}/rejects", params, _objects):
            yield RejectWire.model_validate(row).reject()

    def pause(self, batch: Batch) -> Batch:
        """See Door."""
        return self._wish(batch, "pause")

    def resume(self, batch: Batch) -> Batch:
        """See Door."""
        return self._wish(batch, "resume")

    def cancel(self, batch: Batch) -> Batch:
        """See Door."""
        return self._wish(batch, "cancel")

    def retry(self, batch: Batch) -> int:
        """See Door. Where an answer is lost on the way, its rows are put back but not counted."""
        retried = 0
        after: str | None = None
        while True:
            params = {} if after is None else {"after": after}
            answer = self._calls.json(RetriedWire, "POST", f"{_path(batch)}/retry", params=params)
            retried += answer.retried
            after = answer.next
            if after is None:
                return retried

    def rows(self, batch: Batch, wanted: RowFilter = ANY, *, after: Position | None = None) -> Iterator[dict[str, Any]]:
        """See Door."""

        def params(last: Row | None) -> Query:
            query: Query = {"format": "ndjson"}
            if wanted.statuses is not None:
                query["status"] = sorted(wanted.statuses)
            if wanted.error_codes is not None:
                query["error_code"] = sorted(wanted.error_codes)
            if last is not None:
                query["after"] = f"{last['row']}.{last['job_id']}"
            elif after is not None:
                query["after"] = position_text(after)
            return query

        if wanted.statuses == frozenset() or wanted.error_codes == frozenset():
            return iter(())
        return self._stream(f"{_path(batch)}/results", params, read_ndjson)

    def check(self, rows: Sequence[ManifestRow | BadRow], defaults: Mapping[str, Any]) -> tuple[int, Sequence[Reject]]:
        """See Door."""
        good = 0
        rejects: tuple[Reject, ...] = ()
        for body, _ in pieces(rows, _PIECE_BYTES):
            data = json.dumps({"defaults": dict(defaults)}, ensure_ascii=False).encode("utf-8", "backslashreplace")
            headers = {"Content-Type": ROWS_TYPE}
            wire = self._calls.json(CheckedWire, "POST", f"{PREFIX}/check", data=data + b"\n" + body, headers=headers)
            good += wire.good
            rejects += tuple(reject.reject() for reject in wire.rejects)
        return good, rejects

    @property
    def inputs(self) -> InputStore:
        """See Door."""
        return self._inputs

    @property
    def outputs(self) -> OutputStore:
        """See Door."""
        return self._outputs

    def close(self) -> None:
        """See Door."""
        self._calls.close()

    def _send(self, batch: Batch, bodies: Sequence[tuple[bytes, int]], upto: int, digest: str) -> Taken:
        total = Taken(0, 0, 0, batch.cursor)
        for number, (body, last) in enumerate(bodies, 1):
            # Only the last piece is where the sender's digest holds.
            params = {"upto": upto, "digest": digest} if number == len(bodies) else {"upto": last, "digest": ""}
            headers = {"Content-Type": ROWS_TYPE}
            path = f"{_path(batch)}/rows"
            wire = self._calls.json(TakenWire, "POST", path, params=params, data=body, headers=headers)
            total = Taken(total.new + wire.new, total.same + wire.same, total.rejected + wire.rejected, wire.cursor)
        return total

    def _wish(self, batch: Batch, wish: str) -> Batch:
        return self._calls.json(BatchWire, "POST", f"{_path(batch)}/{wish}").batch()

    def _detail(self, batch: Batch, what: str) -> BatchDetailWire:
        return self._calls.json(BatchDetailWire, "GET", _path(batch), params={"details": what})

    def _stream(
        self, path: str, params: Callable[[Row | None], Query], read: Callable[[Iterator[bytes]], Iterator[Row]]
    ) -> Iterator[Row]:
        """Yield the objects of an NDJSON stream, taken up again behind the last one where it breaks off."""
        patience = self._calls.patience()
        last: Row | None = None
        while True:
            try:
                with self._calls.lines(path, params(last)) as lines:
                    for row in read(lines):
                        last = row
                        yield row
                        patience.refresh()
                return
            except TROUBLE as error:
                patience.wait(f"{self._calls.url} {in_words(error)}", None)


def _objects(lines: Iterator[bytes]) -> Iterator[Row]:
    return (json.loads(line) for line in lines)


def _path(batch: Batch) -> str:
    return f"{PREFIX}/{batch.id.hex}"
