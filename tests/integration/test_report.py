"""A report of a real batch: its rows from the database, its pictures from the bucket, words for what is not there."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image, ImageDraw

from common import lifecycle
from common.errors import Rejected
from common.lifecycle import NewBatch
from common.objects import Objects, input_key, output_key
from common.result import JobResult, Output, Timings, UsedLora
from producer.batches import Batch
from producer.doors.direct import DirectDoor
from producer.manifest import BadRow, ManifestRow
from producer.report import Progress, write_report
from producer.results import outputs
from tests.support.life import Life

SIZE = (320, 240)
RED, GREEN, BLUE = (200, 30, 30), (30, 160, 60), (30, 60, 200)
LORA = "https://loras.example.com/yarn.safetensors?token=s3cret"


def png(picture: Image.Image) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def plain(colour: tuple[int, int, int]) -> bytes:
    """A picture of one colour."""
    return png(Image.new("RGB", SIZE, colour))


class Reported:
    """A batch whose rows a test leads to their ends, and its report."""

    def __init__(self, life: Life, door: DirectDoor, objects: Objects) -> None:
        self.life, self.door, self.objects = life, door, objects
        self.before = self.store(plain(RED))
        mask = Image.new("L", SIZE)
        ImageDraw.Draw(mask).rectangle((80, 60, 240, 180), fill=255)
        self.mask = self.store(png(mask))
        self.batch: Batch | None = None
        self.jobs: dict[int, UUID] = {}

    def store(self, data: bytes) -> str:
        """Store an input of the owner and return its URI."""
        key = input_key(self.life.owner, hashlib.sha256(data).hexdigest(), "png")
        self.objects.put(key, data, "image/png")
        return self.objects.uri(key)

    def submit(self, *bodies: Mapping[str, object] | None) -> None:
        """Make a batch of these rows; None is a bad one."""
        rows: list[ManifestRow | BadRow] = [
            BadRow(n, f"m.csv, line {n + 1}", "size", "1*1", "is too small")
            if body is None
            else ManifestRow(
                n, f"m.csv, line {n + 1}", {"prompt": f"fox {n}", **body}, f"item {n}", extra={"sku": "A1"}
            )
            for n, body in enumerate(bodies, 1)
        ]
        batch = self.door.start(NewBatch(name="autumn"))
        self.door.send(batch, rows, upto=len(rows), digest="")
        self.batch = self.door.open(batch)
        self.jobs = {row["row"]: UUID(row["job_id"]) for row in self.door.rows(self.batch)}

    def complete(
        self, number: int, *, colour: tuple[int, int, int] = GREEN, flagged: bool = False, torch: str = "2"
    ) -> str:
        """Complete a row with an output in the bucket; return its key."""
        claim = self.life.claim(self.jobs[number])
        assert claim is not None
        assert self.batch is not None
        data, key = plain(colour), output_key(self.life.owner, claim.job, 1, 0, "png", self.batch.id)
        self.objects.put(key, data, "image/png")
        sha256 = hashlib.sha256(data).hexdigest()
        output = Output(
            key=key, sha256=sha256, bytes=len(data), format="png", width=320, height=240, seed=7, nsfw=flagged
        )
        result = JobResult(
            outputs=(output,),
            timings=Timings(queue=10, fetch=20, wait=30, inference=1500, upload=40),
            model_version={"model": "demo", "torch": torch},
            worker="w1",
            mask_coverage=0.25,
            max_difference_outside_mask=0,
            inputs={},
            loras=(UsedLora(path=LORA, sha256="5" * 64, scale=0.5),) if claim.request.loras else (),
        )
        self.life.do(lifecycle.complete, claim.job, claim.attempt, result.model_dump(mode="json"))
        return key

    def fail(self, number: int, code: str, message: str) -> None:
        """Fail a row for good."""
        claim = self.life.claim(self.jobs[number])
        assert claim is not None
        self.life.do(lifecycle.fail, claim.job, claim.attempt, Rejected(code, message))

    def report(self, target: Path, *, sample: int = 200) -> str:
        """Write the report as it is now, and return it."""
        assert self.batch is not None
        write_report(self.door, self.door.find(self.batch.id.hex), target, sample=sample)
        return target.read_text(encoding="utf-8")


def card(page: str, number: int) -> str:
    """The part of the page about a row."""
    found = re.search(f'<article class="row" id="row-{number}".*?</article>', page, re.DOTALL)
    assert found is not None
    return found[0]


def pictures(card: str) -> list[Image.Image]:
    """The pictures in a part of the page."""
    found = re.findall(r'src="data:image/webp;base64,([^"]*)"', card)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def near(picture: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    """Whether a pixel has a colour, but for what the compression changes."""
    found = picture.getpixel(place)
    assert isinstance(found, tuple)
    return all(abs(one - other) < 12 for one, other in zip(found, colour, strict=True))


@pytest.fixture(scope="module")
def bucket(module_life: Life) -> Iterator[Objects]:
    """The bucket."""
    objects = Objects(module_life.settings)
    objects.ensure_bucket()
    yield objects
    objects.close()


@pytest.fixture
def reported(life: Life, bucket: Objects) -> Iterator[Reported]:
    """No batch yet."""
    door = DirectDoor(life.settings, life.owner)
    yield Reported(life, door, bucket)
    door.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_PAUSES_SECONDS", (0.0, 0.0))


def test_a_row_is_shown_as_before_mask_and_after(reported: Reported, tmp_path: Path) -> None:
    reported.submit({"image": reported.before, "mask_image": reported.mask})
    reported.complete(1)
    found = card(reported.report(tmp_path / "r.html"), 1)
    before, mask, after = pictures(found)
    assert before.size == mask.size == after.size == (256, 192)
    assert near(before, (128, 96), RED)
    assert near(after, (128, 96), GREEN)
    assert near(mask, (128, 96), (255, 255, 255))
    assert near(mask, (10, 10), (0, 0, 0))
    for words in ("fox 1", "item 1", "after, seed 7", "exactly as before", "25 % of the canvas", "1.5 s", "A1"):
        assert words in found


def test_transparent_parts_of_an_image_are_shown_as_its_mask(reported: Reported, tmp_path: Path) -> None:
    hole = Image.new("RGBA", SIZE, (*BLUE, 255))
    ImageDraw.Draw(hole).rectangle((0, 0, 160, 240), fill=(0, 0, 0, 0))
    reported.submit({"image": reported.store(png(hole))}, {"image": reported.before})
    page = reported.report(tmp_path / "r.html")
    before, mask = pictures(card(page, 1))
    assert near(before, (220, 96), BLUE)
    assert near(mask, (20, 96), (255, 255, 255))
    assert near(mask, (220, 96), (0, 0, 0))
    assert len(pictures(card(page, 2))) == 1
    assert "none: bars around the image are filled" in card(page, 2)


def test_what_is_gone_or_broken_or_flagged_or_elsewhere_is_said_in_words(reported: Reported, tmp_path: Path) -> None:
    broken = reported.store(plain(BLUE)[:-40])
    http = "https://cdn.example.com/a/photo.jpg?Signature=s3cret"
    reported.submit(
        {"image": broken, "mask_image": reported.mask},
        {"image": reported.before, "mask_image": reported.mask},
        {"image": http, "mask_image": "https://cdn.example.com/m.png"},
        {"image": reported.before, "mask_image": reported.mask},
    )
    reported.fail(1, "image_truncated", "image: the PNG file is incomplete")
    reported.objects.delete([reported.complete(2)])
    reported.complete(3, flagged=True)
    target = tmp_path / "r.html"
    page = reported.report(target)
    assert "cannot be shown: damaged" in card(page, 1)
    assert "failed: no output" in card(page, 1)
    assert "no longer there" in card(page, 2)
    assert len(pictures(card(page, 2))) == 2
    assert "not fetched: cdn.example.com … photo.jpg" in card(page, 3)
    assert "flagged by the safety checker: what is stored is a blank" in card(page, 3)
    assert pictures(card(page, 3)) == []
    assert "waits" in card(page, 4)
    assert "2 pictures could not be shown" in page
    assert "s3cret" not in page


def test_it_sums_up_all_rows_and_names_versions_loras_and_bad_rows(reported: Reported, tmp_path: Path) -> None:
    body: dict[str, object] = {"image": reported.before, "mask_image": reported.mask}
    reported.submit(*[body] * 6, {**body, "loras": [{"path": LORA, "scale": 0.5}]}, None)
    for number in (1, 2):
        reported.complete(number)
    reported.complete(7, torch="3")
    for number in (3, 4):
        reported.fail(number, "host_away", "image: no answer")
    assert reported.batch is not None
    reported.door.cancel(reported.batch)
    reported.life.do(lifecycle.end_cancelled_rows)
    page = reported.report(tmp_path / "r.html", sample=3)
    tiles = re.findall(r'<div class="tile[^"]*"><b>([^<]*)</b><span>([^<]*)</span>', page)
    by_name = {name: value for value, name in tiles}
    assert by_name["rows"] == "7"
    assert by_name["completed"] == "3"
    assert by_name["failed"] == "2"
    assert by_name["cancelled"] == "2"
    assert by_name["bad row, not run"] == "1"
    assert by_name["images"] == "3"
    assert "3 of 7 rows are shown" in page
    assert "made by 2 model versions" in page
    assert "5" * 64 in page
    assert "s3cret" not in page
    assert "m.csv, line 9" in page
    assert "fillfleet retry autumn</pre>" in page
    assert page.count("<svg") == 4


def test_a_store_that_is_away_costs_the_pictures_and_not_the_report(reported: Reported, tmp_path: Path) -> None:
    reported.submit(*[{"image": reported.before, "mask_image": reported.mask}] * 3)
    reported.complete(1)
    nobody = {"s3_endpoint": "http://127.0.0.1:9"}
    elsewhere = DirectDoor(reported.life.settings.model_copy(update=nobody), reported.life.owner)
    try:
        assert reported.batch is not None
        done = write_report(elsewhere, reported.batch, tmp_path / "r.html")
    finally:
        elsewhere.close()
    assert (done.pictures, done.missing, done.shown) == (0, 3, 3)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "did not arrive: the object store is away" in card(page, 1)


def test_progress_is_told_and_what_was_written_is_returned(reported: Reported, tmp_path: Path) -> None:
    reported.submit(*[{"image": reported.before, "mask_image": reported.mask}] * 4)
    reported.complete(1)
    heard: list[Progress] = []
    assert reported.batch is not None
    target = tmp_path / "new" / "r.html"
    done = write_report(reported.door, reported.batch, target, on_progress=heard.append)
    assert (done.path, done.bytes, done.rows, done.shown) == (target, target.stat().st_size, 4, 4)
    assert (done.pictures, done.missing) == (3, 0)
    assert [(one.pictures, one.wanted) for one in heard] == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(Rejected, match="allowed: 1 to 2000"):
        write_report(reported.door, reported.batch, target, sample=0)
    assert sorted(file.name for file in target.parent.iterdir()) == ["r.html"]
