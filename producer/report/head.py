"""The top of the page: which batch this is, how it stands, what it took, and with which model and LoRAs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from common.contract import BatchState, Status
from common.lifecycle.counts import CANCELLED
from producer.batches import Batch
from producer.report.figures import count, duration, rate, when
from producer.report.markup import code, isolated, plain
from producer.report.pictures import place_of
from producer.report.summary import Summary

_SHOWN: Final = 50
"""Of LoRAs and model versions."""


def render_head(batch: Batch, summary: Summary, made_at: datetime, *, missing: int) -> str:
    """Return the HTML above everything else; `missing` is the number of pictures that could not be had."""
    tiles = "".join(
        f'<div class="tile{" bad" if bad else ""}"><b>{value}</b><span>{name}</span></div>'
        for value, name, bad in _tiles(batch, summary)
    )
    notes = "".join(f'<p class="note">{note}</p>' for note in _notes(batch, summary, missing))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in _facts(batch, summary))
    return f"""<h1>{isolated(batch.name)}</h1>
<p><span class="badge {plain(batch.state)}">{plain(batch.state)}</span>
<span class="soft">batch {code(batch.id.hex)}, as it stood {when(made_at)}</span></p>
{notes}
<div class="tiles">{tiles}</div>
<dl>{facts}</dl>
{_loras(summary)}
{_versions(summary)}"""


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
        yield duration(1000 * summary.seconds), "from first start to last end", False


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
        yield f"The safety checker flagged {count(summary.flagged, 'image')}: what is stored in their place is a blank."
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
        yield "Model", _version(version)
    if summary.flagged:
        yield "Flagged", count(summary.flagged, "image")


def _loras(summary: Summary) -> str:
    if not summary.loras:
        return ""
    most = sorted(summary.loras.items(), key=lambda item: (-item[1], item[0].path))[:_SHOWN]
    rows = "".join(
        f"<tr><td>{isolated(place_of(lora.path) if '://' in lora.path else lora.path)}</td>"
        f"<td>{code(lora.sha256) if lora.sha256 else 'not known'}</td>"
        f"<td>{code(lora.revision) if lora.revision else '-'}</td>"
        f'<td class="number">{count(number)}</td></tr>'
        for lora, number in most
    )
    return f"""<h2>LoRAs</h2>
<div class="scroll" tabindex="0" role="region" aria-label="LoRAs"><table>
<tr><th>LoRA</th><th>sha256 of its file</th><th>Revision</th><th class="number">Rows</th></tr>{rows}</table></div>"""


def _versions(summary: Summary) -> str:
    if len(summary.versions) < 2:
        return ""
    most = sorted(summary.versions.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    rows = "".join(
        f'<tr><td class="long">{_version(version)}</td><td class="number">{count(number)}</td></tr>'
        for version, number in most
    )
    return f"""<h2>Model versions</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Model versions"><table>
<tr><th>Version</th><th class="number">Rows</th></tr>{rows}</table></div>"""


def _version(text: str) -> str:
    version = json.loads(text)
    if not isinstance(version, Mapping):
        return code(text)
    return ", ".join(f"{plain(name)} {code(value)}" for name, value in version.items())
