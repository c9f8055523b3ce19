"""Batches on the command line, straight to a real database and bucket; jobs end by the lifecycle, without a worker."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
import pytest
import structlog
from PIL import Image

from common import lifecycle
from common.lifecycle import Claim
from common.objects import Objects, output_key
from common.result import JobResult, Output, Timings
from common.safety_policy import SafetyPolicy
from producer.batches import Batch, ErrorCause
from producer.cli.watch import follow
from producer.doors.direct import DirectDoor
from tests.support.cli import Cli
from tests.support.environment import environment_of
from tests.support.life import BROKEN, Life
from tests.support.processes import wait_until

PNG = b"\x89PNG\r\n\x1a\n" + b"these bytes only have to come back as they were"


class _Lasting(Objects):
    """The bucket, for all commands of this file: a client of S3 takes longer to make than most of them run."""

    def close(self) -> None:
        """Stay open for the next command."""


@pytest.fixture(scope="module")
def bucket(module_life: Life) -> Iterator[Objects]:
    made = _Lasting(module_life.settings)
    made.ensure_bucket()
    yield made
    Objects.close(made)


@pytest.fixture
def objects(bucket: Objects, life: Life, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """The bucket that commands in this process use."""
    assert life.settings.s3_bucket == bucket.bucket
    monkeypatch.setattr("producer.doors.direct.Objects", lambda _settings: bucket)
    return bucket


@pytest.fixture
def cli(
    life: Life,
    objects: Objects,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Cli]:
    """Commands of the owner of `life`, in an empty folder."""
    config = structlog.get_config()

    def read() -> tuple[str, str]:
        said = capsys.readouterr()
        return said.out, said.err

    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    environment = environment_of(life.settings) | {
        "FILLFLEET_OWNER": life.owner.hex,
        "HOME": str(tmp_path),
        "COLUMNS": "80",
    }
    yield Cli(monkeypatch, read, environment)
    structlog.configure(**config)


@pytest.fixture
def door(life: Life, objects: Objects) -> Iterator[DirectDoor]:
    """The owner's batches, looked at past the command line."""
    door = DirectDoor(life.settings, life.owner)
    yield door
    door.close()


def table(rows: int, name: str = "products.csv", prompt: str = "a fox") -> Path:
    """Write a manifest of good rows into the current folder."""
    lines = [f"sku-{n},https://example.com/{n}.png,{prompt},{n}.5\n" for n in range(1, rows + 1)]
    path = Path(name)
    path.write_text("custom_id,image,prompt,price\n" + "".join(lines))
    return path


def pictures(count: int) -> Path:
    """Write a folder of image and mask pairs."""
    folder = Path("photos")
    folder.mkdir()
    for n in range(count):
        Image.new("RGB", (256, 320), (n, n, n)).save(folder / f"p{n}.png")
        Image.new("L", (256, 320), 255 - n).save(folder / f"p{n}_mask.png")
    return folder


def claimed(life: Life) -> Iterator[Claim]:
    """Yield all jobs that can be published, each claimed."""
    while messages := life.publish(1000):
        for message in messages:
            claim = life.claim(message.job)
            assert claim is not None
            yield claim


def complete(life: Life, objects: Objects, claim: Claim, *, dropped: bool = False) -> None:
    """Lead a job to its end, with an output in the bucket unless that was flagged and dropped."""
    key = output_key(claim.owner, claim.job, claim.attempt, 0, "png")
    objects.put(key, PNG, "image/png")
    digest = hashlib.sha256(PNG).hexdigest()
    output = Output(
        key=key, sha256=digest, bytes=len(PNG), format="png", width=256, height=320, seed=claim.request.seed, nsfw=False
    )
    if dropped:
        objects.delete([key])
        gone = {"key": None, "sha256": None, "bytes": None, "nsfw": True, "policy": SafetyPolicy.DROP}
        output = output.model_copy(update=gone)
    result = JobResult(
        outputs=(output,),
        timings=Timings(queue=1, fetch=2, wait=3, inference=4, upload=5),
        model_version={"model": "demo"},
        worker="w1",
        mask_coverage=0.5,
        max_difference_outside_mask=0,
        inputs={},
    )
    life.do(lifecycle.complete, claim.job, claim.attempt, result.model_dump(mode="json"))


