"""Rows of a batch are judged and taken in once, however often and from how many sides they are sent."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select

from common import lifecycle
from common.contract import BatchState, InvalidRequest
from common.errors import Rejected
from common.lifecycle import NewBatch
from common.settings import Settings
from common.tables import batches, jobs
from producer.batches import Batch
from producer.doors.direct import DirectDoor
from producer.input_files import InputFiles
from producer.input_journal import InputJournal
from producer.intake import Taken
from producer.manifest import BadRow, ManifestError, ManifestRow
from producer.manifest.open import open_manifest
from producer.manifest.options import ManifestOptions
from producer.submission import Progress, submit

IMAGE = "https://example.com/a.png"


@pytest.fixture
def door(settings: Settings, database: Engine) -> Iterator[DirectDoor]:
    """A new owner's way to an empty database."""
    door = DirectDoor(settings, "ada")
    yield door
    door.close()


@pytest.fixture
def files(door: DirectDoor, tmp_path: Path) -> Iterator[InputFiles]:
    """Where rows' files would go; these tests bring none."""
    journal = InputJournal(tmp_path / "journal.sqlite")
    with InputFiles(journal, door.inputs) as files:
        yield files
    journal.close()


def row(number: int, custom_id: str | None = None, *, extra: dict[str, Any] | None = None, **body: Any) -> ManifestRow:
    """A good row, unless `body` says otherwise."""
    return ManifestRow(number, f"m.jsonl, line {number}", {"image": IMAGE, **body}, custom_id, extra=extra or {})


def send(door: DirectDoor, batch: Batch, rows: Sequence[ManifestRow | BadRow], upto: int | None = None) -> Taken:
    """Send rows as one chunk."""
    return door.send(batch, rows, upto=upto or rows[-1].number, digest="")


def stored(database: Engine, batch: Batch) -> list[tuple[int, str | None, dict[str, Any]]]:
    """What the batch has: number, custom_id and request of each row."""
    with database.begin() as connection:
        rows = connection.execute(
            select(jobs.c.row_no, jobs.c.custom_id, jobs.c.request)
            .where(jobs.c.batch_id == batch.id)
            .order_by(jobs.c.row_no)
        )
        return [(one.row_no, one.custom_id, one.request) for one in rows]


def rejects(door: DirectDoor, batch: Batch) -> list[tuple[int, str]]:
    """Number and field of each bad row."""
    return [(one.number, one.field) for one in door.rejects(batch)]


def test_a_row_says_more_than_the_batch_and_the_batch_more_than_the_contract(
    door: DirectDoor, database: Engine
) -> None:
    batch = door.start(NewBatch("b", {"prompt": "a fox", "num_inference_steps": 9}))
    send(door, batch, [row(1), row(2, prompt="a hen", size="512*512", seed=4)])
    (_, _, first), (_, _, second) = stored(database, batch)
    assert (first["prompt"], first["num_inference_steps"], first["size"]) == ("a fox", 9, "match")
    assert (second["prompt"], second["num_inference_steps"], second["size"], second["seed"]) == (
        "a hen",
        9,
        "512*512",
        4,
    )
    assert first["seed"] >= 0


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        (row(2, num_inference_steps=99), "num_inference_steps", "too large; allowed: an integer from 1 to 50"),
        (row(2, promt="x"), "promt", "did you mean prompt?"),
        (row(2, colour="x"), "colour", "is no field; allowed: one of"),
        (row(2, enable_sync_mode=True), "enable_sync_mode", "for single requests only"),
        (row(2, image="ftp://example.com/a.png"), "image", "must begin with https://"),
        (row(2, image="s3://elsewhere/a.png"), "image", "you may not read"),
        (row(2, image=None), "image", "is missing"),
        (row(2, prompt="half \ud800"), "prompt", "surrogate"),
        (row(2, "x" * 600), "custom_id", "1 to 512 characters"),
        (row(2, "nul \x00"), "custom_id", "NUL"),
        (row(2, "half \ud800"), "custom_id", "surrogate"),
        (row(2, extra={"caption": "x" * 70_000}), "row", "70015 characters as JSON; allowed: at most 65536"),
        (row(2, loras=[{"path": "a/b", "scale": 9}]), "loras[0].scale", "0 to 4"),
        (BadRow(2, "m.jsonl, line 2", "row", "", "is no JSON"), "row", "is no JSON"),
    ],
)
def test_a_bad_row_is_listed_with_its_field_and_the_others_go_in(
    door: DirectDoor, database: Engine, bad: ManifestRow | BadRow, field: str, words: str
) -> None:
    batch = door.start(NewBatch("b"))
    assert send(door, batch, [row(1), bad, row(3)]) == Taken(new=2, same=0, rejected=1, cursor=3)
    (reject,) = door.rejects(batch)
    assert (reject.number, reject.place, reject.field) == (2, "m.jsonl, line 2", field)
    assert words in reject.reason
    assert [number for number, _, _ in stored(database, batch)] == [1, 3]
    assert door.find("b").rejected == 1


