"""What can be done with the batches of one owner, whichever way one comes: what the CLI is written against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from common.lifecycle import NewBatch, Reject
from producer.batches import Batch, ErrorCause, WorkerLine
from producer.input_files import InputStore
from producer.intake import Taken
from producer.manifest import BadRow, ManifestRow
from producer.results.outputs import OutputStore
from producer.results.read import ANY, Position, RowFilter


class Door(Protocol):
    """One owner's way to a fleet. Threads may share one.

    Everything raises FillfleetError in words for the user: Rejected where the wish is wrong (batch_not_found,
    batch_state, …), Unavailable or Transient where the fleet is away; then it may be repeated as it is.
    """

    @property
    def name(self) -> str:
        """Where this leads to, for messages; without any secret."""

    def start(self, new: NewBatch) -> Batch:
        """Return the batch of that name: a new one, or the one that these rows were sent to before.

        Raises InvalidRequest, Rejected (batch_exists).
        """

    def send(self, batch: Batch, rows: Sequence[ManifestRow | BadRow], *, upto: int, digest: str) -> Taken:
        """Send a chunk of rows without files, up to the row number `upto`; may be repeated.

        Raises Rejected (row_changed) where the batch has one of these rows with other content.
        """

    def prepare(
        self, batch: Batch, rows: Sequence[ManifestRow | BadRow], *, upto: int, digest: str
    ) -> Callable[[], Taken]:
        """Do the part of `send` that can be done while the chunk before is on its way; the returned call does the rest.

        The calls are made in the order of the chunks, one at a time. Both raise as `send` does.
        """

    def open(self, batch: Batch) -> Batch:
        """Say that all rows are sent: they may run now. A strict batch with bad rows comes back cancelled."""

    def find(self, name_or_id: str) -> Batch:
        """Return the batch of that id or name. Raises Rejected (batch_not_found)."""

    def list(self, *, page: int = 1, page_size: int = 20) -> tuple[Sequence[Batch], int]:
        """Return a page of the owner's batches, newest first, and how many there are in all."""

    def workers(self, batch: Batch) -> Sequence[WorkerLine]:
        """Return who has jobs of the batch right now."""

    def causes(self, batch: Batch) -> Sequence[ErrorCause]:
        """Return why rows failed, the most frequent first."""

    def rejects(self, batch: Batch) -> Iterator[Reject]:
        """Yield the bad rows in order."""

    def pause(self, batch: Batch) -> Batch:
        """Let nothing more of it start."""

    def resume(self, batch: Batch) -> Batch:
        """Let a paused batch go on."""

    def cancel(self, batch: Batch) -> Batch:
        """End it: what waits ends at once, what runs within a step."""

    def retry(self, batch: Batch) -> int:
        """Put its failed rows back; returns how many there were."""

    def rows(self, batch: Batch, wanted: RowFilter = ANY, *, after: Position | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of the results table, as producer/results/row.py flattens them, in the manifest's order."""

    def check(self, rows: Sequence[ManifestRow | BadRow], defaults: Mapping[str, Any]) -> tuple[int, Sequence[Reject]]:
        """Judge rows without sending them; returns how many are good, and the bad ones."""

    @property
    def inputs(self) -> InputStore:
        """Where files that rows bring along go."""

    @property
    def outputs(self) -> OutputStore:
        """Where the outputs are read from."""

    def close(self) -> None:
        """Close all connections."""