def run_all(life: Life, objects: Objects, *, failing: int = 0) -> None:
    """End every job: the first `failing` of them fail."""
    for number, claim in enumerate(claimed(life)):
        if number < failing:
            life.do(lifecycle.fail, claim.job, claim.attempt, BROKEN)
        else:
            complete(life, objects, claim)
    life.do(lifecycle.end_batches)


def rows_in(life: Life, batch: Batch) -> int:
    return len(life.rows_of(batch.id))


# --- submit


def test_a_submission_says_what_was_new_and_the_same_one_again_makes_nothing_twice(
    cli: Cli, life: Life, door: DirectDoor
) -> None:
    table(30)
    done = cli("submit", "products.csv", "--steps", 4, "--priority", 7, "--json")
    assert done.code == 0, done.err
    assert (done.json["rows"], done.json["new"], done.json["same"]) == (30, 30, 0)
    assert done.json["rejects_file"] is None
    batch = door.find("products.csv")
    assert (batch.id.hex, batch.state, batch.priority) == (done.json["batch"]["id"], "open", 7)
    assert batch.defaults == {"num_inference_steps": 4}
    assert batch.extra_columns == ("price",)
    again = cli("submit", "products.csv", "--steps", 4, "--priority", 7)
    assert again.code == 0
    assert "new rows                  0" in again.out
    assert "already there            30" in again.out
    assert "fillfleet watch products.csv" in again.out
    assert rows_in(life, batch) == 30
    assert list(Path().iterdir()) == [Path("products.csv")]


def test_files_are_uploaded_and_quiet_prints_nothing_but_the_id(cli: Cli, life: Life, objects: Objects) -> None:
    pictures(3)
    done = cli("submit", "photos", "--prompt", "an empty room", "-q")
    assert done.code == 0, done.err
    assert done.err == ""
    jobs = life.rows_of(UUID(done.out.strip()))
    requests = [life.row(job)["request"] for job in jobs]
    assert {request["prompt"] for request in requests} == {"an empty room"}
    prefix = objects.uri("")
    for request in requests:
        for field in ("image", "mask_image"):
            assert objects.size(request[field].removeprefix(prefix)) is not None


def test_bad_rows_are_listed_in_a_file_and_the_good_ones_run(cli: Cli, door: DirectDoor) -> None:
    Path("a.jsonl").write_text(
        '{"custom_id": "one", "image": "https://example.com/1.png"}\n'
        '{"custom_id": "two", "image": "https://example.com/2.png", "num_images": 9}\n'
        '{"custom_id": "one", "image": "https://example.com/3.png"}\n'
        '{"image": "nowhere.png"}\n'
    )
    done = cli("submit", "a.jsonl")
    assert done.code == 0, done.err
    assert "bad rows                  3  see a.jsonl.rejects.jsonl" in done.out
    rejects = [json.loads(line) for line in Path("a.jsonl.rejects.jsonl").read_text().splitlines()]
    assert [set(reject) for reject in rejects] == [{"row", "custom_id", "where", "field", "value", "reason"}] * 3
    assert [(reject["row"], reject["field"], reject["value"]) for reject in rejects] == [
        (2, "num_images", "9"),
        (3, "custom_id", "'one'"),
        (4, "image", "'nowhere.png'"),
    ]
    assert door.find("a.jsonl").counts.total == 1


def test_a_strict_submission_with_a_bad_row_starts_nothing_and_ends_with_4(cli: Cli, door: DirectDoor) -> None:
    Path("a.jsonl").write_text(
        '{"image": "https://example.com/1.png"}\n{"image": "https://example.com/2.png", "seed": "x"}\n'
    )
    done = cli("submit", "a.jsonl", "--strict", "-q", "--rejects", "bad.jsonl")
    assert done.code == 4
    assert "1 bad row in a strict batch: nothing was started" in done.err
    assert json.loads(Path("bad.jsonl").read_text())["field"] == "seed"
    batch = door.find(done.out.strip())
    assert (batch.state, batch.counts.total) == ("cancelled", 0)
    shown = cli("status", "a.jsonl")  # its name is free again, and still tells why
    assert "1 bad row in a strict batch" in " ".join(shown.out.split())
    assert cli("submit", "a.jsonl").code == 0
    assert cli("status", "a.jsonl", "--json").json["state"] == "open"