def test_the_same_chunk_again_makes_nothing_twice_and_a_prompt_changed_meanwhile_is_an_error_that_names_the_row(
    door: DirectDoor, database: Engine
) -> None:
    batch = door.start(NewBatch("b"))
    chunk = [row(1), row(2, "two", extra={"sku": "7"}), row(3, seed=5)]
    assert send(door, batch, chunk).new == 3
    before = stored(database, batch)
    assert send(door, batch, chunk) == Taken(new=0, same=3, rejected=0, cursor=3)
    for changed in (row(1, prompt="x"), row(3, seed=6), row(2, "two", extra={"sku": "8"})):
        with pytest.raises(Rejected, match=f"row {changed.number} .*another name"):
            send(door, batch, [row(9), changed])
    assert stored(database, batch) == before


def test_a_custom_id_is_taken_once_in_a_chunk_and_over_chunks(door: DirectDoor, database: Engine) -> None:
    batch = door.start(NewBatch("b"))
    assert send(door, batch, [row(1, "a"), row(2, "b"), row(3, "a")]).rejected == 1
    assert send(door, batch, [row(4, "c"), row(5, "b", prompt="other")]).rejected == 1
    assert rejects(door, batch) == [(3, "custom_id"), (5, "custom_id")]
    assert send(door, batch, [row(1, "a"), row(2, "b"), row(3, "a")]) == Taken(new=0, same=2, rejected=1, cursor=5)
    assert send(door, batch, [row(4, "c"), row(5, "b", prompt="other")]).rejected == 1
    assert (rejects(door, batch), door.find("b").rejected) == ([(3, "custom_id"), (5, "custom_id")], 2)
    assert [custom_id for _, custom_id, _ in stored(database, batch)] == ["a", "b", "c"]


def test_a_row_that_was_mended_goes_in_later_and_is_no_bad_row_any_more(door: DirectDoor, database: Engine) -> None:
    batch = door.start(NewBatch("b"))
    send(door, batch, [row(1), row(2, promt="x"), row(3)])
    door.open(batch)
    assert send(door, batch, [row(1), row(2, prompt="x"), row(3)]) == Taken(new=1, same=2, rejected=0, cursor=3)
    assert (rejects(door, batch), door.find("b").rejected) == ([], 0)
    assert len(stored(database, batch)) == 3


def test_rows_with_ids_may_move_within_the_manifest(door: DirectDoor) -> None:
    batch = door.start(NewBatch("b"))
    send(door, batch, [row(1, "a"), row(2, "b"), row(3, "c")])
    assert send(door, batch, [row(1, "c"), row(2, "a"), row(3, "b")]).same == 3


def test_a_strict_batch_with_a_bad_row_runs_nothing_and_its_name_is_free_again(
    door: DirectDoor, database: Engine
) -> None:
    batch = door.start(NewBatch("b", strict=True))
    send(door, batch, [row(1), row(2)])
    send(door, batch, [row(3), row(4, promt="x")])
    send(door, batch, [row(5, promt="x"), row(6)])
    ended = door.open(batch)
    assert (ended.state, ended.rejected, ended.counts.total) == (BatchState.CANCELLED, 2, 0)
    assert ended.error is not None
    assert "2 bad rows" in ended.error
    assert (stored(database, batch), rejects(door, batch)) == ([], [(4, "promt"), (5, "promt")])
    again = door.start(NewBatch("b", strict=True))
    assert again.id != batch.id
    send(door, again, [row(1)])
    assert door.open(again).state is BatchState.OPEN


