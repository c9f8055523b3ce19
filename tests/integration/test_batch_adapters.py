"""All rows of a batch get the same LoRA files, whichever worker fills them and whatever becomes of their sources."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import event

from common import lifecycle
from common.contract import MODEL, FillRequest, Queue, parse_request
from common.errors import Rejected
from common.fetch import Fetcher
from common.ids import new_id
from common.lifecycle import AdapterPin
from tests.support.life import Life, new_row
from tests.support.lora_site import COMMIT, Site, running_site, sha256_of
from worker.batch_pins import REMEMBERED_BATCHES, BatchPins
from worker.inputs import InputReader
from worker.lease import Lease
from worker.loras.hub import LoraHub
from worker.loras.source import LoraSource
from worker.work import Adapter

NEWER = "f" * 40
HUB_ID = "org/style"
STYLE = {"a.safetensors": b"old"}


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as site:
        picture = io.BytesIO()
        Image.new("RGB", (256, 256)).save(picture, "png")
        site.files["/image.png"] = picture.getvalue()
        site.repos[HUB_ID] = STYLE
        yield site


class Rows:
    """Jobs of batches that name LoRAs on the site."""

    def __init__(self, life: Life, site: Site) -> None:
        self._life = life
        self._site = site

    def batch(self, path: str, rows: int = 4) -> list[UUID]:
        """Open a batch of rows with this LoRA; return their jobs."""
        return self._life.rows_of(self.open(path, rows))

    def open(self, path: str, rows: int = 4) -> UUID:
        """Open a batch of rows with this LoRA."""
        request = self._request(path)
        return self._life.open([new_row(number, request=request, adapters="x") for number in range(1, rows + 1)])

    def single(self, path: str) -> UUID:
        """Make a job without a batch."""
        return self._life.do(
            lifecycle.create, self._life.owner, self._request(path), queue=Queue.INTERACTIVE, model=MODEL
        )

    def _request(self, path: str) -> FillRequest:
        body = {"image": f"{self._site.url}/image.png", "size": "512*256", "loras": [{"path": path, "scale": 0.5}]}
        return parse_request(body).with_seed()


@pytest.fixture
def rows(life: Life, site: Site) -> Rows:
    return Rows(life, site)


class Reader:
    """The part of a worker that reads inputs, with a disk of its own. `before_pin` runs once, before it pins."""

    def __init__(self, life: Life, site: Site, folder: Path) -> None:
        settings = life.settings.model_copy(update={"fetch_allow_hosts": (site.host,), "lora_cache_folder": folder})
        fetcher = Fetcher(settings)
        self._life = life
        self.before_pin: Callable[[], object] | None = None
        self.loras = LoraSource(settings, fetcher, None, hub=LoraHub(settings, endpoint=site.url))
        unused: Any = None  # the object store: all inputs come from the site
        pins = BatchPins(life.engine)
        self._reader = InputReader(settings, fetcher, unused, self.loras, self._check, lambda _: None, pins)

    def adapter(self, job: UUID) -> Adapter:
        """Claim a job and read its inputs; return its only LoRA."""
        claim = self._life.claim(job)
        assert claim is not None
        inputs = self._reader.read(claim, Lease(claim.job, claim.attempt, lambda: None))
        (adapter,) = inputs.adapters
        assert inputs.pins["loras[0].path"] == adapter.sha256
        return adapter

    def refusal(self, job: UUID) -> Rejected:
        """Return how the reading fails."""
        with pytest.raises(Rejected) as caught:
            self.adapter(job)
        return caught.value

    def _check(self, _path: Path, _what: str) -> None:
        meanwhile, self.before_pin = self.before_pin, None
        if meanwhile is not None:
            meanwhile()


@pytest.fixture
def readers(life: Life, site: Site, tmp_path: Path) -> list[Reader]:
    """Two workers on two hosts."""
    return [Reader(life, site, tmp_path / name) for name in ("one", "two")]


@contextmanager
def counted(life: Life) -> Iterator[list[str]]:
    """Collect the statements that ask for pins."""
    asked: list[str] = []

    def saw(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "batch_adapters" in statement:
            asked.append(statement)

    event.listen(life.engine, "before_cursor_execute", saw)
    yield asked
    event.remove(life.engine, "before_cursor_execute", saw)


def test_a_hub_lora_stays_at_the_commit_that_the_batch_began_with(
    readers: list[Reader], rows: Rows, site: Site
) -> None:
    one, two = readers
    jobs = rows.batch(HUB_ID)
    first = one.adapter(jobs[0])
    site.push(HUB_ID, {"b.safetensors": b"new"}, NEWER)

    assert (first.sha256, first.revision) == (sha256_of(b"old"), COMMIT)
    for reader, job in ((two, jobs[1]), (one, jobs[2]), (two, jobs[3])):
        adapter = reader.adapter(job)
        assert (adapter.path.read_bytes(), adapter.revision) == (b"old", COMMIT)
    later = two.adapter(rows.batch(HUB_ID)[0])
    assert (later.path.read_bytes(), later.revision) == (b"new", NEWER)


def test_a_file_that_is_replaced_behind_its_url_fails_the_rest_of_the_batch_and_says_so(
    readers: list[Reader], rows: Rows, site: Site
) -> None:
    one, two = readers
    site.files["/style"], url = b"old", f"{site.url}/style"
    jobs = rows.batch(url)
    one.adapter(jobs[0])
    site.files["/style"] = b"new"

    error = two.refusal(jobs[1])
    assert error.code == "lora_changed"
    assert error.message == (
        f'loras[0].path: the file at "{url}" is another one than the batch began with; submit the rest as a new batch'
    )
    assert one.adapter(jobs[2]).sha256 == sha256_of(b"old"), "who has the file needs no other"
    assert two.adapter(rows.batch(url)[0]).sha256 == sha256_of(b"new")


def test_of_two_workers_that_find_different_commits_the_second_to_pin_takes_the_firsts(
    readers: list[Reader], rows: Rows, site: Site
) -> None:
    one, two = readers
    jobs = rows.batch(HUB_ID)
    one.loras.resolve(HUB_ID, owner=None, what="x")  # it remembers this for some minutes
    site.push(HUB_ID, {"a.safetensors": b"new"}, NEWER)
    two.before_pin = lambda: one.adapter(jobs[0])

    adapter = two.adapter(jobs[1])

    assert (adapter.path.read_bytes(), adapter.revision) == (b"old", COMMIT)


def test_of_two_workers_that_get_different_files_from_a_url_the_second_to_pin_fails_its_row(
    readers: list[Reader], rows: Rows, site: Site
) -> None:
    one, two = readers
    site.files["/style"], url = b"old", f"{site.url}/style"
    jobs = rows.batch(url)
    one.loras.resolve(url, owner=None, what="x")
    site.files["/style"] = b"new"
    two.before_pin = lambda: one.adapter(jobs[0])

    assert two.refusal(jobs[1]).code == "lora_changed"


def test_a_commit_that_leaves_the_file_alone_is_recorded_as_the_one_that_was_pinned(
    readers: list[Reader], rows: Rows, site: Site
) -> None:
    one, two = readers
    jobs = rows.batch(HUB_ID)
    one.loras.resolve(HUB_ID, owner=None, what="x")
    site.push(HUB_ID, STYLE | {"README.md": b"words"}, NEWER)
    two.before_pin = lambda: one.adapter(jobs[0])

    assert two.adapter(jobs[1]).revision == COMMIT


def test_the_jobs_of_a_batch_ask_for_its_pins_once_and_fetch_the_file_once(
    readers: list[Reader], rows: Rows, site: Site, life: Life
) -> None:
    one, _ = readers
    jobs = rows.batch(HUB_ID, 20)
    with counted(life) as asked:
        one.adapter(jobs[0])
        first = len(asked)
        for job in jobs[1:]:
            one.adapter(job)
    assert len(asked) == first
    assert site.count(f"/{HUB_ID}/resolve/{COMMIT}/a.safetensors") == site.count(f"/api/models/{HUB_ID}") == 1


def test_a_worker_remembers_only_the_latest_batches(life: Life, rows: Rows) -> None:
    pins, batch = BatchPins(life.engine), rows.open(HUB_ID, 1)
    pin = AdapterPin("ab" * 32, COMMIT)
    assert pins.set(batch, HUB_ID, pin) == pin
    assert pins.set(batch, HUB_ID, AdapterPin("cd" * 32)) == pin, "the first writer wins"
    for _ in range(REMEMBERED_BATCHES - 1):
        pins.find(new_id(), HUB_ID)
    with counted(life) as asked:
        assert pins.find(batch, HUB_ID) == pin
        assert asked == []
        for _ in range(REMEMBERED_BATCHES):
            pins.find(new_id(), HUB_ID)
        before = len(asked)
        assert pins.find(batch, HUB_ID) == pin
        assert len(asked) == before + 1


def test_a_job_without_a_batch_pins_for_itself_alone(readers: list[Reader], rows: Rows, site: Site, life: Life) -> None:
    one, two = readers
    jobs = [rows.single(HUB_ID) for _ in range(2)]
    assert one.adapter(jobs[0]).revision == COMMIT
    site.push(HUB_ID, {"a.safetensors": b"new"}, NEWER)
    assert two.adapter(jobs[1]).revision == NEWER
    assert life.do(lifecycle.adapter_pins, rows.open(HUB_ID)) == {}