def test_only_the_first_rows_are_a_batch_of_their_own(cli: Cli, door: DirectDoor) -> None:
    table(30)
    assert cli("submit", "products.csv", "--limit", 10).code == 0
    assert door.find("products.csv-first-10").counts.total == 10


def test_a_manifest_comes_by_stdin_too(cli: Cli) -> None:
    process = cli.start("submit", "-", "--name", "piped", "--json", stdin=subprocess.PIPE)
    out, err = process.communicate(
        '{"image": "https://example.com/1.png"}\n{"image": "https://example.com/2.png"}\n', 30
    )
    assert process.returncode == 0, err
    assert json.loads(out)["new"] == 2


def test_a_check_judges_and_estimates_and_leaves_nothing_behind(cli: Cli, life: Life, door: DirectDoor) -> None:
    pictures(2)
    Path("photos/broken.png").write_text("no image")
    done = cli(
        "submit", "photos", "--check", "--num-images", 2, "--seconds-per-image", 9, "--dollars-per-hour", 100, "--json"
    )
    assert done.code == 4
    files = [path for path in Path("photos").iterdir() if path.name != "broken.png"]
    assert done.json == {
        "rows": 3,
        "good": 2,
        "bad": 1,
        "files": 4,
        "bytes": sum(path.stat().st_size for path in files),
        "images": 4,
        "megapixels": round(4 * 256 * 320 / 1e6, 3),
        "images_of_unknown_size": 0,
        "gpu_hours": 0.01,
        "dollars": 1.0,
    }
    assert door.list() == ([], 0)
    Path("photos/broken.png").unlink()
    words = cli("submit", "photos", "--check")
    assert words.code == 0
    assert "2 rows: 2 good, 0 bad" in words.out
    assert "--seconds-per-image S" in words.out
    assert list(Path().iterdir()) == [Path("photos")]


