"""The one thread that owns the GPU: it runs one job's work at a time and chooses which comes next.

Everything else of a job happens on the job's own thread. Nothing but the model's compute belongs here: whatever this
thread waits for, the GPU waits for.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from PIL.Image import Image

from common.errors import Draining
from common.settings import Settings
from common.telemetry import bind_job, get_logger
from worker.lease import Lease
from worker.work import DeviceBroken, FillModel, Work

log = get_logger(__name__)

_GIVE_WAY_SECONDS: Final = 0.0005
"""How long a thread that computes in Python may keep the interpreter once another wants it. The device's wants it again
after every call that it waits in, thousands of times a job, and the jobs' threads decode and sign in short bursts: with
Python's own 5 ms it would wait for most of that each time."""


@dataclass(frozen=True, eq=False)
class Filled:
    """What the device made of one job, and how long it waited for the device and was on it, in seconds."""

    made: Sequence[Any]
    """One for each work of the job."""
    model: FillModel
    waited_seconds: float
    inference_seconds: float

    @cached_property
    def images(self) -> list[Image]:
        """All images, work by work, made where first asked for: that is the job's thread, never the device's."""
        return [image for made in self.made for image in self.model.develop(made)]


@dataclass
class _Turn:
    """One job's place in the line."""

    work: Work
    prepared: Sequence[Any]
    lease: Lease
    future: Future[Filled] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    overtaken: int = 0

    def fits(self, resident: frozenset[str]) -> bool:
        return all(adapter.sha256 in resident for adapter in self.work.adapters)


def choose(line: Sequence[_Turn], resident: frozenset[str], *, max_overtakes: int, patience: float) -> int:
    """Return the place in `line` (oldest first) of the job that runs next.

    The oldest one whose adapters are in place goes first, so that LoRAs are swapped rarely; but the oldest of all goes
    once it was overtaken `max_overtakes` times, or came before the time `patience` on the monotonic clock.
    """
    if line[0].overtaken >= max_overtakes or line[0].arrived <= patience:
        return 0
    return next((place for place, turn in enumerate(line) if turn.fits(resident)), 0)


class Device:
    """The device's thread and the line in front of it."""

    def __init__(self, settings: Settings, *, on_broken: Callable[[], None]) -> None:
        self._settings = settings
        self._on_broken = on_broken
        self._line: list[_Turn] = []
        self._changed = threading.Condition()
        self._draining = False
        self._stopping = False
        self._loaded: Future[FillModel] = Future()
        self._thread: threading.Thread | None = None

    def start(self, load: Callable[[], FillModel]) -> Future[FillModel]:
        """Start the thread, which first loads the model; the future tells when it is ready, or why it is not."""
        sys.setswitchinterval(_GIVE_WAY_SECONDS)  # of the whole process
        self._thread = threading.Thread(target=self._loop, args=(load,), name="device", daemon=True)
        self._thread.start()
        return self._loaded

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: after `stop` too, where a model that loads or hangs is in its libraries' hands."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, work: Work, lease: Lease, *more: Work) -> Future[Filled]:
        """Prepare the work on the caller's thread and stand in line.

        `more` of the same job, with the same adapters, is done in the same turn, so that no other job comes in between.
        Raises what the preparing raises; the future's result raises what the model raised. Both raise Draining.
        """
        if self._draining:
            raise Draining
        model = self._loaded.result()
        turn = _Turn(work, [model.prepare(one) for one in (work, *more)], lease)
        with self._changed:
            if self._draining:
                raise Draining
            self._line.append(turn)
            self._changed.notify()
        return turn.future

    def withdraw(self, future: Future[Filled]) -> None:
        """Take the job out of the line whose future nobody waits for any more; the one that runs is not touched."""
        with self._changed:
            self._line = [turn for turn in self._line if turn.future is not future]

    def drain(self) -> None:
        """Let the running job finish, send away those that wait, and take no more."""
        with self._changed:
            self._draining = True
            waiting, self._line = self._line, []
            self._changed.notify()
        for turn in waiting:
            turn.future.set_exception(Draining())

    def stop(self, timeout: float) -> None:
        """End the thread after the job that runs."""
        self.drain()
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _loop(self, load: Callable[[], FillModel]) -> None:
        try:
            model = load()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(model)
        try:
            while (turn := self._next(model)) is not None:
                with bind_job(turn.lease.job, turn.lease.attempt):
                    self._run(model, turn)
                del turn  # its images must not live on while the device waits
        except Exception:
            log.exception("device.failed")  # without this thread nobody in line would ever hear again
            self.drain()
            self._on_broken()

    def _next(self, model: FillModel) -> _Turn | None:
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._stopping)
            if not self._line:
                return None
            place = choose(
                self._line,
                model.resident,
                max_overtakes=self._settings.device_max_overtakes,
                patience=time.monotonic() - self._settings.device_overtake_seconds,
            )
            for older in self._line[:place]:
                older.overtaken += 1
            return self._line.pop(place)

    def _run(self, model: FillModel, turn: _Turn) -> None:
        started = time.monotonic()
        try:
            turn.lease.enter("device", self._settings.step_seconds, on_device=True)
            try:
                made = [model.run(one, lambda _: turn.lease.tick()) for one in turn.prepared]
            finally:
                # Here and not by the job's thread, which may be kept waiting: only who is on the device can be wedged.
                turn.lease.leave_device()
        except DeviceBroken as error:
            log.critical("device.broken", error=str(error))
            self.drain()
            turn.future.set_exception(error)
            self._on_broken()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            turn.future.set_exception(error)
        else:
            turn.future.set_result(Filled(made, model, started - turn.arrived, time.monotonic() - started))
