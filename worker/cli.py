"""`fillfleet worker`. (`fillfleet lora` is in lora_cli.py.)"""

from __future__ import annotations

import os
import sys

import click

from common.settings import get_settings


@click.command()
def worker() -> None:
    """Take jobs and fill them, on one GPU (or CPU), until SIGTERM; all else is set by the environment."""
    # Before torch is loaded: OpenMP's threads otherwise spin while they wait for one another, and on a CPU that is
    # shared with anything else a fill then takes 20 times as long (two workers on two cores: 38 to 55 s, not 2 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from worker.app import run_worker  # Celery and the model's libraries: not for `worker --help`

    sys.exit(run_worker(get_settings()))
