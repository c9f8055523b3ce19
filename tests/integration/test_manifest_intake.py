"""Manifests that the server itself reads, against whoever writes them to take it down or to keep it busy."""

from __future__ import annotations

import io
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from common.contract import BatchState
from common.ids import new_id
from common.lifecycle import ManifestLease, NewBatch
from common.objects import Objects, upload_key
from common.settings import MIB, Settings
from producer import manifest_intake, manifest_reading
from producer.batches import Batch
from producer.doors.direct import DirectDoor
from producer.manifest_intake import READERS_OF_AN_OWNER, read_next

CSV = b"image,prompt\nhttps://example.com/1.png,x\n"


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with a CSV; below /slow/ with one that never ends, a byte at a time."""
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        try:
            self.wfile.write(CSV)
            while self.path.startswith("/slow/"):
                self.wfile.write(b"#")
                time.sleep(0.1)
        except OSError:
            self.server.left += 1  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        pass


@pytest.fixture
def site() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        server.daemon_threads = True
        server.asked = server.left = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def url(site: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{site.server_address[1]}"


@pytest.fixture
def local(settings: Settings, site: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings by which the site may be fetched from, with a folder of their own for what is downloaded."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return settings.model_copy(update={"fetch_allow_hosts": (f"127.0.0.1:{site.server_address[1]}",)})


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `what` holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(door: DirectDoor, source: str, form: str = "csv") -> Batch:
    """Make a batch whose manifest the server reads."""
    return door.start(NewBatch(new_id().hex, manifest={"source": source, "options": {"form": form}}))


def test_a_parquet_that_unpacks_to_twenty_gigabytes_is_refused_and_takes_no_memory_here(
    settings: Settings, database: Engine
) -> None:
    small = settings.model_copy(update={"manifest_memory_bytes": 768 * MIB})
    prompts = pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), pa.array(["x" * (20 * MIB)]))
    images = pa.array(["https://example.com/1.png"] * 1024)
    file = io.BytesIO()
    pq.write_table(pa.table({"image": images, "prompt": prompts}), file, compression="zstd")
    assert len(file.getvalue()) < 10_000
    with closing(DirectDoor(small, new_id().hex)) as door, closing(Objects(small)) as objects:
        key = upload_key(door._owner, new_id(), "bomb.parquet")
        objects.put(key, file.getvalue(), "application/octet-stream")
        batch = start(door, objects.uri(key), "parquet")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert read_next(database, small, threading.Event())
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
        found = door.find(batch.id.hex)
    assert found.state is BatchState.CANCELLED
    assert "memory" in str(found.error)


def test_slow_manifests_of_one_owner_hold_up_neither_others_nor_a_stop(
    local: Settings, database: Engine, url: str, tmp_path: Path
) -> None:
    stop = threading.Event()
    with closing(DirectDoor(local, new_id().hex)) as slow, closing(DirectDoor(local, new_id().hex)) as other:
        for number in range(READERS_OF_AN_OWNER + 3):
            start(slow, f"{url}/slow/{number}.csv")
        quick = start(other, f"{url}/quick.csv")
        loop = threading.Thread(target=manifest_intake.run, args=(local, stop))
        loop.start()
        try:
            wait_for(lambda: other.find(quick.id.hex).state is BatchState.OPEN)
            wait_for(lambda: len(list(tmp_path.glob("fillfleet-manifest-*"))) == READERS_OF_AN_OWNER)
        finally:
            stop.set()
            loop.join(timeout=60)
        assert not loop.is_alive()
        assert list(tmp_path.glob("fillfleet-manifest-*")) == []
        for batch in slow.list()[0]:
            slow.cancel(batch)


def test_the_reading_of_a_batch_that_is_cancelled_ends(
    local: Settings, database: Engine, site: ThreadingHTTPServer, url: str
) -> None:
    with closing(DirectDoor(local, new_id().hex)) as door:
        batch = start(door, f"{url}/slow/a.csv")
        reader = threading.Thread(target=read_next, args=(database, local, threading.Event()))
        reader.start()
        wait_for(lambda: bool(site.asked))  # type: ignore[attr-defined]
        door.cancel(batch)
        reader.join(timeout=60)
        assert not reader.is_alive()
        wait_for(lambda: bool(site.left))  # type: ignore[attr-defined]
        assert door.find(batch.id.hex).state is BatchState.CANCELLED


@pytest.mark.parametrize("name", ["inputs.sqlite", "%2e%2e", "%C3%BC" * 200])
def test_what_a_manifest_is_called_is_no_path_on_the_server(
    name: str, local: Settings, database: Engine, url: str
) -> None:
    with closing(DirectDoor(local, new_id().hex)) as door:
        batch = start(door, f"{url}/a/{name}")
        assert read_next(database, local, threading.Event())
        found = door.find(batch.id.hex)
    assert (found.state, found.counts.total, found.error) == (BatchState.OPEN, 1, None)


def test_a_reader_ends_with_whoever_started_it(
    local: Settings, site: ThreadingHTTPServer, url: str, tmp_path: Path
) -> None:
    with closing(DirectDoor(local, new_id().hex)) as door:
        batch = start(door, f"{url}/slow/a.csv")
        manifest = {"source": f"{url}/slow/a.csv", "options": {"form": "csv"}}
        folder = tmp_path / "reading"
        folder.mkdir()
        lease = ManifestLease(batch.id, door._owner, manifest, datetime.now(UTC), 0.0)
        with manifest_reading.start(manifest_reading.Order(local, lease, folder)) as process:
            wait_for(lambda: bool(site.asked))  # type: ignore[attr-defined]
            assert process.poll() is None
            assert process.stdin is not None
            process.stdin.close()  # as it is when its parent is killed
            assert process.wait(timeout=60) == 1
            assert not folder.exists()
        door.cancel(batch)
