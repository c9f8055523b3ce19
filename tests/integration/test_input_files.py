"""Files of rows on the way into a real bucket: each once, whatever happens in between, and none that is no image."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import pytest
from PIL import Image
from structlog.testing import capture_logs

from common.errors import Unavailable
from common.ids import new_id
from common.objects import Objects, input_key
from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from producer.input_files import WORKERS, InputFiles, ObjectsStore
from producer.input_journal import InputJournal
from producer.manifest.row import BadRow, InlineContent, LocalFile, ManifestRow
from tests.support.environment import settings_for

Row = ManifestRow | BadRow


class CountingStore:
    """The bucket for a new owner, with a count of what was asked of it."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.owner = new_id()
        self._store = ObjectsStore(objects, self.owner)
        self.name = self._store.name
        self.sent: list[str] = []
        self.asked: list[str] = []

    def key(self, sha256: str, extension: str) -> str:
        return self._store.key(sha256, extension)

    def uri(self, key: str) -> str:
        return self._store.uri(key)

    def has(self, key: str) -> bool:
        self.asked.append(key)
        return self._store.has(key)

    def put(self, key: str, data: Callable[[], BinaryIO], size: int, content_type: str, sha256: str) -> None:
        self.sent.append(key)
        self._store.put(key, data, size, content_type, sha256)


@pytest.fixture(scope="module")
def objects(servers: EmbeddedServers) -> Iterator[Objects]:
    made = Objects(settings_for(servers, "postgresql://nobody@127.0.0.1/none"))
    made.ensure_bucket()
    yield made
    made.close()


@pytest.fixture
def store(objects: Objects) -> CountingStore:
    """The bucket for an owner of this test's own."""
    return CountingStore(objects)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[InputJournal]:
    made = InputJournal(tmp_path / "journal" / "inputs.sqlite")
    yield made
    made.close()


@pytest.fixture
def files(journal: InputJournal, store: CountingStore) -> Iterator[InputFiles]:
    with InputFiles(journal, store) as made:
        yield made


