"""The report's part about the batch as a whole: what was typed, what it said, and which promises it kept."""

from __future__ import annotations

from html import escape

from infra.demo.batch import PAGE, TABLE
from infra.demo.command_line import Said
from infra.demo.dataset import FOLDER, MANIFEST
from infra.demo.report_job import render_checks
from infra.demo.run import Run


def render_batch(run: Run) -> str:
    """Return its HTML. The links lead to the files beside the report."""
    rows = len(run.batch.dataset.rows)
    typed = "\n".join(map(_typed, run.batch.said))
    return f"""<h2>The batch</h2>
<p>{rows} of the jobs are rows of one manifest, <a href="{FOLDER}/{MANIFEST}">{FOLDER}/{MANIFEST}</a>: images and masks
are local files beside it. One more row is bad on purpose. All of it went through the <code>fillfleet</code> command,
with the API's address in <code>FILLFLEET_URL</code> and a key in <code>FILLFLEET_API_KEY</code>. It left
<a href="{TABLE}">{TABLE}</a>, the outputs, and <a href="{PAGE}">{PAGE}</a>, the page that it makes of any batch.</p>
<div class="facts"><pre>{typed}</pre>
{render_checks(run.batch_checks)}</div>"""


def _typed(said: Said) -> str:
    lines = "".join(f"\n  {escape(line)}" for line in said.lines)
    return f'<b>$ {escape(said.typed)}</b><span class="soft">{lines}</span>'
