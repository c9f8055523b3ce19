"""One job's part of the report. All that did not come from this file is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final

from common.contract import Queue
from infra.demo import preview
from infra.demo.client import PRIORITY_HEADER
from infra.demo.jobs import Call, DemoJob, ImageBy
from infra.demo.outcome import Check, Judged, Outcome
from infra.demo.trail import Trail

_PICTURE_WIDTH: Final = 560
_TIMES: Final = {
    "queue": "in the queue",
    "fetch": "inputs",
    "wait": "waiting for the device",
    "inference": "on the device",
    "upload": "check, paste-back, upload",
}


def render_job(judged: Judged, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the HTML of one job: before, mask and after, what was asked, what was found, and where its time went.

    `rows` are those of the manifest, by the job's name.
    """
    outcome = judged.outcome
    job, prediction = outcome.job, outcome.prediction
    kind = "good" if judged.as_expected else "bad"
    trail = outcome.trail
    seconds = f"{trail.seconds:.1f} s from created to {prediction.status.value}" if trail and trail.seconds else ""
    return f"""
<article class="job" id="{escape(job.name)}">
  <header>
    <h3>{escape(job.title)} <small>{escape(outcome.came_as)}</small></h3>
    <span class="badge {kind}">{escape(prediction.status.value)}{_as_wanted(judged)}</span>
    <span class="soft">{seconds}</span>
  </header>
  <p class="soft">{escape(job.shows)}</p>
  <div class="pictures">{"".join(_figures(outcome))}</div>
  <div class="facts">
    <dl>{"".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in _facts(outcome))}</dl>
    <div>
      {render_checks(judged.checks)}
      {_times(outcome)}
    </div>
  </div>
  {_asked(job, rows)}
</article>"""


def render_checks(checks: Iterable[Check]) -> str:
    """Return the HTML of a list of promises."""
    return f'<ul class="checks">{"".join(map(_check, checks))}</ul>'


def _as_wanted(judged: Judged) -> str:
    if not judged.as_expected:
        return ", not as expected"
    return ", as it should" if judged.outcome.job.expected.value == "failed" else ""


def _figures(outcome: Outcome) -> Iterator[str]:
    sent = preview.before(outcome)
    if sent is None:
        yield '<figure><div class="nothing">HTTP 404</div><figcaption>before</figcaption></figure>'
    else:
        yield _figure(preview.data_uri(sent, width=_PICTURE_WIDTH), "before")
    yield _figure(preview.data_uri(preview.mask(outcome), width=_PICTURE_WIDTH), "mask: white is filled")
    pictures = preview.after(outcome)
    for number, picture in enumerate(pictures):
        seeds = outcome.prediction.seeds
        seed = f", seed {seeds[number]}" if len(pictures) > 1 and number < len(seeds) else ""
        yield _figure(preview.data_uri(picture, width=_PICTURE_WIDTH), f"after{seed}")
    if not pictures:
        error = outcome.prediction.error or "no output"
        status = escape(outcome.prediction.status.value)
        yield f'<figure><div class="nothing">{escape(error)}</div><figcaption>{status}</figcaption></figure>'


def _figure(source: str, caption: str) -> str:
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    job, prediction, trail = outcome.job, outcome.prediction, outcome.trail
    fields = job.fields
    prompt = fields.get("prompt")
    yield "Prompt", escape(str(prompt)) if prompt else '<span class="soft">none: the surroundings go on</span>'
    width, height = outcome.material.size
    asked = "its own, " if fields["size"] == "match" else ""
    yield "Size", f"{asked}{width}*{height}"
    seeds = ", ".join(map(str, prediction.seeds))
    drawn = "" if "seed" in fields or not seeds else " (drawn)"
    yield "Seed", escape(seeds + drawn or str(fields.get("seed", "")))
    yield "Steps, format", f"{fields['num_inference_steps']}, {escape(job.output_format)}"
    if job.loras:
        yield "LoRA", escape(", ".join(f"{path} at scale {scale:g}" for path, scale in job.loras))
    if job.call is not None:
        yield "Route", f"<code>{escape(_route(job.call))}</code>"
    yield "Image", escape(job.image_by.value + _way(job))
    if trail is not None:
        yield "Way", escape(_way_through(trail))
    if outcome.sha256:
        yield "Output", "<br>".join(f"sha256 <code>{one[:24]}…</code>" for one in outcome.sha256)
    if prediction.error:
        yield "Error", f"<code>{escape(prediction.error_code)}</code> {escape(prediction.error)}"
    yield "Job", f"<code>{escape(prediction.id)}</code>"


def _way(job: DemoJob) -> str:
    if job.image_by in {ImageBy.URL, ImageBy.GONE}:
        return ""
    return ", uploaded by the command line" if job.call is None else f", {job.call.upload_by.value}"


def _route(call: Call) -> str:
    return f"POST /api/{call.version}/{call.model}"


def _way_through(trail: Trail) -> str:
    steps = " → ".join(f"{step.event} {step.seconds:.2f} s" for step in trail.steps)
    tries = "1 attempt" if trail.attempts == 1 else f"{trail.attempts} attempts"
    return f"{trail.queue} queue, {tries}: {steps}"


def _check(check: Check) -> str:
    kind = "yes" if check.kept else "no"
    return f'<li class="{kind}">{escape(check.promise)} <span class="soft">{escape(check.detail)}</span></li>'


def _times(outcome: Outcome) -> str:
    timings = outcome.prediction.timings
    times = [(name, timings[name]) for name in _TIMES if timings.get(name)]
    total = sum(milliseconds for _, milliseconds in times)
    if not outcome.files or total == 0:
        return ""
    bars = "".join(f'<i class="{name}" style="width:{100 * value / total:.2f}%"></i>' for name, value in times)
    legend = "".join(f'<span><i class="{name}"></i>{_TIMES[name]} {value} ms</span>' for name, value in times)
    return f'<div class="time">{bars}</div><div class="legend soft">{legend}</div>'


def _asked(job: DemoJob, rows: Mapping[str, Mapping[str, Any]]) -> str:
    if job.call is None:
        title, head, body = "The row of the manifest", "", dict(rows.get(job.name, {}))
    else:
        mask = "<link of the mask>" if job.mask and job.image_by is not ImageBy.ALPHA else None
        title, body = "The request", job.body("<link of the image>", mask)
        head = f"{_route(job.call)}\nAuthorization: Bearer <key>\n{PRIORITY_HEADER}: {Queue.INTERACTIVE.value}\n\n"
    text = head + json.dumps(body, indent=2, ensure_ascii=False)
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"