def picture(colour: int, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (colour % 256, colour // 256, 0)).save(data, kind)
    return data.getvalue()


def local(path: Path, data: bytes) -> LocalFile:
    path.write_bytes(data)
    return LocalFile(path, path.name)


def row(number: int, **contents: LocalFile | InlineContent) -> ManifestRow:
    return ManifestRow(number, f"line {number}", {"prompt": "x"}, custom_id=f"id-{number}", files=contents)


def uri_of(resolved: Row, field: str = "image") -> str:
    assert isinstance(resolved, ManifestRow), resolved
    assert not resolved.files
    return str(resolved.body[field])


def test_each_file_becomes_an_object_under_its_owner_and_content(
    files: InputFiles, store: CountingStore, tmp_path: Path
) -> None:
    kinds = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
    rows = [
        row(n, image=local(tmp_path / f"{n}.anything", picture(n, kind)), mask_image=InlineContent(picture(99), "m"))
        for n, kind in enumerate(kinds.values(), 1)
    ]
    resolved = files.resolve(rows)
    assert [r.number for r in resolved] == [1, 2, 3]
    for before, after, extension in zip(rows, resolved, kinds, strict=True):
        with before.files["image"].open() as file:
            data = file.read()
        key = uri_of(after).removeprefix(f"s3://{store.objects.bucket}/")
        assert key.startswith(f"inputs/{store.owner.hex}/")
        assert key.endswith(f".{extension}")
        assert store.objects.get(key, max_bytes=10_000) == data
        assert isinstance(after, ManifestRow)
        assert after.body["prompt"] == "x"
        assert after.custom_id == before.custom_id
    assert len({uri_of(r, "mask_image") for r in resolved}) == 1
    assert len(store.sent) == 4, "one mask for all is sent once"


def test_equal_content_in_many_files_at_once_is_sent_once(
    files: InputFiles, store: CountingStore, tmp_path: Path
) -> None:
    rows = [row(n, image=local(tmp_path / f"{n}.png", picture(5))) for n in range(1, 41)]
    assert len({uri_of(r) for r in files.resolve(rows)}) == 1
    assert len(store.sent) == 1


def test_a_repeated_submit_neither_reads_nor_sends_nor_asks(
    objects: Objects, store: CountingStore, tmp_path: Path
) -> None:
    rows = [row(n, image=local(tmp_path / f"{n}.png", picture(n))) for n in range(1, 21)]
    results = []
    for _ in range(2):
        journal = InputJournal(tmp_path / "inputs.sqlite")
        with InputFiles(journal, store) as files:
            results.append(files.resolve(rows))
        journal.close()
        for path in tmp_path.glob("*.png"):  # whoever reads it from now on notices, though it looks unchanged
            stat = path.stat()
            path.write_bytes(b"x" * stat.st_size)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert results[0] == results[1]
    assert len(store.sent) == len(store.asked) == 20


def test_a_changed_file_is_sent_again_and_an_unchanged_one_is_not(
    files: InputFiles, store: CountingStore, tmp_path: Path
) -> None:
    rows = [row(n, image=local(tmp_path / f"{n}.png", picture(n))) for n in (1, 2)]
    before = files.resolve(rows)
    local(tmp_path / "2.png", picture(3))
    os.utime(tmp_path / "2.png", ns=(1, 1))
    after = files.resolve(rows)
    assert uri_of(before[0]) == uri_of(after[0])
    assert uri_of(before[1]) != uri_of(after[1])
    assert len(store.sent) == 3


def test_another_owner_gets_objects_of_its_own_without_hashing_again(
    journal: InputJournal, objects: Objects, tmp_path: Path
) -> None:
    rows = [row(1, image=local(tmp_path / "1.png", picture(7)))]
    uris = set()
    for store in (CountingStore(objects), CountingStore(objects)):
        with InputFiles(journal, store) as files:
            uris.add(uri_of(files.resolve(rows)[0]))
        assert len(store.sent) == 1
    assert len(uris) == 2


def test_an_upload_that_was_broken_off_goes_on_where_it_stopped(
    servers: EmbeddedServers, store: CountingStore, journal: InputJournal, tmp_path: Path
) -> None:
    rows = [row(n, image=local(tmp_path / f"{n}.png", picture(n))) for n in range(1, 31)]
    with InputFiles(journal, store) as files:
        files.resolve(rows[:12])
        before = set(store.sent)
        servers.s3.kill()
        try:
            with pytest.raises(Unavailable, match="not available"):
                files.resolve(rows)
        finally:
            servers.s3.start()
        store.sent.clear()
        assert len({uri_of(r) for r in files.resolve(rows)}) == 30
    assert not before & set(store.sent), "what was there before is not sent again"
    assert 18 - WORKERS <= len(store.sent) <= 18, "nor what was on its way when the store went, and arrived after all"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"GIF89a" + b"\0" * 100, "is not a PNG, JPEG or WebP image"),
        (b"<html>404</html>", "is not a PNG, JPEG or WebP image"),
        (picture(1) + b"\0" * 2000, "is larger than the 1500 bytes allowed; make it smaller"),
    ],
)
@pytest.mark.parametrize("field", ["image", "mask_image"])
def test_a_file_that_cannot_be_an_input_makes_a_bad_row_and_harms_no_other(
    journal: InputJournal, store: CountingStore, tmp_path: Path, data: bytes, reason: str, field: str
) -> None:
    bad = ManifestRow(2, "line 2", {}, "b", {field: local(tmp_path / "b.png", data)})
    rows = [row(1, image=local(tmp_path / "a.png", picture(1))), bad, row(3, image=InlineContent(picture(3), "c"))]
    with InputFiles(journal, store, max_bytes=1500) as files:
        first, second, third = files.resolve(rows)
    uri_of(first)
    uri_of(third)
    assert isinstance(second, BadRow)
    assert (second.number, second.where, second.field, second.value, second.custom_id) == (
        2, "line 2", field, "b.png", "b",
    )  # fmt: skip
    assert reason in second.reason
    assert len(store.sent) == 2