def test_a_check_says_which_sizes_nobody_knows_and_which_id_comes_twice(cli: Cli) -> None:
    Path("a.csv").write_text(
        "custom_id,image,size\na,https://example.com/1.png,512*512\na,https://example.com/2.png,\nb,https://example.com/2.png,\n"
    )
    done = cli("submit", "a.csv", "--check")
    assert done.code == 4
    assert "custom_id: 'a' is the custom_id of an earlier row already" in done.out
    assert "2 images, 0.3 megapixels and 1 of unknown size" in done.out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_submission_that_is_stopped_in_the_middle_goes_on_with_the_same_command(
    cli: Cli, life: Life, door: DirectDoor, number: signal.Signals
) -> None:
    # The manifest comes through a pipe that stays open, so that the command is in the middle for certain.
    whole = table(6000, prompt="a fox " * 20).read_text().splitlines(keepends=True)
    batch = None

    def is_half_way() -> bool:
        nonlocal batch
        found, _ = door.list()
        batch = found[0] if found else None
        return batch is not None and batch.cursor >= 5000

    with cli.start("submit", "-", "--name", "big", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.writelines(whole[:5900])
        process.stdin.flush()
        assert wait_until(is_half_way, 60)
        process.send_signal(number)
        assert process.wait(60) == (130 if number is signal.SIGINT else -number)
        said = process.stderr.read()
    assert ("The same command goes on" in said) == (number is signal.SIGINT)
    assert "Traceback" not in said
    assert batch is not None
    assert door.find("big").state == "receiving"
    done = cli("submit", "products.csv", "--name", "big", "--json")
    assert done.code == 0, done.err
    assert done.json["new"] <= 1000
    assert done.json["new"] + done.json["same"] == done.json["rows"] == 6000
    assert rows_in(life, batch) == 6000
    assert door.find("big").state == "open"


# --- to the end


def test_watching_ends_with_the_batch_and_its_exit_code_tells_of_failures(
    cli: Cli, life: Life, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(6)
    assert cli("submit", "products.csv").code == 0
    finding, looks = DirectDoor.find, itertools.count()

    def find(door: DirectDoor, name_or_id: str) -> Batch:
        if next(looks) == 2:  # the first is for its name, the second is shown
            run_all(life, objects, failing=2)
        return finding(door, name_or_id)

    monkeypatch.setattr(DirectDoor, "find", find)
    done = cli("watch", "products.csv", "--every", "0.1")
    assert done.code == 3
    assert "products.csv is done: 4 completed, 2 failed" in done.out
    assert f"2  {BROKEN.code}: {BROKEN.message}" in done.out
    assert "products.csv open: 0 of 6 (0 %), 0 failed" in done.err
    lines = cli("watch", "products.csv", "--json")
    assert lines.code == 3
    assert lines.json["counts"]["failed"] == 2
    assert lines.json["causes"] == [{"code": BROKEN.code, "number": 2, "example": BROKEN.message}]


def test_watching_asks_now_and_then_why_rows_fail_where_the_answer_takes_long(life: Life, objects: Objects) -> None:
    batch = life.open(8)

    class Slow(DirectDoor):
        asked = 0

        def causes(self, batch: Batch) -> Sequence[ErrorCause]:
            self.asked += 1
            time.sleep(1.0)
            return super().causes(batch)

        def find(self, name_or_id: str) -> Batch:
            waiting = [job for job in life.rows_of(batch) if life.row(job)["status"] == "created"]
            for job in waiting[:1]:
                life.do(lifecycle.fail, job, life.take(job), BROKEN)
            return super().find(name_or_id)

    with closing(Slow(life.settings, life.owner)) as door:
        assert follow(door, door.find(batch.hex), quiet=True, as_json=False, every=0.1) == 3
        assert 2 <= door.asked <= 4, "at the first failure and at the end, of eight looks that each show one more"


def test_failed_rows_are_retried_and_then_watching_ends_well(cli: Cli, life: Life, objects: Objects) -> None:
    table(4)
    cli("submit", "products.csv")
    run_all(life, objects, failing=3)
    done = cli("retry", "products.csv", "--failed", "--json")
    assert (done.code, done.json["retried"], done.json["batch"]["state"]) == (0, 3, "open")
    run_all(life, objects)
    assert cli("watch", "products.csv", "-q").code == 0
    assert "no row had failed" in cli("retry", "products.csv").out


def test_a_batch_is_paused_resumed_and_cancelled(cli: Cli, life: Life) -> None:
    table(3)
    cli("submit", "products.csv")
    assert "is paused" in cli("pause", "products.csv").out
    assert life.publish() == []
    assert cli("status", "products.csv", "--json").json["state"] == "paused"
    assert "3 rows left" in cli("resume", "products.csv").out
    done = cli("cancel", "products.csv", "--json")
    assert done.json["state"] == "cancelled"
    assert "was cancelled; submit under another name, or retry it" in cli("submit", "products.csv").error


def test_status_lists_batches_and_shows_one_within_80_columns(cli: Cli, life: Life, objects: Objects) -> None:
    assert "No batches yet" in cli("status").out
    table(1_234, "a-manifest-with-a-rather-long-name-that-says-much.csv")
    cli("submit", "a-manifest-with-a-rather-long-name-that-says-much.csv")
    claim = next(claimed(life))
    life.do(lifecycle.fail, claim.job, claim.attempt, BROKEN)
    listed = cli("status")
    assert "1,234" in listed.out
    assert "open" in listed.out
    shown = cli("status", "a-manifest-with-a-rather-long-name-that-says-much.csv")
    assert BROKEN.code in shown.out
    assert "1 of 1,234 (0 %)" in shown.out
    for line in (listed.out + shown.out).splitlines():
        assert len(line) <= 80, line
    page = cli("status", "--json").json
    assert (page["total"], page["items"][0]["counts"]["failed"]) == (1, 1)


# --- results


@pytest.fixture
def finished(cli: Cli, life: Life, objects: Objects) -> str:
    """A batch of 7 rows, of which the first two have failed."""
    table(7)
    assert cli("submit", "products.csv", "--name", "done").code == 0
    run_all(life, objects, failing=2)
    return "done"


def test_tables_have_a_row_for_each_row_and_appear_when_they_are_whole(cli: Cli, finished: str) -> None:
    for name in ("out.parquet", "out.csv", "out.jsonl"):
        done = cli("results", finished, "-o", name)
        assert done.code == 0, done.err
        assert done.out == f"{name}: 7 rows\n"
    parquet = pq.read_table("out.parquet")
    assert parquet["row"].to_pylist() == list(range(1, 8))
    assert parquet["price"].to_pylist() == [f"{n}.5" for n in range(1, 8)]
    assert Path("out.csv").read_text().count("\n") == 8
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["failed"] * 2 + ["completed"] * 5
    assert not list(Path().glob("*.partial"))


def test_rows_are_chosen_and_stdout_holds_nothing_but_them(cli: Cli, finished: str) -> None:
    def ids(*arguments: str) -> list[str]:
        done = cli("results", finished, "-o", "-", *arguments)
        assert done.code == 0, done.err
        return [json.loads(line)["custom_id"] for line in done.out.splitlines()]

    assert len(ids()) == 7
    assert ids("--failed") == ["sku-1", "sku-2"]
    assert ids("--status", "completed") == [f"sku-{n}" for n in range(3, 8)]
    assert ids("--error", BROKEN.code) == ["sku-1", "sku-2"]
    assert ids("--error", "another") == []


def test_failed_rows_are_a_manifest_of_their_own(cli: Cli, finished: str) -> None:
    assert cli("results", finished, "--resubmit", "again.jsonl").code == 0
    done = cli("submit", "again.jsonl", "--json")
    assert (done.json["new"], done.json["batch"]["rejected"]) == (2, 0)
    none = cli("results", "again.jsonl", "--resubmit", "none.jsonl")
    assert none.out == "none.jsonl: 0 rows (nothing to submit again)\n"


def test_outputs_are_saved_into_a_folder_that_a_later_run_completes(cli: Cli, finished: str) -> None:
    first = cli("results", finished, "-o", "filled/", "--json")
    assert first.code == 0, first.err
    assert first.json["outputs"] == {"fetched": 5, "kept": 0, "missing": 0, "failed": 0, "dropped": 0}
    assert Path("filled/sku-3.png").read_bytes() == PNG
    Path("filled/sku-3.png").unlink()
    second = cli("results", finished, "-o", "filled", "--json")
    assert second.json["outputs"] == {"fetched": 1, "kept": 4, "missing": 0, "failed": 0, "dropped": 0}
    assert cli("results", finished, "-o", "tables/", "--uris").code == 0
    assert {path.name for path in Path("tables").iterdir()} == {
        "results.jsonl",
        "results.parquet",
        ".fillfleet-batch",
    }


def test_outputs_that_were_never_stored_are_counted_apart_and_are_no_failure(
    cli: Cli, life: Life, objects: Objects
) -> None:
    table(3)
    cli("submit", "products.csv")
    for number, claim in enumerate(claimed(life)):
        complete(life, objects, claim, dropped=number == 0)
    done = cli("results", "products.csv", "-o", "filled/")
    assert done.code == 0, done.err
    assert "outputs: 2 fetched, 0 there already, 1 flagged and not stored\n" in done.out
    assert len(list(Path("filled").glob("*.png"))) == 2


def test_results_never_replace_files_that_are_not_theirs(cli: Cli, finished: str, life: Life) -> None:
    Path("photos").mkdir()
    Path("photos/sku-3.png").write_bytes(b"the original")
    assert "photos is not empty" in cli("results", finished, "-o", "photos").error
    assert Path("photos/sku-3.png").read_bytes() == b"the original"
    assert cli("results", finished, "-o", "filled/", "-q").code == 0
    cli("submit", "products.csv", "--name", "other")
    assert "the results of another batch" in cli("results", "other", "-o", "filled/").error


def test_a_tar_holds_the_outputs_with_their_rows(cli: Cli, finished: str) -> None:
    assert cli("results", finished, "-o", "out.tar").code == 0
    with tarfile.open("out.tar") as tar:
        assert {"sku-3.image.png", "sku-3.json"} <= set(tar.getnames())
        member = tar.extractfile("sku-3.image.png")
        assert member is not None
        assert io.BytesIO(member.read()).getvalue() == PNG
    assert pq.read_table("out.results.parquet").num_rows == 7


def test_a_page_about_a_batch_is_written(cli: Cli, finished: str) -> None:
    done = cli("report", finished, "-o", "page.html")
    assert done.code == 0, done.err
    assert done.out == "page.html is written.\n"
    assert BROKEN.code in Path("page.html").read_text()


# --- wrong calls


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("submit nowhere.csv", 1, "there is no file or folder 'nowhere.csv'"),
        ("submit products.csv --image-col link", 1, "its columns are 'custom_id', 'image', 'prompt', 'price'"),
        ("submit empty.csv", 1, "empty.csv"),
        ("submit street.jpg", 1, "street.jpg is one image; name the folder that it lies in"),
        ("submit products.csv --mask nothing.png", 1, "the mask for all rows, 'nothing.png', names no file"),
        ("submit https://example.com/a.csv --check", 1, "download it first"),
        ("submit https://example.com/a.csv --name x --root .", 2, "--root is on this machine"),
        ("status nothing", 1, "no batch is named 'nothing'; `fillfleet status` lists yours"),
        ("watch nothing", 1, "no batch is named 'nothing'"),
        ("results nothing -o x.csv", 1, "no batch is named 'nothing'"),
        ("results nothing", 2, "say where to"),
        ("results nothing -o x.xls", 2, ".xls is no form of a table"),
        ("results nothing -o - --json", 2, "leave one of them out"),
        ("retry nothing", 1, "no batch is named 'nothing'"),
        ("status --url http://127.0.0.1:9 --owner me", 2, "--url and --owner are two different ways"),
        ("status --url http://127.0.0.1:9", 2, "FILLFLEET_API_KEY"),
        ("status --system nowhere", 1, "no system is running in nowhere: start it with `fillfleet up --dir nowhere`"),
    ],
)
def test_a_wrong_call_is_one_line_that_says_what_to_do(cli: Cli, command: str, code: int, words: str) -> None:
    table(2)
    Path("empty.csv").write_text("")
    Image.new("RGB", (4, 4)).save("street.jpg")
    done = cli(*command.split())
    assert done.code == code
    assert words in done.error


def test_a_mistake_in_the_manifest_makes_no_batch(cli: Cli, door: DirectDoor) -> None:
    Path("a.csv").write_text("image,promt\nhttps://example.com/1.png,a fox\n")
    assert "looks like the field prompt" in cli("submit", "a.csv").error
    assert door.list() == ([], 0)


def test_the_same_name_with_other_rows_or_constants_is_refused_with_the_way_out(cli: Cli) -> None:
    table(3)
    cli("submit", "products.csv")
    error = cli("submit", "products.csv", "--prompt", "x").error
    assert "another name (--name NAME)" in error
    assert "`fillfleet status` with its name shows" in error
    Path("products.csv").write_text("custom_id,image\nsku-1,https://example.com/other.png\n")
    assert "row 1 (custom_id 'sku-1') says something else" in cli("submit", "products.csv").error


def test_a_database_that_is_away_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:hunter2@127.0.0.1:1/fillfleet")
    error = cli("status").error
    assert "check DATABASE_URL" in error
    assert "hunter2" not in error


def test_nothing_set_says_what_to_set(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    error = cli("status").error
    for name in ("FILLFLEET_URL", "FILLFLEET_API_KEY", "FILLFLEET_SYSTEM", "DATABASE_URL"):
        assert name in error
