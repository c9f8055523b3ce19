"""Row `occupancy`: how much of the device's own pace is left once jobs have to be fetched and uploaded around it.

Dispatcher, worker and all servers are real; only the device sleeps. Each job fetches a photograph and a mask and
uploads a picture, which takes 60% of the device's time, jittered, beside the CPU work of decoding, canvas, seam,
paste-back, safety check and encoding. What is measured is the steady state: from the start of one run of the device to
the start of a later one, over all runs between, with the first and the last jobs left out.
"""

from __future__ import annotations

import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw
from pydantic import SecretStr

from common.database import make_engine
from common.settings import Environment, Settings
from infra.embedded.servers import EmbeddedServers
from migrations.run import upgrade
from tests.benchmarks.naive import Interval, SleepingDevice, Task
from tests.benchmarks.naive_process import run_naive_process
from tests.benchmarks.seam_pairs import photographs
from tests.benchmarks.slow_network import SlowNetwork, slow_network
from tests.benchmarks.watched_model import WATCHED, watched_intervals
from tests.support.bulk import running_bulk
from tests.support.databases import fresh_database
from tests.support.fleet import running_fleet

DEVICE_SECONDS: Final = 0.5
"""Of a job: a sixth of FLUX.1's on a good GPU, so a job's CPU work weighs six times as much here as there."""
STEPS: Final = 28
STEP_SECONDS: Final = DEVICE_SECONDS / STEPS
IO_SHARE: Final = 0.6
REQUESTS: Final = 3
"""Image, mask, output: each waits for the network once."""
SIDE: Final = 1024
SLOTS: Final = 4
JOBS: Final = 72
PEER_JOBS: Final = {"one at a time": 24, "threads + a lock": 40}
TARGET: Final = 0.97


def measure(servers: EmbeddedServers) -> dict[str, Any]:
    """Return the row: the pace of the device in the whole system as a part of its pace alone."""
    alone = _alone_seconds()
    with (
        tempfile.TemporaryDirectory(prefix="fillfleet-bench-") as name,
        fresh_database(servers) as url,
        slow_network(_files(), servers.s3_endpoint) as network,
    ):
        upgrade(url)
        folder, settings = Path(name), _settings(servers, url, network)
        mean = IO_SHARE * DEVICE_SECONDS / REQUESTS
        found: dict[str, list[Interval]] = {}
        io_seconds: dict[str, float] = {}
        for way, jobs in {**PEER_JOBS, "ours": JOBS}.items():
            delays = network.restart(mean)
            if way == "ours":
                found[way] = _ours(servers, settings, network, folder)
            else:
                threads = SLOTS if way.startswith("threads") else 1
                tasks = [_task(network, number) for number in range(jobs)]
                found[way] = run_naive_process(settings, folder, tasks, threads=threads, step_seconds=STEP_SECONDS)
            io_seconds[way] = statistics.mean(delays.drawn) * REQUESTS
    shares = {way: alone / _pace(held) for way, held in found.items()}
    return {
        "ours": shares["ours"],
        "peer": shares["threads + a lock"],
        "ratio": shares["ours"] / shares["threads + a lock"],
        "target": f">= {TARGET} of the device alone",
        "holds": shares["ours"] >= TARGET,
        "unit": "of the device alone",
        "raw": {
            "device_seconds_a_job_alone": alone,
            "io_seconds_a_job_drawn": io_seconds,
            "slots": SLOTS,
            "side": SIDE,
            "shares": shares,
            "seconds_from_start_to_start": {way: _pace(held) for way, held in found.items()},
            "seconds_on_the_device": {way: statistics.mean(b - a for a, b in held) for way, held in found.items()},
            "median_gap_seconds": {way: _gap(held) for way, held in found.items()},
            "thirds_of_ours": [alone / _pace(part, ends=0) for part in _thirds(found["ours"])],
        },
    }


