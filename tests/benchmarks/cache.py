"""Row `cache`: with steps cached, is a job after a crashed one, or among others, what a fresh pipeline makes of it?

Ours is the worker's model under FILL_PROFILE=fast; the peer is diffusers' own FirstBlockCache around the stock
pipeline. Each is compared with itself, loaded anew for the job alone, bit for bit; how far caching is from exact is
another question (docs/quality.md). A side that skips no step proves nothing, and then the row does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
import torch
from diffusers import FirstBlockCacheConfig, FluxFillPipeline
from PIL import Image, ImageDraw

from infra.demo_model.files import FOLDER
from infra.embedded.servers import EmbeddedServers
from tests.support.accelerated import fail_at
from tests.support.fills import FillSettings
from worker.model import FluxFillModel, load_model
from worker.work import Work

THRESHOLD: Final = 0.15
"""Of both sides: the first blocks' change below which the rest of a step is skipped. In pictures as small as these it
has to be twice the default for as much to be skipped as there is in large ones."""
_SIDES: Final = (128, 128, 96, 128, 160, 128)
_STEPS: Final = (20, 20, 16, 14, 20, 20)
_WORDS: Final = ("a red circle", "a blue square", "", "a green star", "a yellow triangle", "a white heart")
_CRASHES: Final = (1, 9, 4, 7, 12, 16)
"""The step after which the job before each is made to crash."""


class _Crash(Exception):
    """What goes wrong in the middle of a job: a bug, a cancel, memory."""


class _Side(Protocol):
    def fill(self, work: Work, crash_after: int | None = None) -> Image.Image | None:
        """Return the image; None where the job before left something that makes this one fail."""

    @property
    def whole_steps(self) -> int:
        """How many steps were computed to their end since it was loaded."""


class _Ours:
    def __init__(self) -> None:
        self._model: FluxFillModel = load_model(
            FillSettings.model_validate({"fill_profile": "fast", "fill_step_cache_threshold": THRESHOLD})
        )
        self._steps = _LastBlock(self._model._pipe.transformer)

    @property
    def whole_steps(self) -> int:
        return self._steps.calls

    def fill(self, work: Work, crash_after: int | None = None) -> Image.Image | None:
        return self._model.fill(work, fail_at(crash_after, _Crash()))[0]


class _Native:
    """diffusers' cache as its documentation has it, and the context that FluxFillPipeline does not enter by itself."""

    def __init__(self, *, cached: bool = True) -> None:
        self._pipe = FluxFillPipeline.from_pretrained(FOLDER, dtype=torch.float32)
        self._pipe.set_progress_bar_config(disable=True)
        transformer = self._pipe.transformer
        self._steps = _LastBlock(transformer)
        if cached:
            transformer.enable_cache(FirstBlockCacheConfig(threshold=THRESHOLD))
            forward = transformer.forward

            def in_context(*arguments: Any, **named: Any) -> Any:
                with transformer.cache_context("cond"):
                    return forward(*arguments, **named)

            transformer.forward = in_context

    @property
    def whole_steps(self) -> int:
        return self._steps.calls

    def fill(self, work: Work, crash_after: int | None = None) -> Image.Image | None:
        def step_end(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if step + 1 == crash_after:
                raise _Crash
            return tensors

        try:
            return self.together([work], callback_on_step_end=step_end)[0]
        except _Crash:
            raise
        except Exception:  # noqa: BLE001 - shapes of another job's leftovers: a job lost, which is what is counted
            return None

    def together(self, works: Sequence[Work], **more: Any) -> list[Image.Image]:
        made: list[Image.Image] = self._pipe(
            prompt=[work.prompt for work in works],
            image=[work.image for work in works],
            mask_image=[work.mask for work in works],
            width=works[0].width,
            height=works[0].height,
            guidance_scale=works[0].guidance,
            num_inference_steps=works[0].steps,
            max_sequence_length=min(512, self._pipe.tokenizer_2.model_max_length),
            generator=[torch.Generator("cpu").manual_seed(work.seeds[0]) for work in works],
            **more,
        ).images
        return made


class _LastBlock:
    """Counts how often a transformer's last block computes: in a step that is taken over in part it does not."""

    def __init__(self, transformer: Any) -> None:
        self.calls = 0
        # A part of it, since diffusers' cache calls the block in any case, and skips what is in it.
        transformer.single_transformer_blocks[-1].proj_out.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1


@dataclass(frozen=True)
class _Counts:
    """Of each kind of job, how many equalled the fresh one; and how much of the fresh ones' steps was computed."""

    after_crash: int
    among_others: int
    whole_steps: int

    @property
    def share(self) -> float:
        return (self.after_crash + self.among_others) / (2 * len(_SIDES))


def measure(_servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: the share of jobs that are bit-identical to fresh ones."""
    works = list(_works())
    counts = {"ours": _count(_Ours, works), "peer": _count(_Native, works)}
    steps = sum(work.steps for work in works)
    skipping = all(one.whole_steps < steps for one in counts.values())
    return {
        "ours": counts["ours"].share,
        "peer": counts["peer"].share,
        "ratio": counts["ours"].share,
        "target": "1.00: every one bit-identical",
        "holds": counts["ours"].share == 1.0 and skipping,
        "unit": "of jobs identical",
        "raw": {
            "threshold": THRESHOLD,
            "jobs_of_each_kind": len(works),
            "steps_of_fresh_jobs": steps,
            **{
                who: {
                    "identical_after_a_crash": one.after_crash,
                    "identical_among_others": one.among_others,
                    "whole_steps_of_fresh_jobs": one.whole_steps,
                }
                for who, one in counts.items()
            },
            "peer_in_a_batch_of_two_psnr_to_alone": _batched(works),
        },
    }


def _count(load: Callable[[], _Side], works: Sequence[Work]) -> _Counts:
    fresh, whole_steps = [], 0
    for work in works:
        side = load()
        fresh.append(side.fill(work))
        whole_steps += side.whole_steps
    side = load()
    after_crash = 0
    for number, work in enumerate(works):
        with suppress(_Crash):
            side.fill(works[number - 1], crash_after=_CRASHES[number])
        after_crash += _same(side.fill(work), fresh[number])
    side = load()
    in_turn = [(number * 5 + 2) % len(works) for number in range(len(works))]  # each between two others
    among_others = sum(_same(side.fill(works[number]), fresh[number]) for number in in_turn)
    return _Counts(after_crash, among_others, whole_steps)


def _batched(works: Sequence[Work]) -> dict[str, float]:
    """Return how near the peer comes to its own solo images in a batch of two, with its cache and without.

    Such a batch is never bit-identical, only nearly so; what a cache adds is that neighbours decide about each other.
    """
    pairs = [pair for pair in pairwise(works) if len({(work.width, work.steps) for work in pair}) == 1]
    nearness: dict[str, float] = {}
    for name, cached in (("with the cache", True), ("without", False)):
        side = _Native(cached=cached)
        lowest = 99.0
        for pair in pairs:
            alone = [side.together([work])[0] for work in pair]
            both = side.together(pair)
            lowest = min(lowest, *(_psnr(one, other) for one, other in zip(both, alone, strict=True)))
        nearness[name] = round(lowest, 1)
    return nearness


def _same(one: Image.Image | None, other: Image.Image | None) -> bool:
    return one is not None and other is not None and one.tobytes() == other.tobytes()


def _psnr(one: Image.Image, other: Image.Image) -> float:
    apart = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(10 * np.log10(255**2 / max(float((apart**2).mean()), 1e-5)))


def _works() -> Iterator[Work]:
    """Yield jobs of several sizes, step counts, prompts and masks; all differ, and none is drawn to be easy to tell."""
    base = np.random.default_rng(5).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    for number, (side, steps, prompt) in enumerate(zip(_SIDES, _STEPS, _WORDS, strict=True)):
        picture = Image.fromarray(np.roll(base, number, axis=(0, 1))).resize((side, side), Image.Resampling.BICUBIC)
        mask = Image.new("L", (side, side))
        left = side // 8 * (1 + number % 3)
        ImageDraw.Draw(mask).ellipse((left, side // 6, left + side // 2, side * 3 // 4), fill=255)
        yield Work(picture, mask, side, side, prompt, steps, 30.0, (number + 11,))
