"""The tables of the page: why rows failed and what to do about it, which rows were bad, who did the work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from common.contract import Status
from common.lifecycle import Reject
from common.lifecycle.counts import CANCELLED
from producer.batches import Batch
from producer.report.figures import count, duration, when
from producer.report.markup import code, isolated, plain
from producer.report.summary import Cause, Summary, WorkerSums
from producer.results.columns import Row

_SHOWN: Final = 50


def causes_table(batch: Batch, summary: Summary, shown: Mapping[str, Row]) -> str:
    """Return why rows failed, over all rows, and how to run them again. `shown` has a row below for most causes."""
    if not summary.causes:
        return ""
    most = sorted(summary.causes.items(), key=lambda item: (-item[1].rows, item[0]))[:_SHOWN]
    rows = "".join(_cause(name, cause, shown.get(name)) for name, cause in most)
    return f"""<h2 id="causes">Why rows failed</h2>
<table class="stacks">
<tr><th>Cause</th><th class="number">Rows</th><th>The same again</th><th>What one of them says</th><th>Row</th></tr>
{rows}</table>
{_again(batch, summary)}"""


def _cause(name: str, cause: Cause, shown: Row | None) -> str:
    example, link = cause.example, plain(cause.example_row)
    if shown is not None:
        example, row = str(shown.get("error") or ""), plain(shown.get("row"))
        link = f'<a href="#row-{row}">{row}</a>'
    button = f'<button type="button" data-show="{plain(name)}" hidden>show</button>'
    return f"""<tr><td class="cause">{code(name)} {button}</td>
<td class="number" data-name="Rows">{count(cause.rows)}</td>
<td class="short" data-name="The same again">{_same_again(name, cause)}</td>
<td class="long">{isolated(example)}</td><td class="short" data-name="Row">{link}</td></tr>
"""


def _same_again(name: str, cause: Cause) -> str:
    if name == CANCELLED:
        return "was not tried"
    if cause.retryable:
        return "may work" if cause.retryable == cause.rows else f"may work for {count(cause.retryable)}"
    return "will fail again"


def _again(batch: Batch, summary: Summary) -> str:
    name = batch.name if batch.name.isprintable() and not batch.name.startswith("-") else batch.id.hex
    failed = summary.states.get(Status.FAILED, 0) + summary.states.get(CANCELLED, 0)
    if not any(cause.retryable or code == CANCELLED for code, cause in summary.causes.items()):
        change = f"fillfleet results {shlex.quote(name)} --resubmit again.jsonl"
        return f"""<p>Write the {count(failed, "failed row")} as a manifest, to change and submit again:</p>
<pre>{plain(change)}</pre>"""
    retry = f"fillfleet retry {shlex.quote(name)}"
    return f"""<p>Run the {count(failed, "failed row")} again once the cause is mended; seeds stay as they were:</p>
<pre>{plain(retry)}</pre>"""


def rejects_table(batch: Batch, rejects: Sequence[Reject]) -> str:
    """Return the bad rows of the manifest: the first of them, and how many there are."""
    if not batch.rejected:
        return ""
    more = f"The first {len(rejects)} of {count(batch.rejected)}." if len(rejects) < batch.rejected else ""
    rows = "".join(
        f'<tr><td class="number" data-name="Row">{count(one.number)}</td><td>{isolated(one.custom_id or "")}</td>'
        f"<td>{isolated(one.place)}</td><td>{code(one.field)}</td>"
        f'<td class="long">{isolated(one.value)} {isolated(one.reason)}</td></tr>'
        for one in rejects
    )
    return f"""<h2 id="rejects">Bad rows of the manifest</h2>
<p>They became no jobs. {more}</p>
<table class="stacks">
<tr><th class="number">Row</th><th>custom_id</th><th>Place</th><th>Field</th><th>What is wrong</th></tr>
{rows}</table>"""


def workers_table(summary: Summary) -> str:
    """Return what each worker did, the busiest first."""
    if not summary.workers:
        return ""
    most = sorted(summary.workers.items(), key=lambda item: (-item[1].images, item[0]))
    rows = "".join(_worker(name, sums) for name, sums in most[:_SHOWN])
    more = f"<p>The first {_SHOWN} of {count(len(most))}.</p>" if len(most) > _SHOWN else ""
    return f"""<h2 id="workers">Workers</h2>{more}
<div class="scroll" tabindex="0" role="region" aria-label="Workers"><table>
<tr><th>Worker</th><th class="number">Completed</th><th class="number">Failed</th><th class="number">Images</th>
<th class="number">Device per image</th><th class="number">Device busy</th><th>From</th><th>To</th></tr>
{rows}</table></div>"""


def _worker(name: str, sums: WorkerSums) -> str:
    per_image = duration(sums.device_ms / sums.images) if sums.images else "-"
    share = sums.device_share
    busy = "-" if share is None else f"{100 * share:.0f} %"
    return (
        f'<tr><td>{code(name)}</td><td class="number">{count(sums.completed)}</td>'
        f'<td class="number">{count(sums.failed)}</td><td class="number">{count(sums.images)}</td>'
        f'<td class="number">{per_image}</td><td class="number">{busy}</td>'
        f'<td class="short">{when(sums.first)}</td><td class="short">{when(sums.last)}</td></tr>'
    )
