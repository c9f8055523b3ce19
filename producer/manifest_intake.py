"""Has the manifests read that users named by URL: a loop inside the dispatcher's process, any number of which may run.

Each manifest is read by one process at a time, under a lease; whoever takes it over goes on behind what is there.
Several are read at once, and of one owner fewer than that, so that nobody's slow one holds up all others. Nothing of a
manifest is read in this process: see manifest_reading.py.
"""

from __future__ import annotations

import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from common import lifecycle
from common.database import make_engine, transaction
from common.errors import Unavailable
from common.lifecycle import ManifestLease
from common.settings import Settings
from common.telemetry import get_logger
from producer.manifest_reading import End, Order, Outcome, outcome_of, start, too_much_memory

log = get_logger(__name__)

READERS: Final = 4
READERS_OF_AN_OWNER: Final = 2
_LEASE_SECONDS: Final = 120.0
_KEEP_SECONDS: Final = 5.0
"""How often the lease is renewed; also how late it is noticed that a batch was cancelled."""
_LOOK_SECONDS: Final = 0.25
"""How late a stop is noticed while a manifest is read."""
_STARTS: Final = 2
"""A reader that dies without a word may have been hit by chance; the second time it was the manifest."""
_TROUBLE_SECONDS: Final = 30.0
"""How long a manifest rests that could not be had; then somebody tries again…"""
_GIVE_UP_SECONDS: Final = 24 * 3600.0
"""…until the batch is this old."""


class _Stopping(Exception):
    """The process is asked to stop."""


class _Gone(Exception):
    """The batch does not receive rows any more."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Read manifests until `stop` is set; an outage is waited out."""
    engine = make_engine(settings, pool_size=READERS + 1, application="fillfleet manifests")
    reading: set[Future[None]] = set()
    try:
        with ThreadPoolExecutor(READERS, thread_name_prefix="manifest") as pool:
            try:
                while not stop.is_set():
                    for future in [future for future in reading if future.done()]:
                        reading.remove(future)
                        future.result()
                    lease = _claim(engine) if len(reading) < READERS else None
                    if lease is None:
                        stop.wait(settings.dispatcher_poll_seconds)
                    else:
                        reading.add(pool.submit(_take, engine, settings, stop, lease))
            except BaseException:
                stop.set()  # the pool waits for those who read
                raise
    finally:
        engine.dispose()


def read_next(engine: Engine, settings: Settings, stop: threading.Event) -> bool:
    """Read the next manifest that nobody reads, to its end; False where there is none."""
    lease = _claim(engine)
    if lease is not None:
        _take(engine, settings, stop, lease)
    return lease is not None


def _claim(engine: Engine) -> ManifestLease | None:
    try:
        with transaction(engine) as connection:
            return lifecycle.claim_manifest(
                connection, lease_seconds=_LEASE_SECONDS, at_once_of_an_owner=READERS_OF_AN_OWNER
            )
    except Unavailable as error:
        log.warning("manifests.outage", code=error.code)
        return None


def _take(engine: Engine, settings: Settings, stop: threading.Event, lease: ManifestLease) -> None:
    log.info("manifest.reading", batch=lease.batch.hex)
    try:
        try:
            _settle(engine, lease, _read(engine, settings, stop, lease))
        except _Stopping:
            _give_back(engine, lease, 0.0)
        except _Gone:
            log.info("manifest.dropped", batch=lease.batch.hex)
    except Unavailable as error:  # the lease runs out, and then somebody takes it again
        log.warning("manifests.outage", code=error.code)


def _settle(engine: Engine, lease: ManifestLease, outcome: Outcome) -> None:
    if outcome.end is End.READ:
        log.info("manifest.read", batch=lease.batch.hex, rows=outcome.rows, rejected=outcome.rejected)
    elif outcome.end is End.REFUSED:
        _refuse(engine, lease, outcome.why)
    else:
        log.warning("manifest.trouble", batch=lease.batch.hex, code=outcome.code)
        if outcome.end is End.TROUBLE and lease.age_seconds > _GIVE_UP_SECONDS:
            _refuse(engine, lease, outcome.why)
        else:
            _give_back(engine, lease, _TROUBLE_SECONDS)


def _read(engine: Engine, settings: Settings, stop: threading.Event, lease: ManifestLease) -> Outcome:
    for _ in range(_STARTS):
        # Made here, so that it goes whatever becomes of the reader.
        with (
            tempfile.TemporaryDirectory(prefix="fillfleet-manifest-") as folder,
            _started(Order(settings, lease, Path(folder))) as process,
        ):
            said = _watched(process, engine, stop, lease)
        outcome = outcome_of(said)
        if outcome is not None:
            return outcome
        log.warning("manifest.reader_died", batch=lease.batch.hex, exit_code=process.returncode)
    return Outcome(End.REFUSED, too_much_memory(settings))


@contextmanager
def _started(order: Order) -> Iterator[subprocess.Popen[bytes]]:
    with start(order) as process:
        try:
            yield process
        finally:
            process.kill()


def _watched(process: subprocess.Popen[bytes], engine: Engine, stop: threading.Event, lease: ManifestLease) -> bytes:
    """Return what the process says at its end; until then keep the lease. Raises _Stopping, _Gone."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    keep_at = time.monotonic() + _KEEP_SECONDS
    while not select.select([process.stdout], [], [], _LOOK_SECONDS)[0]:
        if stop.is_set():
            raise _Stopping
        if time.monotonic() >= keep_at:
            keep_at = time.monotonic() + _KEEP_SECONDS
            _keep(engine, lease)
    return process.stdout.read()


def _keep(engine: Engine, lease: ManifestLease) -> None:
    try:
        with transaction(engine) as connection:
            if not lifecycle.keep_manifest(connection, lease.batch, lease_seconds=_LEASE_SECONDS):
                raise _Gone
    except Unavailable as error:  # who reads notices it, too, and says so at its end
        log.warning("manifests.outage", code=error.code)


def _refuse(engine: Engine, lease: ManifestLease, why: str) -> None:
    log.info("manifest.refused", batch=lease.batch.hex, why=why)
    with transaction(engine) as connection:
        lifecycle.refuse_manifest(connection, lease.owner, lease.batch, why)


def _give_back(engine: Engine, lease: ManifestLease, delay_seconds: float) -> None:
    with transaction(engine) as connection:
        lifecycle.give_manifest_back(connection, lease.batch, delay_seconds=delay_seconds)
