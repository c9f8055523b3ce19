"""The top of the page: which batch this is, how it stands, what it took, and with which model and LoRAs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from common.contract import BatchState, Status
from common.lifecycle.counts import CANCELLED
from producer.batches import Batch
from producer.report.figures import count, duration, rate, when
from producer.report.markup import code, isolated, plain
from producer.report.origins import version_text
from producer.report.summary import Summary


def render_head(batch: Batch, summary: Summary, made_at: datetime, *, missing: int) -> str:
    """Return the HTML above everything else; `missing` is the number of pictures that could not be had."""
    tiles = "".join(
        f'<div class="tile{" bad" if bad else ""}"><b>{value}</b><span>{name}</span></div>'
        for value, name, bad in _tiles(batch, summary)
    )
    notes = "".join(f'<p class="note">{note}</p>' for note in _notes(batch, summary, missing))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in _facts(batch, summary))
    # The dispatcher writes a batch's end down within its poll interval; for the reader it has ended by now.
    state = BatchState.DONE if batch.state is BatchState.OPEN and batch.is_over else batch.state
    return f"""<h1>{isolated(batch.name)}</h1>
<p><span class="badge {plain(state)}">{plain(state)}</span>
<span class="soft">batch {code(batch.id.hex)}, as it stood {when(made_at)}</span></p>
{notes}
<div class="tiles">{tiles}</div>
<dl>{facts}</dl>"""


def _tiles(batch: Batch, summary: Summary) -> Iterator[tuple[str, str, bool]]:
    """Yield (value, name, whether it is bad news)."""
    states = summary.states
    failed, cancelled = states.get(Status.FAILED, 0), states.get(CANCELLED, 0)
    yield count(summary.rows), "row" if summary.rows == 1 else "rows", False
    yield count(states.get(Status.COMPLETED, 0)), "completed", False
    yield count(failed), "failed", failed > 0
    yield count(cancelled), "cancelled", False
    for state, name in ((Status.PROCESSING, "running"), (Status.CREATED, "waiting")):
        if states.get(state):
            yield count(states[state]), name, False
    yield count(batch.rejected), "bad row, not run" if batch.rejected == 1 else "bad rows, not run", batch.rejected > 0
    yield count(summary.images), "image" if summary.images == 1 else "images", False
    if summary.images_per_minute is not None:
        yield rate(summary.images_per_minute), "images a minute", False
    if summary.seconds is not None:
        yield duration(1000 * summary.seconds), "first start to last end", False


def _notes(batch: Batch, summary: Summary, missing: int) -> Iterator[str]:
    if batch.error:
        yield f"Its manifest: {isolated(batch.error)}"
    if not batch.is_over:
        waits = {BatchState.RECEIVING: "It still receives rows", BatchState.PAUSED: "It is paused"}
        yield f"{waits.get(batch.state, 'It still runs')}: this is how it stood when the report was made."
    if len(summary.versions) > 1:
        yield (
            f"Its images were made by {len(summary.versions)} model versions: the same seed need not give the "
            "same image. They are listed below."
        )
    if summary.flagged:
        yield (
            f"The safety checker flagged {count(summary.flagged, 'image')}: none of them is shown, and below stands "
            "what is stored of each."
        )
    if missing:
        yield f"{count(missing, 'picture')} could not be shown: no longer there, or not to be had when this was made."
    if summary.unnamed:
        yield "There are more causes, versions, LoRAs or workers than a report has room for: some are not named here."


def _facts(batch: Batch, summary: Summary) -> Iterator[tuple[str, str]]:
    yield "Made", when(batch.created_at)
    yield "First row started", when(summary.started)
    yield "Last row ended", when(summary.ended)
    yield "Priority", str(batch.priority)
    if len(summary.versions) == 1:
        (version,) = summary.versions
        yield "Model", version_text(version)
    elif summary.versions:
        yield "Model", f'<a href="#versions">{len(summary.versions)} versions</a>'
