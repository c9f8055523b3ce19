"""The results of a batch from real rows: read in order for their owner, submitted again, and saved with outputs."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from sqlalchemy import update
from webdataset.tariterators import group_by_keys, tar_file_expander

from common import lifecycle
from common.contract import Status
from common.errors import FillfleetError, Rejected, Transient, Unavailable
from common.lifecycle import NewBatch
from common.objects import Objects, output_key
from common.result import JobResult, Output, Timings
from common.settings import Settings
from common.tables import batches, jobs
from producer.intake import Intake
from producer.manifest import ManifestRow
from producer.manifest.open import open_manifest
from producer.manifest.options import ManifestOptions
from producer.results import outputs
from producer.results.columns import Row
from producer.results.ndjson import read_ndjson
from producer.results.outputs import BucketOutputs
from producer.results.parquet import write_parquet
from producer.results.read import ANY, Position, RowFilter, read_jobs
from producer.results.resubmit import write_resubmit
from producer.results.row import flatten
from producer.results.save import Saved, save_folder, save_tar
from tests.support.life import Life

FAILED = RowFilter(statuses=frozenset({Status.FAILED}))


class Results:
    """One batch of one owner, whose jobs a test leads to their ends."""

    def __init__(self, life: Life, objects: Objects) -> None:
        self.life = life
        self.objects = objects
        self.owner = life.owner
        self.batch = self.submit("first", [row(number) for number in range(1, 11)])
        self._jobs: dict[int, UUID] = {job["row_no"]: job["id"] for job in self.read()}

    def submit(self, name: str, rows: Sequence[ManifestRow]) -> UUID:
        """Take the rows in as an open batch."""
        intake = Intake(self.life.settings, self.objects, self.owner)
        with self.life.engine.begin() as connection:
            batch = intake.start(connection, NewBatch(name=name))
            taken = intake.take(connection, batch, rows, upto=len(rows))
            assert (taken.new, taken.rejected) == (len(rows), 0)
            lifecycle.open_batch(connection, self.owner, batch.id)
        return batch.id

    def read(self, wanted: RowFilter = ANY, **more: Any) -> list[Any]:
        """Return the batch's jobs."""
        return list(read_jobs(self.life.engine, self.owner, self.batch, wanted, **more))

    def rows(self) -> list[Row]:
        """Return the batch's table."""
        return [flatten(job, bucket=self.objects.bucket) for job in self.read()]

    def job(self, number: int) -> UUID:
        """Return the job of a row."""
        return self._jobs[number]

    def complete(self, number: int, count: int = 1) -> list[str]:
        """Complete a row with outputs that really are in the bucket; return their keys."""
        claim = self.life.claim(self.job(number))
        assert claim is not None
        stored = [(output_key(self.owner, claim.job, 1, n, "png"), picture(number, n)) for n in range(count)]
        for key, data in stored:
            self.objects.put(key, data, "image/png")
        result = JobResult(
            outputs=tuple(
                Output(
                    key=key,
                    sha256=hashlib.sha256(data).hexdigest(),
                    bytes=len(data),
                    format="png",
                    width=64,
                    height=64,
                    seed=claim.request.seed + n,
                    nsfw=None,
                )
                for n, (key, data) in enumerate(stored)
            ),
            timings=Timings(queue=1, fetch=1, wait=1, inference=1, upload=1),
            model_version={"model": "demo"},
            worker="w1",
            mask_coverage=0.5,
            inputs={"image": "a" * 64},
        )
        self.life.do(lifecycle.complete, claim.job, claim.attempt, result.model_dump(mode="json"))
        return [key for key, _ in stored]

    def fail(self, number: int, code: str = "image_truncated") -> None:
        """Fail a row for good."""
        claim = self.life.claim(self.job(number))
        assert claim is not None
        self.life.do(lifecycle.fail, claim.job, claim.attempt, Rejected(code, "image: the file ends too early"))


class Trouble:
    """The bucket as it is behind a bad line: what `before` raises comes first, so many times."""

    def __init__(self, objects: Objects, *errors: FillfleetError) -> None:
        self._store = BucketOutputs(objects)
        self._errors = list(errors)
        self.uris: list[str] = []

    def fetch(self, uri: str, *, max_bytes: int) -> bytes:
        """See OutputStore."""
        self.uris.append(uri)
        if self._errors:
            raise self._errors.pop(0)
        return self._store.fetch(uri, max_bytes=max_bytes)


