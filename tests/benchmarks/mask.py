"""Row `mask`: how many times fewer operations region auto takes than the full canvas, over masks of at most a tenth.

Each mask goes the worker's own way, through canvas and areas; what the areas take is counted on the real FLUX.1 Fill's
configuration. The peer is the full canvas, as stock diffusers makes it.
"""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any, Final

import numpy as np
from PIL import Image

from infra.embedded.servers import EmbeddedServers
from tests.benchmarks.flux_flops import Flops, fill_flops
from tests.benchmarks.mask_set import SIDE, Mask, masks
from worker.canvas import draw_canvas
from worker.region.areas import areas_of

STEPS: Final = 28
TARGET: Final = 3.0
_TERA: Final = 1e12


def measure(_servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: the geometric means over all masks, in TFLOP of a picture."""
    full = fill_flops(SIDE, SIDE, STEPS)
    each: dict[str, dict[str, Any]] = {}
    totals: list[int] = []
    for name, mask in masks():
        taken, sizes = _auto(mask)
        totals.append(taken.total)
        each[name] = {
            "filled": round(float(mask.mean()), 4),
            "areas": sizes,
            "ratio": round(full.total / taken.total, 3),
            "ratio_of_steps": round(full.steps / taken.steps, 3),
            "ratio_of_vae": round(full.vae / taken.vae, 3),
        }
    all_masked, _ = _auto(np.ones((SIDE, SIDE), dtype=np.bool_))
    ours, peer = geometric_mean(totals) / _TERA, full.total / _TERA
    return {
        "ours": ours,
        "peer": peer,
        "ratio": peer / ours,
        "target": f">= {TARGET:g}, and 1.00 of a full mask",
        "holds": peer / ours >= TARGET and all_masked == full,
        "unit": "TFLOP",
        "raw": {
            "masks": len(each),
            "steps": STEPS,
            "full_canvas_tflop": {"steps": full.steps / _TERA, "vae": full.vae / _TERA},
            "full_mask_ratio": full.total / all_masked.total,
            "kinds": _of_kinds(each),
            "each": each,
        },
    }


def _auto(mask: Mask) -> tuple[Flops, list[list[int]]]:
    """Return what region auto takes for a picture with this mask, and the sizes of its areas."""
    picture = Image.new("RGB", (SIDE, SIDE))
    canvas = draw_canvas(picture, Image.fromarray(mask.astype(np.uint8) * np.uint8(255)), None)
    sizes = [[part.width, part.height] for part in areas_of(canvas, "auto").parts]
    counted = [fill_flops(width, height, STEPS) for width, height in sizes]
    return Flops(sum(one.steps for one in counted), sum(one.vae for one in counted)), sizes


def _of_kinds(each: dict[str, dict[str, Any]]) -> dict[str, float]:
    kinds: dict[str, list[float]] = {}
    for name, one in each.items():
        kinds.setdefault(name.rpartition(" ")[0], []).append(one["ratio"])
    return {kind: round(geometric_mean(ratios), 2) for kind, ratios in kinds.items()}
