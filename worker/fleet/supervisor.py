"""`fillfleet worker --gpus …`: one worker process on each GPU of a host, and one process that looks after them.

It starts them, starts again what ends by itself, passes every signal on as a wish to drain, and ends when the last of
them has. It takes no job itself, and must never import torch: its memory is the workers'.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import Final

from common.errors import Rejected
from common.settings import Settings
from common.telemetry import configure_logging, get_logger
from worker.exit_code import ExitCode
from worker.fleet.gpu_wish import TO_THE_CPU, GpuWish, choose_gpus
from worker.fleet.gpus import Gpu, list_gpus, visible_gpus
from worker.fleet.health import serve_fleet_health
from worker.fleet.member import Member, Stage
from worker.host import threads_for_each

log = get_logger(__name__)

_LOOK_SECONDS: Final = 0.2
_AFTER_DRAIN_SECONDS: Final = 30.0
"""What a worker needs beyond DRAIN_SECONDS to give its jobs back; see Settings.drain_seconds."""
_LAST_PORT: Final = 65535
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def run_fleet(settings: Settings, wish: GpuWish) -> int:
    """Run a worker on each GPU that `wish` means until all have ended; returns the exit code.

    Raises Rejected (no_driver, driver_broken, no_gpu, no_such_gpu, gpus_and_device, no_ports) where there is nothing to
    start, and ModuleNotFoundError where no worker could start: torch is not installed.
    """
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    settings.secret("s3_secret_key")
    gpus = _choose(settings, wish)
    configure_logging(settings, "fleet")
    held, lifeline = os.pipe()  # see worker/fleet/lifeline.py
    members = [Member(gpu, _share(settings, number, len(gpus)), lifeline=held) for number, gpu in enumerate(gpus)]
    log.info("fleet.starting", gpus=[gpu.title for gpu in gpus])
    port = settings.worker_health_port
    health = serve_fleet_health(members, port) if port is not None else None
    try:
        return Fleet(members, patience_seconds=settings.drain_seconds + _AFTER_DRAIN_SECONDS).run()
    finally:
        os.close(lifeline)
        os.close(held)
        if health is not None:
            health.shutdown()
            health.server_close()


class Fleet:
    """The workers of a host, until the last has ended."""

    def __init__(self, members: Sequence[Member], *, patience_seconds: float) -> None:
        """`patience_seconds` is how long a drain may take; who has not ended by then is killed."""
        self._members = members
        self._patience_seconds = patience_seconds
        self._asked: signal.Signals | None = None
        self._killed = False

    def run(self) -> int:
        """Return an ExitCode once none runs any more and none is to be started again."""
        with self._signals():
            while self._asked is None and not all(member.is_over for member in self._members):
                for member in self._members:
                    member.look()
                time.sleep(_LOOK_SECONDS)
            self._drain()
        return self._exit_code()

    def _drain(self) -> None:
        if self._asked is not None:
            log.info("fleet.draining", signal=self._asked.name)
        for member in self._members:
            member.ask_to_drain()
        deadline = time.monotonic() + self._patience_seconds
        while running := [member for member in self._members if member.stage is Stage.RUNNING]:
            for member in running:
                if time.monotonic() > deadline:
                    member.kill()
                    self._killed = True
                member.look_after_drain()
            time.sleep(_LOOK_SECONDS)

    def _exit_code(self) -> int:
        given_up = [member for member in self._members if member.stage is Stage.GIVEN_UP]
        if given_up:
            log.critical(
                "fleet.incomplete",
                gpus=[member.gpu.title for member in given_up],
                todo="do what the logs of their workers say (worker.cannot_start), then start again",
            )
            return given_up[0].last_code or ExitCode.FAILED
        log.info("fleet.stopped")
        return ExitCode.FAILED if self._killed else ExitCode.DRAINED

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Take every signal, however often it comes, as one wish to drain; nohup's SIGHUP stays ignored."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._asked = signal.Signals(number)  # and nothing else: a lock might be held where it interrupts


def _choose(settings: Settings, wish: GpuWish) -> list[Gpu]:
    if settings.fill_device not in {"auto", "cuda"}:
        raise Rejected(
            "gpus_and_device",
            f"--gpus {wish.text} gives each worker a GPU of its own, and FILL_DEVICE={settings.fill_device} asks for "
            f"another device: leave FILL_DEVICE out, or {TO_THE_CPU}",
        )
    try:
        here = list_gpus()
    except Rejected as error:
        raise Rejected(error.code, f"--gpus {wish.text}: {error.message}; or {TO_THE_CPU}") from error
    gpus = choose_gpus(wish, visible_gpus(here, os.environ.get("CUDA_VISIBLE_DEVICES")))
    port = settings.worker_health_port
    if port is not None and port + len(gpus) > _LAST_PORT:
        raise Rejected(
            "no_ports",
            f"WORKER_HEALTH_PORT={port}: the workers of {len(gpus)} GPUs take the ports after it, so it must be "
            f"{_LAST_PORT - len(gpus)} at most",
        )
    return gpus


def _share(settings: Settings, number: int, workers: int) -> dict[str, str]:
    """Return what the worker with this number, of so many, gets of the host beside its GPU."""
    share = {}
    if settings.worker_threads is None and "OMP_NUM_THREADS" not in os.environ:
        # All the same number: it is part of the model version, and a host's workers shall share one.
        share["WORKER_THREADS"] = str(threads_for_each(workers))
    if settings.worker_health_port is not None:
        share["WORKER_HEALTH_PORT"] = str(settings.worker_health_port + 1 + number)
    return share