def row(number: int) -> ManifestRow:
    """A row of a manifest; each third without an id."""
    body = {"image": f"https://example.com/{number}.png", "prompt": "=a fox", "num_images": 1 + number % 2}
    custom_id = None if number % 3 == 0 else f"shop/item {number}"
    return ManifestRow(number, f"m.csv, line {number + 1}", body, custom_id, extra={"sku": f"{number:04d}", "row": "x"})


def picture(number: int, n: int) -> bytes:
    """The bytes of an output."""
    return f"picture {number}-{n}".encode() * 100


@pytest.fixture(scope="module")
def objects(module_settings: Settings) -> Iterator[Objects]:
    """The bucket."""
    bucket = Objects(module_settings)
    bucket.ensure_bucket()
    yield bucket
    bucket.close()


@pytest.fixture(scope="module")
def module_settings(module_life: Life) -> Settings:
    """The settings of this file's database and bucket."""
    return module_life.settings


@pytest.fixture
def results(life: Life, objects: Objects) -> Results:
    """Ten rows: 1 and 2 completed, 3 and 4 failed, 5 running, the others wait."""
    made = Results(life, objects)
    made.complete(1, 2)
    made.complete(2)
    made.fail(3)
    made.fail(4, "image_too_large")
    assert life.claim(made.job(5)) is not None
    return made


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_PAUSES_SECONDS", (0.0, 0.0))


def test_rows_come_in_the_manifests_order_each_once(results: Results) -> None:
    for page_rows in (1, 3, 5, 10, 11, 1000):
        assert [job["row_no"] for job in results.read(page_rows=page_rows)] == list(range(1, 11))


def test_reading_goes_on_behind_any_row(results: Results) -> None:
    for job in results.read():
        rest = results.read(after=Position(job["row_no"], job["id"]), page_rows=2)
        assert [one["row_no"] for one in rest] == list(range(job["row_no"] + 1, 11))
    assert results.read(after=Position(10**15, UUID(int=0))) == []


def test_rows_are_chosen_by_status_and_by_cause(results: Results) -> None:
    def numbers(wanted: RowFilter) -> list[int]:
        found = [[job["row_no"] for job in results.read(wanted, page_rows=size)] for size in (1, 3, 1000)]
        assert found[0] == found[1] == found[2]
        return found[0]

    assert numbers(FAILED) == [3, 4]
    assert numbers(RowFilter(statuses=frozenset({Status.COMPLETED, Status.PROCESSING}))) == [1, 2, 5]
    assert numbers(RowFilter(error_codes=frozenset({"image_too_large"}))) == [4]
    assert numbers(RowFilter(statuses=frozenset({Status.COMPLETED}), error_codes=frozenset({"image_too_large"}))) == []
    assert numbers(RowFilter(statuses=frozenset())) == []


def test_nobody_reads_another_owners_rows_nor_deleted_ones(results: Results) -> None:
    stranger = results.life.new_owner()
    assert list(read_jobs(results.life.engine, stranger, results.batch)) == []
    other = results.submit("second", [row(1)])
    assert len(list(read_jobs(results.life.engine, results.owner, other))) == 1
    results.life.do(lifecycle.delete, results.owner, [results.job(1), results.job(7)])
    assert [job["row_no"] for job in results.read(page_rows=2)] == [2, 3, 4, 5, 6, 8, 9, 10]


def test_no_transaction_is_open_while_the_reader_takes_its_time(results: Results) -> None:
    reading = read_jobs(results.life.engine, results.owner, results.batch, page_rows=3)
    assert [job["row_no"] for job in islice(reading, 2)] == [1, 2]
    assert results.life.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    results.complete(6)
    assert [(job["row_no"], job["status"]) for job in reading][3] == (6, "completed")


def test_a_result_that_nobody_can_read_any_more_stops_no_row(results: Results) -> None:
    with results.life.engine.begin() as connection:
        strange = {"outputs": "many", "timings": 3, "worker": ["w"]}
        connection.execute(update(jobs).where(jobs.c.id == results.job(1)).values(result=strange))
        connection.execute(update(jobs).where(jobs.c.id == results.job(6)).values(request=[1, 2], extra=[3]))
    rows = results.rows()
    assert [one["row"] for one in rows] == list(range(1, 11))
    assert rows[0]["outputs"] is None
    assert rows[0]["prompt"] == "=a fox"
    assert rows[5]["image"] is None
    assert b"".join(write_parquet(rows, ["sku"]))


