"""The whole page: one HTML file with its style, its script and its pictures inside.

It asks no network for anything, and its own policy forbids it to: only the one script that is known by its hash runs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Final

from common.contract import Status
from common.lifecycle import Reject
from common.lifecycle.counts import CANCELLED
from producer.batches import Batch
from producer.report.card import FLAGGED, card
from producer.report.charts import latency_chart, timeline_chart
from producer.report.figures import count
from producer.report.head import render_head
from producer.report.markup import plain
from producer.report.origins import loras_table, versions_table
from producer.report.summary import Summary
from producer.report.tables import causes_table, rejects_table, workers_table
from producer.report.thumbnails import Thumbnail, Wanted
from producer.results.columns import Row

_STATES: Final = (Status.COMPLETED, Status.FAILED, CANCELLED, Status.PROCESSING, Status.CREATED)


@dataclass(frozen=True)
class Contents:
    """All that a page says."""

    batch: Batch
    summary: Summary
    rows: Sequence[Row]
    """The rows to show."""
    thumbnails: Mapping[Wanted, Thumbnail]
    rejects: Sequence[Reject]
    """The first of the bad rows."""
    made_at: datetime


def render_page(contents: Contents) -> str:
    """Return the page as HTML."""
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    batch, summary = contents.batch, contents.summary
    failed = {str(row["error_code"]): row for row in reversed(contents.rows) if row.get("error_code") is not None}
    missing = sum(one.data_uri is None and not one.expected for one in contents.thumbnails.values())
    sections = (
        ("causes", "Failures", causes_table(batch, summary, failed)),
        ("rejects", "Bad rows", rejects_table(batch, contents.rejects)),
        ("rates", "Rate and times", _charts(summary)),
        ("workers", "Workers", workers_table(summary)),
        ("loras", "LoRAs", loras_table(summary)),
        ("versions", "Model versions", versions_table(summary)),
        ("rows", "Rows", _rows(contents)),
    )
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, html in sections if html)
    body = "\n".join(html for _, _, html in sections if html)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{plain(batch.name)}: fillfleet report</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#rows">To the rows</a>
<main>
{render_head(batch, summary, contents.made_at, missing=missing)}
<nav aria-label="On this page">{links}</nav>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def _charts(summary: Summary) -> str:
    charts = (
        timeline_chart(summary.timeline),
        latency_chart("In the queue", "from created to taken by a worker", summary.queue),
        latency_chart("On the device", "the model at work, for all images of a row", summary.inference),
        latency_chart("In total", "from created to stored", summary.total),
    )
    if not any(charts):
        return ""
    return f'<h2 id="rates">Rate and times, of all rows</h2><div class="charts">{"".join(charts)}</div>'


def _rows(contents: Contents) -> str:
    of = f"{count(len(contents.rows))} of {count(contents.summary.rows, 'row')} {_are(len(contents.rows))} shown"
    cards = "".join(card(row, contents.thumbnails) for row in contents.rows)
    return f"""<h2 id="rows">Before, mask, after</h2>
<p>{of}{_how_chosen(contents)} <span id="shown" role="status"></span></p>
{_filters(contents)}
{cards}"""


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _how_chosen(contents: Contents) -> str:
    if len(contents.rows) == contents.summary.rows:
        return "."
    return ": the first and the last, some of every kind of failure, the rest at random."


def _filters(contents: Contents) -> str:
    if not contents.rows:
        return ""
    return f"""<form id="filters" hidden>
<label>State <select name="state"><option value="">all</option>{"".join(_states(contents))}</select></label>
<label>Cause <select name="cause"><option value="">all</option>{"".join(_causes(contents))}</select></label>
<label class="words">Row, custom_id or prompt <input type="search" name="words" autocomplete="off"></label>
<button type="reset">Show all</button>
</form>"""


def _states(contents: Contents) -> Iterator[str]:
    named = [(str(state), contents.summary.states.get(state, 0)) for state in _STATES]
    for state, number in named:
        if number:
            yield f'<option value="{state}">{state} ({count(number)} in all)</option>'
    if contents.summary.flagged:
        yield f'<option value="{FLAGGED}">{FLAGGED} ({count(contents.summary.flagged, "image")} in all)</option>'


def _causes(contents: Contents) -> Iterator[str]:
    causes = contents.summary.causes
    for name in sorted(causes, key=lambda name: (-causes[name].rows, name)):
        yield f'<option value="{plain(name)}">{plain(name)} ({count(causes[name].rows)} in all)</option>'


def _resource(name: str) -> str:
    return files("producer.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