def test_a_file_that_is_gone_or_a_folder_makes_a_bad_row(files: InputFiles, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    rows = [row(1, image=LocalFile(tmp_path / "gone.png", "gone.png"))]
    rows.append(row(2, image=LocalFile(tmp_path / "folder.png", "folder.png")))
    reasons = [r.reason for r in files.resolve(rows) if isinstance(r, BadRow)]
    assert reasons[0].startswith("does not exist")
    assert reasons[1].startswith("is a folder")


def test_bad_rows_pass_through_in_their_places(files: InputFiles) -> None:
    bad = BadRow(1, "line 1", "row", "", "is ragged")
    plain = ManifestRow(2, "line 2", {"image": "https://example.com/a.png"})
    assert files.resolve([bad, plain]) == [bad, plain]
    assert files.resolve([]) == []


@pytest.mark.parametrize("trouble", ["garbage", "folder", "unwritable"])
def test_a_journal_that_cannot_be_used_is_left_aside_with_a_warning(
    store: CountingStore, tmp_path: Path, trouble: str
) -> None:
    path = tmp_path / "inputs.sqlite"
    if trouble == "garbage":
        path.write_bytes(b"this is no database" * 1000)
    elif trouble == "folder":
        path.mkdir()
    else:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "inputs.sqlite"
    with capture_logs() as logs:
        journal = InputJournal(path)
        with InputFiles(journal, store) as files:
            rows = [row(n, image=local(tmp_path / f"{n}.png", picture(n))) for n in (1, 2)]
            assert files.resolve(rows) == files.resolve(rows)
    assert [line["event"] for line in logs] == ["input_journal_unusable"]
    assert "delete the journal" in logs[0]["advice"]
    assert len(store.sent) == 2, "the store itself still knows what it has"


def test_a_journal_that_breaks_while_it_is_used_is_left_aside(store: CountingStore, tmp_path: Path) -> None:
    path = tmp_path / "inputs.sqlite"
    journal = InputJournal(path)
    rows = [row(1, image=local(tmp_path / "1.png", picture(1)))]
    with InputFiles(journal, store) as files, capture_logs() as logs:
        first = files.resolve(rows)
        for file in tmp_path.glob("inputs.sqlite*"):
            file.write_bytes(b"broken" * 4096)
        assert files.resolve(rows) == first
    journal.close()
    assert len(logs) <= 1


def _submit(settings: Settings, folder: Path, journal: Path, owner: UUID) -> None:
    objects = Objects(settings)
    with InputFiles(InputJournal(journal), ObjectsStore(objects, owner), workers=2) as files:
        resolved = files.resolve([row(n, image=LocalFile(folder / f"{n}.png", str(n))) for n in range(1, 41)])
    objects.close()
    assert all(isinstance(r, ManifestRow) for r in resolved)


def test_several_processes_share_one_journal(servers: EmbeddedServers, store: CountingStore, tmp_path: Path) -> None:
    settings = settings_for(servers, "postgresql://nobody@127.0.0.1/none")
    rows = [row(n, image=local(tmp_path / f"{n}.png", picture(n))) for n in range(1, 41)]
    path = tmp_path / "inputs.sqlite"
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_submit, args=(settings, tmp_path, path, store.owner), daemon=True) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    journal = InputJournal(path)
    with InputFiles(journal, store) as files:
        files.resolve(rows)
    journal.close()
    assert not store.sent
    assert not store.asked


def test_the_key_is_the_one_that_everybody_computes(files: InputFiles, store: CountingStore) -> None:
    data = picture(200)
    uri = uri_of(files.resolve([row(1, image=InlineContent(data, "x"))])[0])
    expected = input_key(store.owner, hashlib.sha256(data).hexdigest(), "png")
    assert uri == store.objects.uri(expected)


def test_never_more_files_in_memory_than_workers(journal: InputJournal, objects: Objects) -> None:
    lock = threading.Lock()
    now, most = 0, 0

    class Watched(CountingStore):
        def put(self, key: str, data: Callable[[], BinaryIO], size: int, content_type: str, sha256: str) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            super().put(key, data, size, content_type, sha256)
            with lock:
                now -= 1

    with InputFiles(journal, Watched(objects), workers=3) as files:
        files.resolve([row(n, image=InlineContent(picture(n), str(n))) for n in range(1, 41)])
    assert 2 <= most <= 3