def _alone_seconds() -> float:
    """Return the seconds of a job on the device where nothing else happens."""
    device, image = SleepingDevice(STEP_SECONDS), Image.new("RGB", (SIDE, SIDE))
    task = Task("", "", "", SIDE, SIDE, STEPS, 1, 1)
    device.compute(task, image, image)
    began = time.monotonic()
    for _ in range(4):
        device.compute(task, image, image)
    return (time.monotonic() - began) / 4


def _pace(held: Sequence[Interval], ends: int = 2 * SLOTS) -> float:
    """Return the seconds from start to start, with the runs at both ends left out: lines fill there, and run dry."""
    starts = [began for began, _ in held][ends : len(held) - ends]
    return (starts[-1] - starts[0]) / (len(starts) - 1)


def _gap(held: Sequence[Interval]) -> float:
    """Return the seconds between two runs, in the median: while others wait, what it takes to choose and begin."""
    return statistics.median(after[0] - before[1] for before, after in itertools.pairwise(held))


def _thirds(held: Sequence[Interval]) -> list[Sequence[Interval]]:
    steady = held[2 * SLOTS : -2 * SLOTS]
    size = len(steady) // 3
    return [steady[number * size : (number + 1) * size] for number in range(3)]


def _ours(servers: EmbeddedServers, settings: Settings, network: SlowNetwork, folder: Path) -> list[Interval]:
    engine, watched = make_engine(settings), folder / "watched"
    with (
        running_fleet(servers.guardian, settings, engine, folder) as fleet,
        running_bulk(fleet, folder) as bulk,
    ):
        fleet.start("dispatcher")
        worker = fleet.start(
            "worker", TEST_MODEL_CLASS=WATCHED, SLEEP_STEP_SECONDS=str(STEP_SECONDS), WATCHED_FILE=str(watched)
        )
        fleet.until(lambda: fleet.has_been_ready(worker), "the worker is ready", process=worker)
        batch = bulk.submit(
            "occupancy",
            JOBS,
            lambda number: {"image": network.host.url(_image(number)), "mask_image": network.host.url(_mask(number))},
            size=f"{SIDE}*{SIDE}",
            num_inference_steps=STEPS,
            enable_safety_checker=True,
        )
        fleet.until(lambda: bulk.completed(batch) == JOBS, "all jobs are completed", seconds=300.0, process=worker)
    engine.dispose()
    return watched_intervals(watched)


def _settings(servers: EmbeddedServers, url: str, network: SlowNetwork) -> Settings:
    values: dict[str, object] = {name.lower(): value for name, value in servers.environment().items()}
    values |= {
        "fillfleet_env": Environment.TEST,  # for the sleeping device alone; every time is as shipped
        "database_url": SecretStr(url),
        "s3_endpoint": network.way.endpoint,
        "s3_public_endpoint": None,
        "fetch_allow_hosts": (network.host.host,),
        "worker_slots": SLOTS,
    }
    return Settings.model_validate(values)


def _task(network: SlowNetwork, number: int) -> Task:
    image, mask = network.host.url(_image(number)), network.host.url(_mask(number))
    return Task(image, mask, "", SIDE, SIDE, STEPS, 1, number)


def _image(number: int) -> str:
    return f"/image-{number % 6}.png"


def _mask(number: int) -> str:
    return f"/mask-{number % 6}.png"


def _files() -> Mapping[str, bytes]:
    """Return photographs, and masks of 4% to 36%."""
    files: dict[str, bytes] = {}
    for number, (_, photo) in enumerate(photographs()):
        mask = Image.new("L", (SIDE, SIDE))
        reach = (0.1 + 0.04 * number) * SIDE
        middle = SIDE / 2
        ImageDraw.Draw(mask).rectangle((middle - reach, middle - reach, middle + reach, middle + reach), fill=255)
        files[_image(number)] = _png(photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        files[_mask(number)] = _png(mask)
    return files


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "png")
    return data.getvalue()
