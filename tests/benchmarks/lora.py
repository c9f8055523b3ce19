"""Row `lora`: the same jobs with eight LoRAs in turns, beside one LoRA for all, through the worker's own device.

The peer is a program around stock diffusers that loads a job's LoRA before it and takes it out after it; the time that
this costs is compared with the same program keeping one LoRA. Stock's images are what every image of ours must equal.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from diffusers import FluxFillPipeline
from PIL import Image, ImageDraw

from common.ids import new_id
from infra.demo_model.files import FOLDER
from infra.demo_model.lora_formats import save_diffusers
from infra.embedded.servers import EmbeddedServers
from tests.support.fills import FillSettings, fill_stock
from worker.device import Device
from worker.lease import Lease
from worker.loras.base_shapes import BaseShapes
from worker.model import FluxFillModel, load_model
from worker.work import Adapter, Work

LORAS: Final = 8
RANK: Final = 16
SIDE: Final = 192
STEPS: Final = 28
"""As many as a job has that asks for none: with fewer, a load would weigh more than it does."""
ROUNDS: Final = 6
PEER_ROUNDS: Final = 2
STUDENT: Final = 2.015
"""The 95% quantile of Student's distribution for six rounds: one in twenty is above it by chance."""
SCALE: Final = 0.8
TARGET: Final = 1.10
_SECONDS: Final = 300.0
"""A limit for what hangs."""


