"""Everything a worker process holds, from its start to its end: connections, device, leases, and the drain between.

The order matters: beat as `loading`, load the model, take jobs; then drain: what waits goes back, what runs ends.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import Final
from uuid import UUID

from sqlalchemy import text

from common.database import make_engine, transaction
from common.fetch import Fetcher
from common.ids import new_id
from common.objects import Objects
from common.owners import OwnerNames
from common.prompt_deny_file import PromptDenyFile
from common.settings import Settings
from common.telemetry import get_logger
from common.workers import WorkerBeat, WorkerState
from worker.batch_pins import BatchPins
from worker.device import Device
from worker.exit_code import ExitCode
from worker.fill import Workshop, fill_job
from worker.inputs import InputReader
from worker.lease import Heartbeat, Lease
from worker.loras.source import LoraSource
from worker.outage import Outage
from worker.safety import SafetyGate, make_checker
from worker.task import FillTask
from worker.work import FillModel

log = get_logger(__name__)

_LOOK_SECONDS: Final = 0.2
_LAST_WORDS_SECONDS: Final = 5.0
_GIVE_BACK_SECONDS: Final = 20.0
"""What a drain's end leaves for a last step, and for writing that the jobs are given back."""
_PROBE_KEY: Final = "outputs/outage-probe"
"""Where workers write anyway, since a store may well answer and yet take nothing."""


class Runtime:
    """One worker process. `start` blocks until jobs may come."""

    def __init__(self, settings: Settings, *, on_exit: Callable[[int], None] = lambda _: None) -> None:
        """`on_exit` is told the exit code where the device ends this process, so that no more messages are taken."""
        self.settings = settings
        self._on_exit = on_exit
        self.draining = threading.Event()
        self._exiting = threading.Event()
        self._engine = make_engine(settings, pool_size=settings.worker_slots + 1, application="fillfleet worker")
        self._beats = make_engine(settings, pool_size=1, application="fillfleet heartbeat")
        self._objects = Objects(settings)
        self._fetcher = Fetcher(settings)
        self._safety = make_checker(settings)
        self._deny = PromptDenyFile(settings.prompt_deny_file)
        host = socket.gethostname()
        self.worker_id = f"{host}-{os.getpid()}-{new_id().hex[-6:]}"  # a container's pid is 1 after each restart
        worker = WorkerBeat(self.worker_id, host, settings.worker_slots, WorkerState.LOADING, {})
        self.heartbeat = Heartbeat(self._beats, settings, worker, on_wedged=self._wedged)
        self._device = Device(settings, on_broken=self._broken)
        self._outage = Outage(self._probe, self.draining)
        self._task: FillTask | None = None
        self._timers: list[threading.Timer] = []

    def start(self) -> None:
        """Load the model and everything else; returns early where the worker is told to drain meanwhile.

        Raises what the loading raised, TimeoutError after MODEL_LOAD_SECONDS.
        """
        self.heartbeat.start()
        if self.draining.is_set():
            return
        began = time.monotonic()
        log.info("model.loading", model=self.settings.fill_model)
        loaded = self._device.start(self._load)
        while not wait([loaded], timeout=_LOOK_SECONDS).done:
            if self.draining.is_set():
                return
            if time.monotonic() - began > self.settings.model_load_seconds:
                raise TimeoutError("the model did not load within MODEL_LOAD_SECONDS")
        model = loaded.result()
        self._task = self._make_task(model)
        self.heartbeat.say(state=WorkerState.READY, version=model.version)
        if self.draining.is_set():  # the signal came between two lines: its word is the last
            self.heartbeat.say(state=WorkerState.DRAINING)
        log.info("worker.ready", seconds=round(time.monotonic() - began, 1), **model.version)

    def run(self, job: UUID) -> None:
        """Do one message. Raises JobFailed."""
        if self._task is None:
            raise RuntimeError("a message came before the model was loaded")
        self._task.run(job)

    def drain(self) -> None:
        """Take no more jobs, send back those that wait for the device, let the others end within DRAIN_SECONDS."""
        if not self.draining.is_set():
            log.info("worker.draining")
            self.draining.set()
            self.heartbeat.say(state=WorkerState.DRAINING)
            self._device.drain()
            self._later(self.settings.drain_seconds, self._give_back)

    def close(self) -> None:
        """End everything; all job threads are done by now."""
        self.drain()
        # A model that still loads is not waited for: nothing of it is needed any more.
        self._device.stop(timeout=_LAST_WORDS_SECONDS if self._task else 0.0)
        self.heartbeat.stop()
        for timer in self._timers:
            timer.cancel()
        self._engine.dispose()
        self._beats.dispose()
        self._objects.close()
        log.info("worker.stopped")

    @property
    def has_left_the_device(self) -> bool:
        """Whether, after `close`, no thread of ours is in the model's libraries any more."""
        return not self._device.is_alive

    def _load(self) -> FillModel:
        self._safety.load()
        if self.settings.test_model_class is not None:
            module, _, name = self.settings.test_model_class.partition(":")
            stand_in: FillModel = getattr(importlib.import_module(module), name)(self.settings)
            return stand_in
        from worker.model import load_model  # torch: only the process that fills pays for its import

        return load_model(self.settings)

    def _make_task(self, model: FillModel) -> FillTask:
        names = OwnerNames(self._engine)
        shop = Workshop(
            settings=self.settings,
            engine=self._engine,
            objects=self._objects,
            reader=InputReader(
                self.settings,
                self._fetcher,
                self._objects,
                LoraSource(self.settings, self._fetcher, self._objects, name_of=names.name),
                model.check_adapter,
                names.name,
                BatchPins(self._engine),
            ),
            device=self._device,
            safety=SafetyGate(self._safety, self.settings),
            deny=self._deny,
            worker_id=self.worker_id,
            model_version=model.version,
        )
        return FillTask(
            self.settings,
            self._engine,
            self.heartbeat,
            self._outage,
            self.draining,
            lambda claim, lease: fill_job(claim, lease, shop),
        )

    def _probe(self) -> None:
        with transaction(self._engine) as connection:
            connection.execute(text("SELECT 1"))
        self._objects.put(_PROBE_KEY, b"", "application/octet-stream")
        self._objects.size(_PROBE_KEY)

    def _give_back(self) -> None:
        # Before the supervisor's SIGKILL, which would count against the job on the device.
        log.warning("worker.drain_over", drain_seconds=self.settings.drain_seconds)
        self.heartbeat.drain_all()
        self._later(_GIVE_BACK_SECONDS, lambda: os._exit(ExitCode.WEDGED))

    def _broken(self) -> None:
        self._exit_soon("the GPU is in an error that no later call survives")

    def _wedged(self, lease: Lease) -> None:
        self._exit_soon(f"the device made no progress on job {lease.job.hex} within STEP_SECONDS")

    def _exit_soon(self, why: str) -> None:
        """Give the other jobs' threads a moment to release their jobs, then end the process for its supervisor."""
        if self._exiting.is_set():
            return
        self._exiting.set()
        log.critical("worker.exiting", why=why)
        self._later(_LAST_WORDS_SECONDS, lambda: os._exit(ExitCode.WEDGED))  # first: nothing may come in between
        self.drain()
        self._on_exit(ExitCode.WEDGED)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()
