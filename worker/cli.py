"""`fillfleet worker`. (`fillfleet lora` is in lora_cli.py.)"""

from __future__ import annotations

import os
import sys

import click

from common.errors import Rejected
from common.settings import get_settings
from worker.exit_code import ExitCode
from worker.fleet.gpu_wish import GpuWish, GpuWishType
from worker.fleet.lifeline import drain_when_cut


@click.command()
@click.option(
    "--gpus",
    type=GpuWishType(),
    metavar="all|N|LIST",
    help="Run one worker process on each GPU of this host (all), on so many (2), or on these (0,2,3; numbers or UUIDs "
    "as `nvidia-smi -L` shows them, MIG devices as 0:1), and start again what ends by itself. CUDA_VISIBLE_DEVICES "
    "narrows the choice.",
)
def worker(gpus: GpuWish | None) -> None:
    """Take jobs and fill them, on one GPU (or CPU), until SIGTERM; all else is set by the environment.

    Exit codes: 0 told to stop, and drained; 1 an error that may pass; 2 wrong settings or usage; 70 the GPU is wedged
    or broken, start again; 78 cannot start before somebody has done what the log says.
    """
    # Before torch is loaded: OpenMP's threads otherwise spin while they wait for one another, and on a CPU that is
    # shared with anything else a fill then takes 20 times as long (two workers on two cores: 38 to 55 s, not 2 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    drain_when_cut()
    settings = get_settings()
    try:
        if gpus is not None:
            from worker.fleet.supervisor import run_fleet

            sys.exit(run_fleet(settings, gpus))
        from worker.app import run_worker  # Celery and the model's libraries: not for `worker --help`

        sys.exit(run_worker(settings))
    except Rejected as error:
        click.echo(f"fillfleet: {error.message}", err=True)
        sys.exit(ExitCode.CANNOT_START)