def measure(_servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: the time of jobs with eight LoRAs in turns ÷ with one, ours and the peer's."""
    with TemporaryDirectory(prefix="fillfleet-bench-") as folder, _one_thread():
        adapters = _write_loras(Path(folder))
        mixed, single = _works(adapters), _works(adapters[:1] * LORAS)
        reloading, keeping, theirs = _Stock(), _Stock(), _Pairs()
        alone = {True: reloading.reload(mixed), False: keeping.keep(single)}
        for number in range(PEER_ROUNDS):
            theirs.add(number, lambda half: reloading.reload(mixed[half]), lambda half: keeping.keep(single[half]))
        with _worker() as (device, model):
            loads, ours = _loads(model), _Pairs()
            first_seconds, made = _timed(lambda: _fill_all(device, mixed))
            at_first = loads["loads"]
            equal = [made == alone[True], _fill_all(device, single) == alone[False]]
            for number in range(ROUNDS):
                both = ours.add(
                    number,
                    lambda half: _fill_all(device, mixed[half]),
                    lambda half: _fill_all(device, single[half]),
                )
                equal += [both[0] == alone[True], both[1] == alone[False]]
    return _row(ours, theirs, first_seconds, equal, at_first, loads["loads"])


def _row(
    ours: _Pairs, theirs: _Pairs, first_seconds: float, equal: Sequence[bool], at_first: int, loads: int
) -> dict[str, Any]:
    return {
        "ours": ours.upper_bound,
        "peer": theirs.median,
        "ratio": ours.upper_bound,
        "target": f"<= {TARGET:.2f}, loads at first use only, outputs as solo",
        "holds": ours.upper_bound <= TARGET and at_first == loads == LORAS and all(equal),
        "unit": "x one LoRA's time",
        "raw": {
            "loras": LORAS,
            "rank": RANK,
            "side": SIDE,
            "steps": STEPS,
            "jobs_a_round": LORAS,
            "rounds": ROUNDS,
            "ours": ours.figures()
            | {"upper_bound_95": ours.upper_bound, "seconds_a_job_with_its_load": first_seconds / LORAS},
            "peer": theirs.figures(),
            "loads": {"in the first round": at_first, "in all others": loads - at_first},
            "loads_a_job": {"ours": loads / (LORAS * (2 * ROUNDS + 2)), "peer": 1.0},
            "rounds_equal_to_stock_alone": f"{sum(equal)} of {len(equal)}",
        },
    }


class _Pairs:
    """Times of the same jobs with LoRAs in turns and with one: a pair a round."""

    def __init__(self) -> None:
        self._mixed: list[float] = []
        self._single: list[float] = []

    def add(self, number: int, mixed: _Way, single: _Way) -> tuple[list[bytes], list[bytes]]:
        """Time one round, and return the images of both ways.

        Half of the jobs one way, all of them the other, then the rest: whatever slows the machine for some seconds
        meets both. The ways take turns at being first.
        """
        times = {True: 0.0, False: 0.0}
        made: dict[bool, list[bytes]] = {True: [], False: []}
        order = ((True, 0), (False, 0), (False, 1), (True, 1))
        for is_mixed, part in order if number % 2 == 0 else ((not one, part) for one, part in order):
            half = slice(part * LORAS // 2, (part + 1) * LORAS // 2)
            seconds, images = _timed(partial(mixed if is_mixed else single, half))
            times[is_mixed] += seconds
            made[is_mixed] += images
        self._mixed.append(times[True])
        self._single.append(times[False])
        return made[True], made[False]

    @property
    def logs(self) -> list[float]:
        """The logarithms of the ratios: of these a mean makes sense."""
        return [math.log(mixed / single) for mixed, single in zip(self._mixed, self._single, strict=True)]

    @property
    def median(self) -> float:
        """The ratio in the middle."""
        return math.exp(statistics.median(self.logs))

    @property
    def upper_bound(self) -> float:
        """What the true ratio is below, with 95% confidence, where there were ROUNDS."""
        spread = statistics.stdev(self.logs) / math.sqrt(len(self.logs))
        return math.exp(statistics.fmean(self.logs) + STUDENT * spread)

    def figures(self) -> dict[str, Any]:
        """Return all that was measured, in seconds a job."""
        return {
            "median_ratio": self.median,
            "mixed_seconds_a_job": [one / LORAS for one in self._mixed],
            "single_seconds_a_job": [one / LORAS for one in self._single],
        }


_Way = Callable[[slice], list[bytes]]
"""Makes the images of some of the jobs."""


class _Stock:
    """Stock diffusers, one job after the other. Both ways return the images' bytes."""

    def __init__(self) -> None:
        self._pipe: Any = FluxFillPipeline.from_pretrained(FOLDER, dtype=torch.float32)
        self._pipe.set_progress_bar_config(disable=True)
        self._kept: Adapter | None = None

    def reload(self, works: Sequence[Work]) -> list[bytes]:
        """Load each job's LoRA before it, and take it out after it."""
        made = []
        for work in works:
            self._load(*work.adapters)
            made.append(self._fill(work))
            self._pipe.unload_lora_weights()
        return made

    def keep(self, works: Sequence[Work]) -> list[bytes]:
        """Load the LoRA of all jobs before the very first of them."""
        if self._kept is None:
            (self._kept,) = works[0].adapters
            self._load(self._kept)
        return [self._fill(work) for work in works]

    def _load(self, adapter: Adapter) -> None:
        self._pipe.load_lora_weights(adapter.path, adapter_name="it")
        self._pipe.set_adapters(["it"], [adapter.scale])

    def _fill(self, work: Work) -> bytes:
        return fill_stock(self._pipe, work, work.seeds[0]).tobytes()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as the worker here does: the jobs' threads have the rest of the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _worker() -> Iterator[tuple[Device, FluxFillModel]]:
    """The device and the model of a worker, with its shipped settings but for the threads."""
    settings = FillSettings(worker_threads=1)
    device = Device(settings, on_broken=lambda: None)
    model = device.start(lambda: load_model(settings)).result(_SECONDS)
    assert isinstance(model, FluxFillModel)
    try:
        yield device, model
    finally:
        device.stop(_SECONDS)


def _fill_all(device: Device, works: Sequence[Work]) -> list[bytes]:
    """Return the images' bytes: each job on one of a worker's slots, as many at a time as it has by default."""

    def fill(work: Work) -> bytes:
        return device.submit(work, Lease(new_id(), 1, lambda: None)).result(_SECONDS).images[0].tobytes()

    with ThreadPoolExecutor(FillSettings().worker_slots) as slots:
        return list(slots.map(fill, works))


def _timed(run: Callable[[], list[bytes]]) -> tuple[float, list[bytes]]:
    began = time.perf_counter()
    made = run()
    return time.perf_counter() - began, made


def _loads(model: FluxFillModel) -> Counter[str]:
    """Count how often diffusers loads a LoRA into the model from now on."""
    count: Counter[str] = Counter()
    load = model._pipe.load_lora_weights

    def counted(*arguments: Any, **more: Any) -> None:
        count["loads"] += 1
        load(*arguments, **more)

    model._pipe.load_lora_weights = counted
    return count


def _write_loras(folder: Path) -> list[Adapter]:
    """Write LoRAs that change every linear layer of every block a little, each in its own way."""
    base = BaseShapes.of_folder(FOLDER)
    adapters = []
    for number in range(LORAS):
        generator = torch.Generator("cpu").manual_seed(number)
        tensors = {}
        for name, (outputs, inputs) in base.transformer.items():
            if "transformer_blocks" in name:
                down, up = (torch.randn(shape, generator=generator) for shape in ((RANK, inputs), (outputs, RANK)))
                tensors[f"transformer.{name}.lora_A.weight"] = down / math.sqrt(inputs)
                tensors[f"transformer.{name}.lora_B.weight"] = up * 0.02
        path = folder / f"style-{number}.safetensors"
        save_diffusers(tensors, path)
        data = path.read_bytes()
        adapters.append(Adapter(path.stem, hashlib.sha256(data).hexdigest(), path, len(data), SCALE))
    return adapters


def _works(adapters: Sequence[Adapter]) -> list[Work]:
    """Return one job for each adapter; jobs differ in mask and seed, and are otherwise the same for other adapters."""
    gradient = Image.radial_gradient("L").resize((SIDE, SIDE))
    image = Image.merge("RGB", (gradient, gradient.rotate(90), gradient.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
    works = []
    for number, adapter in enumerate(adapters):
        mask = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(mask).ellipse((32 + 8 * number, 48, 140 + 8 * number, 200), fill=255)
        works.append(
            Work(
                image=image,
                mask=mask,
                width=SIDE,
                height=SIDE,
                prompt="a red circle",
                steps=STEPS,
                guidance=30.0,
                seeds=(1000 + number,),
                adapters=(adapter,),
            )
        )
    return works
