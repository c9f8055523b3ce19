"""Whatever is killed on the way, every row of a batch becomes one job and one row of the results table.

Real processes: the command line, the dispatcher, two workers with a sleeping device, and the three servers.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from sqlalchemy import Engine, func, select, text

from common.settings import Settings
from common.tables import batches, jobs
from infra.embedded.servers import EmbeddedServers
from tests.support.environment import environment_of
from tests.support.fleet import ROOT, Fleet, png, running_fleet
from tests.support.intake_gate import no_more_rows_than
from tests.support.narrow_way import NarrowWay, narrow_way

ROWS = 5000
FILES = 500
QUICK = {"num_inference_steps": 1, "enable_safety_checker": False, "size": "256*256"}


class Shell:
    """Gives commands in processes of their own, and can kill them."""

    def __init__(self, settings: Settings, owner: str, folder: Path) -> None:
        self._environment = environment_of(settings) | {"FILLFLEET_OWNER": owner, "HOME": str(folder)}
        self._running: list[subprocess.Popen[bytes]] = []

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `fillfleet …`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "producer.cli", *arguments],
            env=self._environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._running.append(process)
        return process

    def run(self, *arguments: str) -> str:
        """Run `fillfleet …` to its good end; returns what it said."""
        process = self.begin(*arguments)
        said = process.communicate(timeout=300)[0].decode()
        assert process.returncode == 0, said
        return said

    def kill_when(self, process: subprocess.Popen[bytes], is_so: Callable[[], bool], what: str) -> None:
        """SIGKILL the process at the moment when something is so; fails where it ends before."""
        deadline = time.monotonic() + 120
        while not is_so():
            assert process.poll() is None, f"it ended before {what}: {process.communicate()[0].decode()}"
            assert time.monotonic() < deadline, f"not so: {what}"
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before {what}"

    def close(self) -> None:
        """End what still runs."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def fleet(servers: EmbeddedServers, settings: Settings, database: Engine, tmp_path: Path) -> Iterator[Fleet]:
    """The processes of a fleet whose workers look at no picture's content."""
    quick = settings.model_copy(update={"allow_safety_checker_off": True})
    with running_fleet(servers.guardian, quick, database, tmp_path) as fleet:
        yield fleet


@pytest.fixture
def way(fleet: Fleet) -> Iterator[NarrowWay]:
    """The way by which the fleet's owner comes to the bucket."""
    with narrow_way(fleet.settings.s3_endpoint) as way:
        yield way


@pytest.fixture
def shell(fleet: Fleet, way: NarrowWay, tmp_path: Path) -> Iterator[Shell]:
    """Commands of the fleet's owner."""
    settings = fleet.settings.model_copy(update={"s3_endpoint": way.endpoint})
    shell = Shell(settings, fleet.owner.hex, tmp_path)
    yield shell
    shell.close()