def test_the_table_is_that_of_the_batch(results: Results, tmp_path: Path) -> None:
    with results.life.engine.begin() as connection:
        names = connection.execute(batches.select().where(batches.c.id == results.batch)).one().extra_columns
    target = tmp_path / "t.parquet"
    target.write_bytes(b"".join(write_parquet(results.rows(), names)))
    read = pq.read_table(target).to_pylist()
    assert [(one["row"], one["sku"], one["extra_row"]) for one in read] == [(n, f"{n:04d}", "x") for n in range(1, 11)]
    assert [len(one["outputs"] or ()) for one in read] == [2, 1] + [0] * 8
    assert [one["error_code"] for one in read[2:5]] == ["image_truncated", "image_too_large", None]
    assert all(one["batch_id"] == results.batch.hex for one in read)


def test_failures_can_be_submitted_as_they_are_and_ask_for_the_same(results: Results, tmp_path: Path) -> None:
    target = tmp_path / "failed.jsonl"
    failed = [flatten(job, bucket=results.objects.bucket) for job in results.read(FAILED)]
    target.write_bytes(b"".join(write_resubmit(failed)))
    rows = [one for one in open_manifest(str(target), ManifestOptions()).rows() if isinstance(one, ManifestRow)]
    again = results.submit("again", rows)
    second = list(read_jobs(results.life.engine, results.owner, again))
    assert [job["request"] for job in second] == [job["request"] for job in results.read(FAILED)]
    assert [job["custom_id"] for job in second] == ["row-3", "shop/item 4"]
    assert [job["extra"] for job in second] == [{"sku": "0003", "row": "x"}, {"sku": "0004", "row": "x"}]