def test_one_name_is_one_batch_and_other_constants_under_it_are_an_error(door: DirectDoor) -> None:
    batch = door.start(NewBatch("b", {"prompt": "a fox"}))
    assert door.start(NewBatch("b", {"prompt": "a fox"})).id == batch.id
    with pytest.raises(Rejected, match="another prompt; give"):
        door.start(NewBatch("b", {"prompt": "a hen"}))
    with pytest.raises(Rejected, match="id of another batch"):
        door.start(NewBatch(batch.id.hex))


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (NewBatch(""), "name"),
        (NewBatch("a\nb"), "name"),
        (NewBatch("b", {"promt": "x"}), "did you mean prompt"),
        (NewBatch("b", {"num_images": 5}), "num_images: 5 is too large"),
        (NewBatch("b", priority=10), "priority"),
    ],
)
def test_a_batch_that_could_never_run_is_not_made(
    door: DirectDoor, database: Engine, new: NewBatch, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        door.start(new)
    with database.begin() as connection:
        assert connection.execute(select(func.count()).select_from(batches)).scalar_one() == 0


def test_many_sides_at_once_make_one_batch_and_each_row_once(door: DirectDoor, database: Engine) -> None:
    rows = [row(number, f"id-{number}" if number % 2 else None) for number in range(1, 301)]

    def side(_: int) -> UUID:
        batch = door.start(NewBatch("b"))
        for start in range(0, len(rows), 50):
            send(door, batch, rows[start : start + 50])
        return batch.id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(side, range(4)))) == 1
    batch = door.find("b")
    assert (len(stored(database, batch)), batch.counts.created, batch.cursor) == (300, 300, 300)


def test_rows_that_come_after_the_end_open_the_batch_again_unless_it_was_cancelled(
    door: DirectDoor, database: Engine
) -> None:
    batch = door.start(NewBatch("b"))
    door.open(batch)
    with database.begin() as connection:
        assert lifecycle.end_batches(connection) == [batch.id]
    send(door, batch, [row(1)])
    assert door.find("b").state is BatchState.OPEN
    door.cancel(batch)
    with pytest.raises(Rejected, match="was cancelled"):
        send(door, batch, [row(2)])


def manifest(folder: Path, lines: Sequence[str]) -> Path:
    """Write a JSONL manifest."""
    path = folder / "m.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def run(door: DirectDoor, path: Path, files: InputFiles, batch: Batch | None = None) -> tuple[Batch, Progress]:
    """Submit a manifest whole."""
    return submit(
        open_manifest(str(path), ManifestOptions()), door, batch or door.start(NewBatch("m")), files, chunk_rows=10
    )


def test_a_submission_that_broke_off_goes_on_behind_its_cursor_and_compares_nothing_twice(
    door: DirectDoor, files: InputFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f'{{"image": "{IMAGE}", "prompt": "{number}"}}' for number in range(1, 36)]
    with monkeypatch.context() as killed:
        killed.setattr(door, "open", lambda batch: batch)  # before it could say that all is sent
        run(door, manifest(tmp_path, lines[:20]), files)
    batch = door.find("m")
    assert (batch.state, batch.cursor) == (BatchState.RECEIVING, 20)
    ended, progress = run(door, manifest(tmp_path, lines), files, batch)
    assert (progress.new, progress.same) == (15, 0)
    assert (ended.state, ended.counts.created, ended.cursor) == (BatchState.OPEN, 35, 35)
    assert run(door, manifest(tmp_path, lines), files)[1] == Progress(rows=35, new=0, same=35, rejected=0)


def test_a_submission_goes_on_with_everything_where_the_beginning_is_not_what_it_was(
    door: DirectDoor, files: InputFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f'{{"image": "{IMAGE}", "prompt": "{number}"}}' for number in range(1, 6)]
    batch = door.start(NewBatch("m"))
    door.send(batch, [row(number, prompt=str(number)) for number in range(1, 4)], upto=3, digest="of another reader")
    ended, progress = run(door, manifest(tmp_path, lines), files, door.find("m"))
    assert (progress.new, progress.same, ended.counts.created) == (2, 3, 5)
    changed = manifest(tmp_path, [lines[0].replace("1", "one"), *lines[1:]])
    with pytest.raises(Rejected, match="row 1 says something else"):
        run(door, changed, files)


def test_a_manifest_that_ends_in_the_middle_leaves_its_batch_to_go_on_with(
    door: DirectDoor, files: InputFiles, tmp_path: Path
) -> None:
    whole = gzip.compress("".join(f'{{"image": "{IMAGE}", "seed": {n}}}\n' for n in range(5000)).encode())
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match="ends too early"):
        run(door, path, files)
    assert door.find("m").state is BatchState.RECEIVING
    path.write_bytes(whole)
    ended, _ = run(door, path, files)
    assert (ended.state, ended.counts.created) == (BatchState.OPEN, 5000)
