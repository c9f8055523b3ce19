"""Reads the manifests that users named by URL: a loop inside the dispatcher's process, any number of which may run.

Each manifest is read by one process at a time, under a lease; whoever takes it over goes on behind what is there. It
never reads a file of this machine for anybody.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from sqlalchemy import Engine

from common import lifecycle
from common.contract import InvalidRequest
from common.database import make_engine, transaction
from common.errors import Rejected, Transient, Unavailable
from common.fetch import Fetcher
from common.lifecycle import ManifestLease
from common.settings import Settings
from common.sources import HttpSource, parse_source
from common.telemetry import get_logger
from producer.doors.direct import DirectDoor
from producer.input_files import InputFiles
from producer.input_journal import InputJournal
from producer.manifest import ManifestError
from producer.manifest.open import Manifest, open_manifest
from producer.manifest.options import options_from_json
from producer.manifest.owner_objects import OwnerObjects
from producer.submission import Progress, submit

log = get_logger(__name__)

_LEASE_SECONDS: Final = 120.0
_TROUBLE_SECONDS: Final = 30.0
"""How long a manifest rests that could not be had; then somebody tries again…"""
_GIVE_UP_SECONDS: Final = 24 * 3600.0
"""…until the batch is this old."""


class _Stopping(Exception):
    """The process is asked to stop."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Read manifests until `stop` is set; an outage is waited out."""
    engine = make_engine(settings, pool_size=1, application="fillfleet manifests")
    try:
        while not stop.is_set():
            try:
                found = read_next(engine, settings, stop)
            except Unavailable as error:
                log.warning("manifests.outage", code=error.code)
                found = False
            if not found:
                stop.wait(settings.dispatcher_poll_seconds)
    finally:
        engine.dispose()


def read_next(engine: Engine, settings: Settings, stop: threading.Event) -> bool:
    """Read the next manifest that nobody reads, to its end; False where there is none. Raises Unavailable."""
    with transaction(engine) as connection:
        lease = lifecycle.claim_manifest(connection, lease_seconds=_LEASE_SECONDS)
    if lease is None:
        return False
    log.info("manifest.reading", batch=lease.batch.hex)
    try:
        progress = _read(engine, settings, stop, lease)
        log.info("manifest.read", batch=lease.batch.hex, rows=progress.rows, rejected=progress.rejected)
    except _Stopping:
        _give_back(engine, lease, 0.0)
    except (ManifestError, Rejected, InvalidRequest) as error:
        _refuse(engine, lease, str(error))
    except (Transient, Unavailable) as error:
        log.warning("manifest.trouble", batch=lease.batch.hex, code=error.code)
        if isinstance(error, Transient) and lease.age_seconds > _GIVE_UP_SECONDS:
            _refuse(engine, lease, error.message)
        else:
            _give_back(engine, lease, _TROUBLE_SECONDS)
    except Exception:  # one manifest that we cannot cope with must not take the dispatcher down with it
        log.exception("manifest.internal_error", batch=lease.batch.hex)
        _refuse(engine, lease, "an internal error, which the operator's log describes; nothing was started")
    return True


def _read(engine: Engine, settings: Settings, stop: threading.Event, lease: ManifestLease) -> Progress:
    def on_progress(_progress: Progress) -> None:
        if stop.is_set():
            raise _Stopping
        with transaction(engine) as connection:
            lifecycle.keep_manifest(connection, lease.batch, lease_seconds=_LEASE_SECONDS)

    door = DirectDoor(settings, lease.owner)
    try:
        with tempfile.TemporaryDirectory(prefix="fillfleet-manifest-") as folder:
            # A journal of its own: what it remembers is worth something only on a user's machine.
            journal = InputJournal(Path(folder) / "inputs.sqlite")
            files = InputFiles(journal, door.inputs, max_bytes=settings.upload_max_bytes)
            with closing(journal), files:
                manifest = _open(lease, settings, door.manifests, Path(folder))
                batch = door.find(lease.batch.hex)
                return submit(manifest, door, batch, files, on_progress)[1]
    finally:
        door.close()


def _open(lease: ManifestLease, settings: Settings, objects: OwnerObjects, folder: Path) -> Manifest:
    source = str(lease.manifest["source"])
    options = options_from_json(lease.manifest.get("options", {}))
    parsed = parse_source(source, settings, what="manifest", folders=True)
    if isinstance(parsed, HttpSource):
        # Under its own name, which may say what form it has.
        name = PurePosixPath(unquote(urlsplit(parsed.url).path)).name[-100:].replace("\x00", "") or "manifest"
        target = folder / name
        Fetcher(settings).download(
            parsed.url,
            target,
            max_bytes=settings.manifest_max_bytes,
            seconds=settings.manifest_fetch_seconds,
            what="manifest",
        )
        return open_manifest(str(target), options)
    # What the operator allowed when the batch was made may have been withdrawn since: it is judged again here.
    return open_manifest(parsed.uri, options, objects=objects)


def _refuse(engine: Engine, lease: ManifestLease, why: str) -> None:
    log.info("manifest.refused", batch=lease.batch.hex, why=why)
    with transaction(engine) as connection:
        lifecycle.refuse_manifest(connection, lease.owner, lease.batch, why)


def _give_back(engine: Engine, lease: ManifestLease, delay_seconds: float) -> None:
    with transaction(engine) as connection:
        lifecycle.give_manifest_back(connection, lease.batch, delay_seconds=delay_seconds)