def test_a_folder_gets_each_output_and_the_table_beside_them(results: Results, tmp_path: Path) -> None:
    store = BucketOutputs(results.objects)
    seen: list[Saved] = []
    saved = save_folder(results.rows(), store, tmp_path / "out", extra_columns=["sku", "row"], progress=seen.append)
    assert saved == Saved(rows=10, fetched=3)
    assert saved.complete
    assert [one.rows for one in seen] == list(range(1, 11))
    found = {str(file.relative_to(tmp_path / "out")): file for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert set(found) == {
        "shop/item 1-0.png", "shop/item 1-1.png", "shop/item 2.png", "results.jsonl", "results.parquet",
    }  # fmt: skip
    assert found["shop/item 1-1.png"].read_bytes() == picture(1, 1)
    rows = list(read_ndjson(found["results.jsonl"].read_bytes().splitlines()))
    assert rows[0]["files"] == ["shop/item 1-0.png", "shop/item 1-1.png"]
    assert rows[0]["file_errors"] == [None, None]
    assert rows[2]["files"] is None
    table = pq.read_table(found["results.parquet"]).to_pylist()
    assert [one["files"] for one in table] == [one["files"] for one in rows]
    assert [one["created_at"] for one in table] == [one["created_at"] for one in results.rows()]
    assert table[0]["extra_row"] == "x"


def test_a_later_run_fetches_only_what_is_new_or_damaged(results: Results, tmp_path: Path) -> None:
    save_folder(results.rows(), BucketOutputs(results.objects), tmp_path)
    (tmp_path / "shop/item 1-0.png").write_bytes(b"x" * len(picture(1, 0)))
    (tmp_path / "shop/item 2.png").write_bytes(picture(2, 0)[:-1])
    results.complete(9)
    store = Trouble(results.objects)
    assert save_folder(results.rows(), store, tmp_path) == Saved(rows=10, fetched=3, kept=1)
    assert sorted(uri.rpartition("/")[2] for uri in store.uris) == ["1-0.png"] * 3
    assert (tmp_path / "shop/item 1-0.png").read_bytes() == picture(1, 0)
    assert (tmp_path / "shop/item 2.png").read_bytes() == picture(2, 0)
    assert (tmp_path / "row-00000009.png").read_bytes() == picture(9, 0)


def test_an_output_that_is_gone_is_noted_and_the_others_come(results: Results, tmp_path: Path) -> None:
    results.objects.delete([results.rows()[0]["outputs"][1].removeprefix(results.objects.uri(""))])
    saved = save_folder(results.rows(), BucketOutputs(results.objects), tmp_path)
    assert saved == Saved(rows=10, fetched=2, missing=1)
    assert not saved.complete
    first = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert first["files"] == ["shop/item 1-0.png", None]
    assert first["file_errors"][0] is None
    assert first["file_errors"][1].startswith("object_not_found: ")


def test_an_output_that_is_not_what_was_stored_is_never_saved(results: Results, tmp_path: Path) -> None:
    key = results.rows()[1]["outputs"][0].removeprefix(results.objects.uri(""))
    results.objects.put(key, b"x" * len(picture(2, 0)), "image/png")
    saved = save_folder(results.rows(), BucketOutputs(results.objects), tmp_path)
    assert saved == Saved(rows=10, fetched=2, failed=1)
    assert not (tmp_path / "shop/item 2.png").exists()


def test_trouble_that_passes_is_waited_out_and_what_does_not_is_noted(results: Results, tmp_path: Path) -> None:
    refused, away = Transient("storage_refused", "refused"), Unavailable("storage_unavailable", "away")
    store = Trouble(results.objects, refused, away)
    assert save_folder(results.rows(), store, tmp_path / "a", threads=1) == Saved(rows=10, fetched=3)
    assert len(store.uris) == 5
    stubborn = Trouble(results.objects, refused, away, refused)
    assert save_folder(results.rows(), stubborn, tmp_path / "b", threads=1) == Saved(rows=10, fetched=2, failed=1)


def test_a_store_that_stays_away_ends_the_run_and_a_later_one_completes_it(results: Results, tmp_path: Path) -> None:
    away = Unavailable("storage_unavailable", "the object store is not available; try again later")

    class FirstOnly(Trouble):
        def fetch(self, uri: str, *, max_bytes: int) -> bytes:
            if self.uris:
                raise away
            return super().fetch(uri, max_bytes=max_bytes)

    with pytest.raises(Unavailable):
        save_folder(results.rows(), FirstOnly(results.objects), tmp_path, threads=1)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["item 1-0.png"]
    assert save_folder(results.rows(), BucketOutputs(results.objects), tmp_path) == Saved(rows=10, fetched=2, kept=1)


def test_a_folder_that_cannot_be_written_to_is_named(results: Results, tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("a file where a folder should be")
    with pytest.raises(FillfleetError, match=r"shop: .* run again"):
        save_folder(results.rows(), BucketOutputs(results.objects), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FillfleetError, match="run again"):
        save_tar(results.rows(), BucketOutputs(results.objects), tmp_path / "file" / "out.tar")


def test_rows_that_break_off_leave_no_table(results: Results, tmp_path: Path) -> None:
    def rows() -> Iterator[Row]:
        yield from results.rows()[:2]
        raise ConnectionResetError("the line went dead")

    with pytest.raises(ConnectionResetError):
        save_folder(rows(), BucketOutputs(results.objects), tmp_path)
    with pytest.raises(ConnectionResetError):
        save_tar(rows(), BucketOutputs(results.objects), tmp_path / "out.tar")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.tar.partial", "shop"]


def test_a_tar_is_a_webdataset(results: Results, tmp_path: Path) -> None:
    results.objects.delete([results.rows()[1]["outputs"][0].removeprefix(results.objects.uri(""))])
    results.complete(6)
    (tmp_path / "out.tar.partial").write_bytes(b"of a run that was killed")
    target = tmp_path / "out.tar"
    saved = save_tar(results.rows(), BucketOutputs(results.objects), target, extra_columns=["sku"])
    assert saved == Saved(rows=10, fetched=3, missing=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "out.results.jsonl", "out.results.parquet", "out.tar",
    ]  # fmt: skip
    with target.open("rb") as file:  # a WebDataset would leave it open
        samples = list(group_by_keys(tar_file_expander([{"url": "out.tar", "stream": file}])))
    assert [sample["__key__"] for sample in samples] == ["shop/item 1", "row-00000006"]
    assert samples[0]["image-1.png"] == picture(1, 1)
    assert json.loads(samples[0]["json"])["prompt"] == "=a fox"
    with tarfile.open(target) as tar:
        assert tar.getnames() == [
            "shop/item 1.image-0.png", "shop/item 1.image-1.png", "shop/item 1.json",
            "row-00000006.image.png", "row-00000006.json",
        ]  # fmt: skip
    table = pq.read_table(tmp_path / "out.results.parquet").to_pylist()
    assert table[0]["files"] == ["shop/item 1.image-0.png", "shop/item 1.image-1.png"]
    assert table[1]["file_errors"][0].startswith("object_not_found: ")
    assert [one["sku"] for one in table] == [f"{number:04d}" for number in range(1, 11)]
