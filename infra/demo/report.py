"""The report: one HTML file that shows a run, opens without a server or a network, and holds no password."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

from common.contract import Status
from infra.demo.model_card import BUNDLED
from infra.demo.outcome import Outcome
from infra.demo.photos import Photo
from infra.demo.report_batch import render_batch
from infra.demo.report_job import render_job
from infra.demo.run import Run

_STYLE: Final = Path(__file__).with_name("report.css")
_UNTRAINED: Final = (
    "The bundled model is untrained: it shows the path, not the picture. Unmasked pixels are the original's."
)
_TINY: Final = (
    "The bundled model is tiny and was trained on drawn scenes alone: it knows ten colours and seven shapes by name, "
    "and nothing else. Unmasked pixels are the original's, whatever the model."
)
_FLOW: Final = (
    ("HTTP API", "api", "takes the request and checks it"),
    ("Postgres", "postgres", "keeps the job: the truth"),
    ("Dispatcher", "dispatcher", "alone publishes what is due"),
    ("Redis", "valkey", "carries the job's id (Valkey)"),
    ("Celery worker", "worker", "claims it, fills it, pastes back"),
    ("S3", "seaweedfs", "stores the image (SeaweedFS)"),
)
_GPU: Final = """\
export FILL_MODEL=black-forest-labs/FLUX.1-Fill-dev
export HF_TOKEN=...          # of an account that accepted the model's licence on its page
make up                      # the same system, on this machine's GPU
make demo                    # or this very demo with the real model"""
_CURL: Final = """\
curl -X POST "$API/api/v3/wavespeed-ai/flux-dev-fill" \\
  -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
  -d '{"image": "https://...", "mask_image": "https://...", "prompt": "a red kite", "size": "match"}'
curl -H "Authorization: Bearer $KEY" "$API/api/v3/predictions/$ID/result\""""


def write_report(run: Run, path: Path) -> None:
    """Write the report to `path`."""
    path.write_text(render_report(run), encoding="utf-8")


def render_report(run: Run) -> str:
    """Return the report as HTML."""
    rows = {row["custom_id"]: row for row in run.batch.dataset.rows}
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fillfleet demo</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{_head(run)}
{_flow(run)}
{render_batch(run)}
<h2>The jobs</h2>
{"".join(render_job(one, rows) for one in run.judged)}
{_photos(run)}
{_next(run)}
</main>
</body>
</html>
"""


def _head(run: Run) -> str:
    kind, verdict = ("good", "everything as expected") if run.as_expected else ("bad", "not everything as expected")
    said = _UNTRAINED if run.card.untrained else _TINY if run.card.name == BUNDLED else ""
    note = f'<p class="note">{escape(said)}</p>' if said else ""
    broken = "".join(f"<li>{escape(line)}</li>" for line in run.broken)
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in _tiles(run))
    return f"""<h1>Fillfleet: a batch through the real system</h1>
<p><span class="badge {kind}">{verdict}</span>
<span class="soft">{run.at:%d %B %Y, %H:%M} · model: {escape(run.card.title)}{_licence(run)}</span></p>
{f'<ul class="bad">{broken}</ul>' if broken else ""}
{note}
<div class="tiles">{tiles}</div>"""


def _licence(run: Run) -> str:
    return f" ({escape(run.card.licence)})" if run.card.licence else ""


def _tiles(run: Run) -> Iterator[tuple[str, str]]:
    outcomes = [one.outcome for one in run.judged]
    ended = [outcome.prediction.status for outcome in outcomes]
    wanted_failures = sum(outcome.job.expected is Status.FAILED for outcome in outcomes)
    yield f"{len(outcomes)}", f"jobs: {len(outcomes) - run.calls} rows of a batch, {run.calls} single calls"
    yield (
        f"{ended.count(Status.COMPLETED)}",
        f"completed, {ended.count(Status.FAILED)} failed ({wanted_failures} on purpose)",
    )
    yield f"{sum(len(outcome.files) for outcome in outcomes)}", "images made and downloaded"
    yield f"{run.batch_seconds:.1f} s", "from the first upload to the last end"
    yield f"{sum(map(_device_seconds, outcomes)):.1f} s", "of that on the device"
    yield f"{run.start_seconds:.1f} s", "to start the whole system"


def _device_seconds(outcome: Outcome) -> float:
    return outcome.prediction.timings.get("inference", 0) / 1000


def _flow(run: Run) -> str:
    items = "".join(
        f"<li><b>{escape(title)}</b>{escape(what)}<br><code>{escape(_where(run, name))}</code></li>"
        for title, name, what in _FLOW
    )
    version = ", ".join(f"{escape(name)} {escape(value)}" for name, value in run.model_version.items())
    return f"""<h2>The way of every job</h2>
<ol class="flow">{items}</ol>
<p class="soft">Each box was a real process on this machine. Flower showed the worker and each job under its id.</p>
<details><summary>Model version, recorded with every result</summary><pre>{version}</pre></details>"""


def _where(run: Run, name: str) -> str:
    parts = [run.addresses[name]] if name in run.addresses else []
    if name in run.pids:
        parts.append(f"pid {run.pids[name]}")
    return ", ".join(parts)


def _photos(run: Run) -> str:
    sources = [one.outcome.material.source for one in run.judged]
    used = {source.name: source for source in sources if isinstance(source, Photo)}
    rows = "".join(map(_photo_row, used.values()))
    return f"""<h2>The photographs</h2>
<p>They come with the packages scikit-image and scikit-learn; authors and licences are as these name them. Each was
changed here in the ways that this page shows. All other scenes, and all masks, were drawn in code for this demo.</p>
<div class="scroll"><table>
<tr><th>Photograph</th><th>Author</th><th>Licence</th><th>Package, file</th></tr>{rows}</table></div>"""


def _photo_row(photo: Photo) -> str:
    title = _link(photo.title, photo.source_url)
    package = {"skimage": "scikit-image", "sklearn": "scikit-learn"}.get(photo.package, photo.package)
    return (
        f"<tr><td>{title}</td><td>{escape(photo.author)}</td><td>{_link(photo.licence, photo.licence_url)}</td>"
        f"<td>{escape(package)}, <code>{escape(photo.file)}</code></td></tr>"
    )


def _link(text: str, url: str | None) -> str:
    return f'<a href="{escape(url)}">{escape(text)}</a>' if url else escape(text)


def _next(run: Run) -> str:
    real = "Real pictures need the real model, and a GPU for it. " if run.card.name == BUNDLED else ""
    return f"""<h2>How to go on</h2>
<p>{real}FLUX.1 [dev] Fill is a gated download under a licence of Black Forest Labs that is non-commercial unless you
have another from them; read and accept it on the model's page first. Nothing else changes: one code runs both.</p>
<pre>{escape(_GPU)}</pre>
<p>Without a GPU, <code>make up</code> starts this system, and keeps it running, with the demo's model. It prints the
API's address and a key:</p>
<pre>{escape(_CURL)}</pre>"""
