"""Row `seam`: what is to be seen of the mask's edge, ours beside a plain paste of the same generated picture.

The bundled model fills real photographs through the worker's own canvas and model. What counts is edge_difference.py's
seam; how far everything is from the truth is measured apart, on shifts of colour that are known because they were made.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from infra.embedded.servers import EmbeddedServers
from tests.benchmarks.edge_difference import EdgeDifference, edge_difference
from tests.benchmarks.seam_pairs import Pair, pairs
from tests.support.fills import FillSettings
from worker.canvas import Canvas, draw_canvas, paste_back
from worker.model import FluxFillModel, load_model
from worker.seam import mend_seam
from worker.work import Work

STEPS: Final = 8
GUIDANCE: Final = 30.0
TARGET: Final = 0.5


@dataclass(frozen=True, eq=False)
class _Filled:
    """One pair, filled: what the model made, cut to the output, and ways to put it over the original."""

    pair: Pair
    canvas: Canvas
    made: Image.Image

    @property
    def generated(self) -> Image.Image:
        return self.made.crop((0, 0, self.canvas.output_width, self.canvas.output_height))

    @property
    def where(self) -> npt.NDArray[np.bool_]:
        mask = np.asarray(self.canvas.mask)[: self.canvas.output_height, : self.canvas.output_width]
        return mask > 0

    def pasted(self) -> dict[str, Image.Image]:
        """Return the photograph as it was, a plain paste by the mask alone, one with our feather, and all of ours."""
        return {
            "untouched": self.canvas.original,
            "plain": Image.composite(self.generated, self.canvas.original, Image.fromarray(self.where)),
            "feather": paste_back(self.canvas, self.made),
            "ours": paste_back(self.canvas, mend_seam(self.canvas, self.made)),
        }


def measure(_servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: the mean seam over all pairs, in CIEDE2000."""
    model = load_model(FillSettings())
    found: dict[str, dict[str, EdgeDifference]] = {}
    shifted: list[dict[str, float]] = []
    stock, outside = 0, 0
    for number, pair in enumerate(pairs()):
        filled = _fill(model, pair, number)
        ways = filled.pasted()
        found[pair.name] = {way: edge_difference(picture, filled.where) for way, picture in ways.items()}
        stock = max(stock, _most_outside(filled, filled.generated))
        outside = max(outside, _most_outside(filled, ways["ours"]))
        shifted.append(_with_known_shift(filled))
    seams = {way: _mean(one[way].seam for one in found.values()) for way in ("untouched", "plain", "feather", "ours")}
    ratio = seams["ours"] / seams["plain"]
    return {
        "ours": seams["ours"],
        "peer": seams["plain"],
        "ratio": ratio,
        "target": f"<= {TARGET} of a plain paste, kept pixels exact",
        "holds": ratio <= TARGET and outside == 0,
        "unit": "CIEDE2000 of seam",
        "raw": {
            "pairs": len(found),
            "steps": STEPS,
            "revision": model.version["revision"],
            "seam": seams,
            "across": {way: _mean(one[way].across for one in found.values()) for way in seams},
            "most_levels_off_outside": {"stock, which pastes nothing": stock, "ours": outside},
            "known_shift": {name: _mean(one[name] for one in shifted) for name in shifted[0]}
            | {"pairs nearer to the truth": sum(one["ours_psnr"] > one["plain_psnr"] for one in shifted)},
            "each": {name: {way: round(one.seam, 2) for way, one in ways.items()} for name, ways in found.items()},
        },
    }


def _fill(model: FluxFillModel, pair: Pair, seed: int) -> _Filled:
    canvas = draw_canvas(pair.photo, pair.mask, None)
    work = Work(
        image=canvas.image,
        mask=canvas.mask,
        width=canvas.width,
        height=canvas.height,
        prompt=pair.prompt,
        steps=STEPS,
        guidance=GUIDANCE,
        seeds=(seed,),
    )
    return _Filled(pair, canvas, model.fill(work, lambda _: None)[0])


def _most_outside(filled: _Filled, picture: Image.Image) -> int:
    apart = ImageChops.difference(picture, filled.canvas.original)
    kept = np.asarray(filled.canvas.blend) == 0
    return int(np.asarray(apart)[kept].max())


def _with_known_shift(filled: _Filled) -> dict[str, float]:
    """Return seam, and PSNR to the photograph inside the mask, where the "model" drew just that, in other colours.

    They are off as a decoder's are: a lighter tone, a green cast, and a slope from side to side.
    """
    values = np.asarray(filled.canvas.image).astype(np.float64)
    values = 255 * (values / 255) ** 0.95 + (0, 6, 0) + np.linspace(-4, 4, values.shape[1])[None, :, None]
    made = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    ways = _Filled(filled.pair, filled.canvas, made).pasted()
    truth, where = np.asarray(ways["untouched"]).astype(np.float64), filled.where
    figures: dict[str, float] = {}
    for way in ("plain", "ours"):
        error = float(((np.asarray(ways[way]) - truth)[where] ** 2).mean())
        figures[f"{way}_psnr"] = float(10 * np.log10(255**2 / error)) if error else 99.0
        figures[f"{way}_seam"] = edge_difference(ways[way], where).seam
    return figures


def _mean(values: Iterator[float]) -> float:
    return statistics.fmean(values)