def write_images(folder: Path, count: int) -> list[str]:
    """Write pictures that differ, each of them one hole; returns their names."""
    folder.mkdir()
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(png(Image.new("RGBA", (256, 256), (number % 256, number // 256, 0, 0))))
    return names


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def batch_row(fleet: Fleet) -> Any:
    """Return the owner's batch as it is in the table, or None."""
    with fleet.engine.begin() as connection:
        return connection.execute(select(batches).where(batches.c.owner_id == fleet.owner)).one_or_none()


def cursor(fleet: Fleet) -> int:
    """Return how many rows the batch has taken in; -1 where there is no batch."""
    row = batch_row(fleet)
    return -1 if row is None else int(row.row_cursor)


def job_count(fleet: Fleet) -> int:
    """Return how many jobs the owner has."""
    return sum(fleet.statuses().values())


def uploaded(fleet: Fleet) -> int:
    """Return how many inputs of the owner are in the bucket."""
    return sum(1 for _ in fleet.objects.list_keys(f"inputs/{fleet.owner.hex}/"))


def is_storing(fleet: Fleet) -> bool:
    """Whether the command line is in the transaction of a chunk, and waits for the batch that we hold."""
    waits = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'fillfleet batches' AND wait_event_type = 'Lock'
    """)
    with fleet.engine.begin() as connection:
        return int(connection.execute(waits).scalar_one()) == 1


def kill_in_a_transaction(shell: Shell, fleet: Fleet, submission: subprocess.Popen[bytes]) -> None:
    """SIGKILL a submission after it has begun to store a chunk and before it can commit."""
    with fleet.engine.connect() as holder, holder.begin():
        holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        holder.execute(select(batches.c.id).where(batches.c.owner_id == fleet.owner).with_for_update())
        shell.kill_when(submission, lambda: is_storing(fleet), "it stores a chunk")


def check_outputs(fleet: Fleet, table: pd.DataFrame) -> None:
    """Assert that the bucket has each row's output with the right content, and beside them only dead attempts'."""
    prefix = f"s3://{fleet.objects.bucket}/"
    expected = {
        str(uris[0]).removeprefix(prefix): sha[0] for uris, sha in zip(table.outputs, table.output_sha256, strict=True)
    }
    sizes = dict(zip(expected, (size[0] for size in table.output_bytes), strict=True))
    stored = dict(fleet.objects.list_keys(f"outputs/{fleet.owner.hex}/"))
    assert {key: stored.get(key) for key in expected} == sizes
    attempts = dict(zip(table.job_id, table.attempts, strict=True))
    for key in stored.keys() - expected.keys():
        job, name = key.split("/")[-2:]
        assert int(name.partition("-")[0]) < attempts[job], f"{key} is nobody's"

    def sha_of(key: str) -> str:
        return hashlib.sha256(fleet.objects.get(key, max_bytes=1_000_000)).hexdigest()

    with ThreadPoolExecutor(8) as pool:
        assert dict(zip(expected, pool.map(sha_of, expected), strict=True)) == expected
    # Each row has a seed of its own, which is the sleeping device's colour: an output of another row would show.
    assert len(set(expected.values())) == len(table)


@pytest.mark.timeout(1200)
def test_five_thousand_rows_survive_the_death_of_the_command_line_the_dispatcher_and_redis(
    servers: EmbeddedServers, fleet: Fleet, shell: Shell, way: NarrowWay, tmp_path: Path
) -> None:
    names = write_images(tmp_path / "images", FILES)
    rows = [
        {"custom_id": f"row-{n}", "image": f"images/{names[n % FILES]}", "seed": n, "sku": f"sku-{n}", **QUICK}
        for n in range(ROWS)
    ]
    manifest = write_manifest(tmp_path / "rows.jsonl", rows)
    submission = ("submit", str(manifest))
    dispatcher = fleet.start("dispatcher")
    workers = [fleet.start_sleeping_worker(step_seconds=0.001) for _ in range(2)]

    # The command line dies twice: while files are uploaded, and in the middle of the transaction of the rows.
    way.narrow(uploads=FILES // 10)
    shell.kill_when(shell.begin(*submission), lambda: 0 < uploaded(fleet) < FILES, "some files are uploaded")
    way.widen()
    assert (uploaded(fleet) < FILES, cursor(fleet), job_count(fleet)) == (True, 0, 0)
    kill_in_a_transaction(shell, fleet, shell.begin(*submission))
    assert (uploaded(fleet), cursor(fleet), job_count(fleet)) == (FILES, 0, 0)
    shell.run(*submission)
    assert job_count(fleet) == ROWS

    def completed() -> int:
        return fleet.statuses().get("completed", 0)

    fleet.until(lambda: completed() > 500, "rows run")
    dispatcher.kill()
    time.sleep(1.0)
    fleet.start("dispatcher")
    fleet.until(lambda: completed() > 1500, "rows run again")
    servers.redis.kill()
    time.sleep(1.0)
    servers.redis.start()
    shell.run(*submission)  # once more while all of it runs: nothing is made twice
    fleet.until(fleet.all_over, "all rows are over", seconds=600)
    assert all(worker.exit_code() is None for worker in workers)

    table_path = tmp_path / "out.parquet"
    shell.run("results", manifest.name, "-o", str(table_path))
    table = pd.read_parquet(table_path)
    assert len(table) == ROWS
    assert set(table.custom_id) == {row["custom_id"] for row in rows}
    assert set(table.status) == {"completed"}
    assert list(table.sku) == [row["sku"] for row in rows], "in the manifest's order, with what was passed through"
    assert [int(seeds[0]) for seeds in table.seeds] == list(range(ROWS))
    with fleet.engine.begin() as connection:
        twice = text(
            "SELECT count(*) FROM (SELECT job_id FROM job_events WHERE event = 'completed' "
            "GROUP BY job_id HAVING count(*) > 1) AS job"
        )
        assert connection.execute(twice).scalar_one() == 0
    check_outputs(fleet, table)


def test_a_submission_killed_between_two_chunks_goes_on_behind_the_first(
    fleet: Fleet, shell: Shell, tmp_path: Path
) -> None:
    remote = fleet.store_image(mode="RGBA", colour=(0, 0, 0, 0))
    names = write_images(tmp_path / "images", 400)
    rows: list[dict[str, Any]] = [{"custom_id": f"far-{n}", "image": remote} for n in range(5000)]
    rows += [{"custom_id": f"near-{n}", "image": f"images/{name}"} for n, name in enumerate(names)]
    manifest = write_manifest(tmp_path / "rows.jsonl", rows)
    with no_more_rows_than(fleet.engine, 5000):
        shell.kill_when(shell.begin("submit", str(manifest)), lambda: cursor(fleet) > 0, "the first chunk is in")
        assert (cursor(fleet), job_count(fleet), batch_row(fleet).state) == (5000, 5000, "receiving")
    said = json.loads(shell.run("submit", str(manifest), "--json", "-q").splitlines()[-1])
    assert (said["new"], said["batch"]["state"]) == (400, "open")
    assert (cursor(fleet), job_count(fleet)) == (5400, 5400)
    with fleet.engine.begin() as connection:
        assert connection.execute(select(func.count(jobs.c.custom_id.distinct()))).scalar_one() == 5400
