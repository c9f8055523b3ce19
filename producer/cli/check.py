"""Tells what `submit --check` has found: rows, bad rows, bytes, megapixels, GPU-hours, and the price."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any, Final

import click

from common.lifecycle import Reject
from producer.cli.command import BAD_ROWS
from producer.cli.connection import Fleet
from producer.cli.estimate import Check, Estimate
from producer.cli.figures import count, duration_text, size_text
from producer.cli.progress import shown
from producer.cli.rejects import in_words, write_rejects
from producer.cli.submit import max_file_bytes, open_wished
from producer.cli.submit_options import Wish

_SHOWN: Final = 10
_KEPT: Final = 100_000
"""Bad rows that are kept in memory for --rejects; of a manifest with more the form is wrong, not its rows."""


def check(wish: Wish, fleet: Fleet, *, quiet: bool) -> int:
    """Judge the manifest, print what was found, and return the exit code. Raises ManifestError, FillfleetError."""
    manifest = open_wished(wish, fleet)
    judge = Check(fleet.door, wish.defaults, max_file_bytes(fleet))
    bad: list[Reject] = []

    def on_bad(reject: Reject) -> None:
        if len(bad) < _KEPT:
            bad.append(reject)

    with closing(judge), shown(lambda: _line(manifest.read, judge.estimate), quiet=quiet):
        estimate = judge.run(manifest, on_bad)
    if wish.rejects is not None:
        write_rejects(wish.rejects, bad)
    if wish.as_json:
        click.echo(json.dumps(_plain(estimate, wish)))
    else:
        _tell(estimate, wish, bad)
    return BAD_ROWS if estimate.bad else 0


def _line(read: int, estimate: Estimate) -> str:
    return f"{count(read, 'row')} read · {count(estimate.good)} good · {count(estimate.bad)} bad"


def _plain(estimate: Estimate, wish: Wish) -> dict[str, Any]:
    hours = _hours(estimate, wish)
    return {
        "rows": estimate.rows,
        "good": estimate.good,
        "bad": estimate.bad,
        "files": estimate.files,
        "bytes": estimate.bytes,
        "images": estimate.images,
        "megapixels": round(estimate.megapixels, 3),
        "images_of_unknown_size": estimate.unmeasured,
        "gpu_hours": None if hours is None else round(hours, 6),
        "dollars": None if hours is None or wish.dollars_per_hour is None else round(hours * wish.dollars_per_hour, 4),
    }


def _tell(estimate: Estimate, wish: Wish, bad: list[Reject]) -> None:
    click.echo(f"{count(estimate.rows, 'row')}: {count(estimate.good)} good, {count(estimate.bad)} bad")
    for reject in bad[:_SHOWN]:
        click.echo(f"  {in_words(reject)}")
    if estimate.bad > _SHOWN:
        more = f"they are in {wish.rejects}" if wish.rejects else "--rejects FILE lists them"
        click.echo(f"  … and {count(estimate.bad - _SHOWN)} more; {more}")
    click.echo(f"To upload:   {count(estimate.files, 'file')}, {size_text(estimate.bytes)}")
    click.echo(f"To make:     {count(estimate.images, 'image')}{_megapixels(estimate)}")
    hours = _hours(estimate, wish)
    if hours is None:
        click.echo("GPU-hours:   unknown; give the time of one image with --seconds-per-image S")
        return
    click.echo(f"GPU-hours:   {hours:,.2f} ({duration_text(hours * 3600)} on one GPU)")
    if wish.dollars_per_hour is None:
        click.echo("Price:       unknown; give that of a GPU's hour with --dollars-per-hour D")
    else:
        click.echo(f"Price:       ${hours * wish.dollars_per_hour:,.2f}")


def _megapixels(estimate: Estimate) -> str:
    known = estimate.images - estimate.unmeasured
    if not known:
        return "; their sizes are known only once they are fetched" if estimate.images else ""
    how = f" (from {count(len(estimate.samples))} measured)" if len(estimate.samples) < estimate.sampled else ""
    text = f", {estimate.megapixels:,.1f} megapixels{how}"
    return text + (f" and {count(estimate.unmeasured)} of unknown size" if estimate.unmeasured else "")


def _hours(estimate: Estimate, wish: Wish) -> float | None:
    if wish.seconds_per_image is None:
        return None
    return estimate.images * wish.seconds_per_image / 3600
