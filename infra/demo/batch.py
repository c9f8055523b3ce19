"""The demo's batch by the command line, as a user has it filled: submitted, and afterwards saved and reported."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet

from common.contract import BatchState
from common.errors import FillfleetError
from infra.demo.calls import Submitted
from infra.demo.client import Client
from infra.demo.command_line import CommandLine, Said
from infra.demo.dataset import FOLDER, MANIFEST, Dataset, Inputs

TABLE: Final = "results.parquet"
OUTPUTS: Final = "outputs"
PAGE: Final = "batch.html"
_MARK: Final = ".fillfleet-batch"
"""The file by which `results` knows a folder again."""
_NAME: Final = "demo"
_DONE_SECONDS: Final = 10.0
"""The dispatcher looks for batches that are over once in a while."""
_LOOK_SECONDS: Final = 0.2

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """What became of the batch as a whole."""

    name: str
    dataset: Dataset
    said: tuple[Said, ...]
    """The commands in order: submit, results, results, report, and submit again."""
    state: str
    before: tuple[Row, ...]
    """Its rows as the API told of them before the manifest was submitted again."""
    after: tuple[Row, ...]
    """And after."""
    table: tuple[Row, ...]
    """results.parquet"""
    rejects: tuple[Row, ...]
    """The file of bad rows."""
    page: str
    """batch.html"""


def free_name(client: Client) -> str:
    """Return a name that no batch has: in a kept folder there may be those of earlier runs."""
    names = (_NAME if number == 1 else f"{_NAME}-{number}" for number in count(1))
    return next(name for name in names if client.batch(name) is None)


def clear(folder: Path, name: str) -> None:
    """Remove what an earlier run of that name wrote and this one is to write. Raises OSError."""
    for path in (folder / TABLE, folder / PAGE, _rejects(folder, name)):
        path.unlink(missing_ok=True)
    # `results` saves into no folder of another batch; and what it did not mark as its own is not ours to remove.
    if (folder / OUTPUTS / _MARK).is_file():
        shutil.rmtree(folder / OUTPUTS)


def submit_batch(terminal: CommandLine, name: str) -> Said:
    """Submit the manifest in the terminal's folder. Raises FillfleetError."""
    (said,) = terminal.run(_submit(name))
    return said


def rows_of(client: Client, name: str, inputs: Inputs) -> list[Submitted]:
    """Return the jobs that the rows of a submitted batch became. Raises FillfleetError where one is missing."""
    ids = {row["custom_id"]: row["job_id"] for row in client.rows(name)}
    wanted = [(job, material) for job, material in inputs if job.call is None]
    missing = [job.name for job, _ in wanted if job.name not in ids]
    if missing:
        raise FillfleetError("rows_missing", f"the batch {name} has no row {', '.join(missing)}")
    return [Submitted(job, material, client.result(ids[job.name])) for job, material in wanted]


def collect(terminal: CommandLine, client: Client, name: str, dataset: Dataset, folder: Path, first: Said) -> Batch:
    """Save table, outputs and page of a batch that is over, and submit its manifest again. Raises FillfleetError."""
    before = tuple(client.rows(name))
    # None of them changes anything, so that they may run beside each other.
    said = terminal.run(
        ("results", name, "-o", TABLE),
        ("results", name, "-o", f"{OUTPUTS}/"),
        ("report", name, "-o", PAGE),
        _submit(name),
    )
    rejects = _rejects(folder, name)
    return Batch(
        name=name,
        dataset=dataset,
        said=(first, *said),
        state=_last_state(client, name),
        before=before,
        after=tuple(client.rows(name)),
        table=tuple(pyarrow.parquet.read_table(folder / TABLE).to_pylist()),
        rejects=_lines(rejects) if rejects.exists() else (),
        page=(folder / PAGE).read_text(encoding="utf-8"),
    )


def saved_files(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """Return the outputs that `results` has saved, by the row's own id."""
    return {
        row["custom_id"]: tuple((folder / OUTPUTS / name).read_bytes() for name in row["files"] or () if name)
        for row in _lines(folder / OUTPUTS / "results.jsonl")
    }


def _last_state(client: Client, name: str) -> str:
    deadline = time.monotonic() + _DONE_SECONDS
    while True:
        state = str((client.batch(name) or {}).get("state"))
        if state == BatchState.DONE or time.monotonic() > deadline:
            return state
        time.sleep(_LOOK_SECONDS)


def _rejects(folder: Path, name: str) -> Path:
    return folder / f"{name}.rejects.jsonl"  # as `submit` calls it


def _submit(name: str) -> tuple[str, ...]:
    return ("submit", f"{FOLDER}/{MANIFEST}", "--name", name)


def _lines(path: Path) -> tuple[Row, ...]:
    return tuple(json.loads(line) for line in path.read_bytes().splitlines())
