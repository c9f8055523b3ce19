"""`fillfleet worker`. (`fillfleet lora` is in lora_cli.py.)"""

from __future__ import annotations

import sys

import click

from common.settings import get_settings


@click.command()
def worker() -> None:
    """Take jobs and fill them, on one GPU (or CPU), until SIGTERM; all else is set by the environment."""
    from worker.app import run_worker  # Celery and the model's libraries: not for `worker --help`

    sys.exit(run_worker(get_settings()))
