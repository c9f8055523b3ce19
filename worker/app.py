"""The Celery worker: one task, on threads, with the model loaded before the first message is taken.

Celery carries messages and shows tasks in Flower; whether a job may run, and what became of it, is decided elsewhere.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

from celery import Celery, bootsteps
from celery.exceptions import WorkerShutdown
from celery.signals import setup_logging, worker_shutting_down
from celery.worker import state

from common.broker import FILL_TASK, QUEUE_NAMES, make_app
from common.errors import FillfleetError, JobFailed, Rejected
from common.ids import parse_id
from common.settings import Settings
from common.telemetry import configure_logging, get_logger
from worker.exit_code import ExitCode
from worker.health import serve_health
from worker.runtime import Runtime
from worker.task_events import SendEventsAtOnce

log = get_logger(__name__)


def make_worker_app(settings: Settings, runtime: Runtime) -> Celery:
    """Return the Celery app whose worker runs jobs on `runtime`."""
    app = make_app(settings)
    hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    # `throws`: an expected failure is one line in the log, and FAILURE in Flower.
    @app.task(name=FILL_TASK, throws=(JobFailed,))  # type: ignore[untyped-decorator]
    def fill(job: str) -> None:
        job_id = parse_id(job) if isinstance(job, str) else None
        if job_id is None:
            log.error("message.not_a_job")  # injected or garbled; a job it meant is sent again
            return
        runtime.run(job_id)

    class LoadModel(bootsteps.StartStopStep):  # type: ignore[misc]
        """Blocks the worker's start until the model is ready. A worker step, not a consumer's: those rerun."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery passes the worker
            _drain_on_every_signal(hangup=hangup)  # Celery has just set its own
            try:
                runtime.start()
            except FillfleetError as error:  # in words already: no traceback of Celery's around them
                log.critical("worker.cannot_start", code=error.code, error=error.message)
                lasting = isinstance(error, Rejected)
                raise WorkerShutdown(ExitCode.CANNOT_START if lasting else ExitCode.FAILED) from None
            if runtime.draining.is_set():
                raise WorkerShutdown(ExitCode.DRAINED)

    app.steps["worker"].add(LoadModel)
    app.steps["consumer"].add(SendEventsAtOnce)
    return app


def _stop_taking_messages(exit_code: int) -> None:
    # What a signal handler of Celery does. Else this process would go on to take the messages of others, for nothing.
    state.should_stop = exit_code


def _drain_on_every_signal(*, hangup: bool) -> None:
    """Let Ctrl-C, however often, SIGQUIT and (unless started by nohup) SIGHUP do what SIGTERM does.

    Celery's own answer to a second Ctrl-C gives messages back whose jobs still run, and to SIGHUP a restart that does
    not find its modules again.
    """
    drain = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, drain)
    signal.signal(signal.SIGQUIT, drain)
    signal.signal(signal.SIGHUP, drain if hangup else signal.SIG_IGN)


def run_worker(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the process's exit code."""
    gpu = os.environ.get("FILLFLEET_GPU")  # set by the supervisor: see worker/fleet/member.py
    configure_logging(settings, "worker", **({"gpu": gpu} if gpu else {}))
    runtime = Runtime(settings, on_exit=_stop_taking_messages)
    app = make_worker_app(settings, runtime)
    health = serve_health(runtime, settings.worker_health_port) if settings.worker_health_port else None

    def shutting_down(**_: Any) -> None:
        runtime.drain()

    def keep_our_logging(**_: Any) -> None:
        """Being connected is enough: Celery then leaves the loggers as they are."""

    setup_logging.connect(keep_our_logging, weak=False)
    worker_shutting_down.connect(shutting_down, weak=False)
    worker = app.Worker(
        hostname=f"{runtime.worker_id}@{runtime.heartbeat.worker.hostname}",
        pool="threads",
        concurrency=settings.worker_slots,
        queues=list(QUEUE_NAMES.values()),
        without_gossip=True,
        without_mingle=True,
        task_events=True,
        quiet=True,
        loglevel=settings.log_level.upper(),
    )
    try:
        worker.start()
    finally:
        runtime.close()  # start() has waited for the threads of all jobs by now
        if health is not None:
            health.shutdown()
    exit_code = int(worker.exitcode or 0)
    if not runtime.has_left_the_device:
        _leave(exit_code)
    return exit_code


def _leave(exit_code: int) -> NoReturn:
    """End the process around a thread that is in C++: the interpreter, ending, would stop it there, and so abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
