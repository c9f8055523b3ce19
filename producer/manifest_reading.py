"""`python -m producer.manifest_reading`: reads one manifest, in a process of its own with a bound on its memory.

What a manifest unpacks to is up to whoever wrote it. Where it is too much this process ends, and no other. It ends with
the one that started it, too, and leaves no file but in the folder that it was given.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from common import prompt_deny_file
from common.contract import InvalidRequest
from common.errors import Rejected, Transient, Unavailable
from common.fetch import Fetcher
from common.lifecycle import ManifestLease
from common.settings import Settings
from common.sources import HttpSource, parse_source
from common.telemetry import configure_logging, get_logger
from producer.doors.direct import DirectDoor
from producer.input_files import InputFiles
from producer.input_journal import InputJournal
from producer.manifest import ManifestError
from producer.manifest.open import Manifest, open_manifest
from producer.manifest.options import options_from_json
from producer.manifest.owner_objects import OwnerObjects
from producer.submission import submit

log = get_logger(__name__)

_NAME_BYTES: Final = 100


class End(StrEnum):
    """How the reading of a manifest ended."""

    READ = "read"
    REFUSED = "refused"
    """It can never be read."""
    TROUBLE = "trouble"
    """It cannot be had now."""
    OUTAGE = "outage"
    """Our own servers do not answer."""


@dataclass(frozen=True)
class Outcome:
    """What became of a manifest."""

    end: End
    why: str = ""
    """For the user."""
    code: str = ""
    rows: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Order:
    """What one process is to read, and where its files may lie."""

    settings: Settings
    lease: ManifestLease
    folder: Path


def start(order: Order) -> subprocess.Popen[bytes]:
    """Return the process. Its stdin is what it lives by: it ends when that is closed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "producer.manifest_reading"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(order.folder)},
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    with suppress(BrokenPipeError):  # it died at once, which its exit will tell
        pickle.dump(order, process.stdin)
        process.stdin.flush()
    return process


def outcome_of(said: bytes) -> Outcome | None:
    """Return what the process said at its end; None where it died before."""
    try:
        fields = json.loads(said)
        return Outcome(**{**fields, "end": End(fields["end"])})
    except (ValueError, TypeError, KeyError):
        return None


def read(order: Order) -> Outcome:
    """Read the manifest to its end, open its batch, and return what became of it."""
    settings = order.settings
    try:
        return _read(order)
    except (ManifestError, Rejected, InvalidRequest) as error:
        if isinstance(error, Rejected) and error.code == prompt_deny_file.INVALID:
            return Outcome(End.OUTAGE, error.message, error.code)  # the operator's to mend: no batch is lost over it
        return Outcome(End.REFUSED, str(error).replace(f"{_downloads(order)}/", ""))
    except Transient as error:
        return Outcome(End.TROUBLE, error.message, error.code)
    except Unavailable as error:
        return Outcome(End.OUTAGE, error.message, error.code)
    except MemoryError:
        return Outcome(End.REFUSED, too_much_memory(settings))
    except Exception:  # one manifest that we cannot cope with
        log.exception("manifest.internal_error", batch=order.lease.batch.hex)
        return Outcome(End.REFUSED, "an internal error, which the operator's log describes; nothing was started")


def too_much_memory(settings: Settings) -> str:
    """Return why a manifest is refused whose rows do not fit."""
    return (
        f"reading the manifest takes more than {settings.manifest_memory_bytes // 2**20} MiB of memory; "
        "write it with shorter rows, or in smaller row groups"
    )


def _read(order: Order) -> Outcome:
    settings, lease = order.settings, order.lease
    # A journal of its own: what it remembers is worth something only on a user's machine.
    journal = InputJournal(order.folder / "inputs.sqlite")
    with (
        closing(DirectDoor(settings, lease.owner)) as door,
        closing(journal),
        InputFiles(journal, door.inputs, max_bytes=settings.upload_max_bytes) as files,
    ):
        manifest = _open(order, door.manifests)
        progress = submit(manifest, door, door.find(lease.batch.hex), files)[1]
    return Outcome(End.READ, rows=progress.rows, rejected=progress.rejected)


def _open(order: Order, objects: OwnerObjects) -> Manifest:
    lease, settings = order.lease, order.settings
    options = options_from_json(lease.manifest.get("options", {}))
    parsed = parse_source(str(lease.manifest["source"]), settings, what="manifest", folders=True)
    if not isinstance(parsed, HttpSource):
        # What the operator allowed when the batch was made may have been withdrawn since: it is judged again here.
        return open_manifest(parsed.uri, options, objects=objects)
    target = _downloads(order) / _file_name(parsed.url)
    Fetcher(settings).download(
        parsed.url,
        target,
        max_bytes=settings.manifest_max_bytes,
        seconds=settings.manifest_fetch_seconds,
        what="manifest",
    )
    return open_manifest(str(target), options)


def _downloads(order: Order) -> Path:
    """Return a folder where nothing but the manifest lies, whatever the user calls it."""
    return order.folder / "download"


def _file_name(url: str) -> str:
    """Return the file's own name, which may say what form it has, as one that every file system takes."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name.replace("\x00", "")
    name = name.encode("utf-8", "replace")[-_NAME_BYTES:].decode("utf-8", "ignore")
    return "manifest" if name in {"", ".", ".."} else name


def _bound_memory(max_bytes: int) -> None:
    with suppress(ValueError, OSError):  # a lower bound of the operator's own holds
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    with suppress(OSError):  # where memory runs out before that, Linux is to end this process and not its parent
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_parent(folder: Path) -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)  # a parent that was killed cannot
    os._exit(1)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends this one
    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent alone
    threading.Thread(target=_end_with_parent, args=(order.folder,), daemon=True).start()
    tempfile.tempdir = str(order.folder)
    configure_logging(order.settings, "dispatcher")
    _bound_memory(order.settings.manifest_memory_bytes)
    outcome = read(order)
    sys.stdout.write(json.dumps(asdict(outcome)))
    sys.stdout.flush()
    os._exit(0)  # the thread above holds stdin, and Python would wait for it


if __name__ == "__main__":
    # Under its own name, by which its parent's pickles know its classes.
    from producer.manifest_reading import _main as main

    main()
