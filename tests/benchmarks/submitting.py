"""Submits one manifest in a process of its own, as `fillfleet submit` does, and prints what it took as JSON.

The clock starts when the interpreter and its modules are there: what is measured is the rows, not Python's start.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from common.lifecycle import NewBatch
from common.settings import get_settings
from producer.doors.direct import DirectDoor
from producer.input_files import InputFiles
from producer.input_journal import InputJournal
from producer.manifest.open import open_manifest
from producer.manifest.options import ManifestOptions
from producer.submission import submit


def main(path: str, owner: str, name: str) -> None:
    """Submit the manifest at `path` as batch `name` of `owner`."""
    began, computed = time.monotonic(), time.process_time()
    settings = get_settings()
    with (
        tempfile.TemporaryDirectory(prefix="fillfleet-bench-") as folder,
        closing(DirectDoor(settings, owner)) as door,
        closing(InputJournal(Path(folder) / "inputs.sqlite")) as journal,
        InputFiles(journal, door.inputs) as files,
    ):
        manifest = open_manifest(path, ManifestOptions())
        batch, progress = submit(manifest, door, door.start(NewBatch(name)), files)
        seconds, computed = time.monotonic() - began, time.process_time() - computed
    said = {
        "seconds": seconds,
        "new": progress.new,
        "stored": batch.counts.total,
        "rejected": batch.rejected,
        "cpu_seconds": computed,
        "peak_rss_mb": _peak_rss_mb(),
    }
    sys.stdout.write(json.dumps(said) + "\n")


def _peak_rss_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
