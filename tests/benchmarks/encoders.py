"""Row `encoders`: how often the text encoders and the VAE's encoder run for 1,000 jobs of 20 prompts, beside stock's.

Both run the bundled model on the same jobs, of one step, and every image must be stock's, bit for bit. What is counted
are calls of the encoders themselves, so it does not matter how small the model is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from diffusers import FluxFillPipeline
from PIL import Image, ImageDraw

from infra.demo_model.files import FOLDER
from infra.embedded.servers import EmbeddedServers
from tests.support.fills import FillSettings, fill_stock
from worker.model import load_model
from worker.work import Work

JOBS: Final = 1000
PROMPTS: Final = 20
SIDE: Final = 64
TEXT_TARGET: Final = PROMPTS
VAE_TARGET: Final = JOBS


def measure(_servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: encodes of text and VAE together, per JOBS jobs."""
    ours, stock = load_model(FillSettings()), _stock()
    counts = {"ours": _counted(ours._pipe), "peer": _counted(stock)}
    equal = 0
    for work in _works():
        made = ours.fill(work, lambda _: None)[0]
        equal += made.tobytes() == fill_stock(stock, work, work.seeds[0]).tobytes()
    text = {who: count["text_encoder_2"] for who, count in counts.items()}
    vae = {who: count["vae"] for who, count in counts.items()}
    return {
        "ours": text["ours"] + vae["ours"],
        "peer": text["peer"] + vae["peer"],
        "ratio": (text["ours"] + vae["ours"]) / (text["peer"] + vae["peer"]),
        "target": f"{TEXT_TARGET} text + {VAE_TARGET} VAE, outputs as stock's",
        "holds": text["ours"] == TEXT_TARGET and vae["ours"] == VAE_TARGET and equal == JOBS,
        "unit": "encodes",
        "raw": {
            "jobs": JOBS,
            "prompts": PROMPTS,
            "each": {who: dict(count) for who, count in counts.items()},
            "outputs_equal_to_stock": equal,
        },
    }


def _stock() -> Any:
    pipe = FluxFillPipeline.from_pretrained(FOLDER, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _counted(pipe: Any) -> Counter[str]:
    count: Counter[str] = Counter()
    for name, module in {
        "text_encoder": pipe.text_encoder,
        "text_encoder_2": pipe.text_encoder_2,
        "vae": pipe.vae.encoder,
    }.items():
        module.register_forward_hook(lambda *_, name=name: count.update([name]))
    return count


def _works() -> Iterator[Work]:
    """Yield jobs that differ in picture, mask and seed; their prompts come again and again, and never in a row."""
    for number in range(JOBS):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        mask = Image.new("L", (SIDE, SIDE))
        left, top = number % 24, number // 24 % 24
        ImageDraw.Draw(mask).rectangle((left, top, left + 20 + number % 17, top + 30), fill=255)
        yield Work(
            image=image,
            mask=mask,
            width=SIDE,
            height=SIDE,
            prompt=f"the thing with number {number * 7 % PROMPTS}",
            steps=1,
            guidance=30.0,
            seeds=(number,),
        )
