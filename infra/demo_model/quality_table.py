"""The figures of infra/demo_model/quality.py in rows: all scenes, and each kind of background by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.demo_model.backgrounds import KINDS
from infra.demo_model.quality import PSNR_BAR, Quality


def as_data(quality: Quality) -> dict[str, Any]:
    """Return the figures of all scenes and of each background, under the same names."""
    return {name: _figures(part) for name, part in _parts(quality)}


def as_lines(quality: Quality) -> Iterator[str]:
    """Return the same as the lines of a Markdown table."""
    yield f"| scenes | colour right | mean IoU | empty prompt: at least {PSNR_BAR:.0f} dB | median |"
    yield "|---|---|---|---|---|"
    for name, part in _parts(quality):
        one = _figures(part)
        yield (
            f"| {name} ({one['scenes']}) | {one['colour_share']:.0%} | {one['mean_iou']:.2f} "
            f"| {one['continued_share']:.0%} | {one['median_psnr']:.1f} dB |"
        )


def _parts(quality: Quality) -> Iterator[tuple[str, Quality]]:
    yield "all", quality
    for background in KINDS:
        drawn = tuple(one for one in quality.drawn if one.background == background)
        continued = tuple(one for one in quality.continued if one.background == background)
        if drawn:
            yield background, Quality(drawn, continued)


def _figures(quality: Quality) -> dict[str, Any]:
    return {
        "scenes": len(quality.drawn),
        "colour_share": round(quality.colour_share, 4),
        "mean_iou": round(quality.mean_iou, 4),
        "continued_share": round(quality.continued_share, 4),
        "median_psnr": round(quality.median_psnr, 2),
    }
