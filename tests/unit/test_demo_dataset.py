"""The dataset that the demo writes is one that the command line takes as it is, but for the one bad row."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.demo.batch import clear
from infra.demo.command_line import Said
from infra.demo.dataset import FOLDER, Dataset, site_files, write_dataset
from infra.demo.jobs import BAD_ROW, JOBS
from infra.demo.photo_server import PhotoServer
from producer.manifest import ManifestRow
from producer.manifest.open import open_manifest
from producer.manifest.options import ManifestOptions
from tests.support.demo_run import material_of

ROWS = [job for job in JOBS if job.call is None]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    inputs = [(job, material_of(job.name)) for job in JOBS]
    with PhotoServer(site_files(JOBS)) as site:
        return write_dataset(inputs, tmp_path_factory.mktemp("demo") / FOLDER, site)


@pytest.fixture(scope="module")
def rows(dataset: Dataset) -> list[ManifestRow]:
    found = list(open_manifest(str(dataset.manifest), ManifestOptions()).rows())
    return [row for row in found if isinstance(row, ManifestRow)]


def test_its_rows_are_the_jobs_in_order_and_a_bad_one(dataset: Dataset, rows: list[ManifestRow]) -> None:
    assert [row.custom_id for row in rows] == [*(job.name for job in ROWS), BAD_ROW["custom_id"]]
    assert rows[-1].body["num_inference_steps"] == 99 == dataset.bad_row["num_inference_steps"]


def test_each_row_asks_for_what_its_job_asks(rows: list[ManifestRow]) -> None:
    for job, row in zip(ROWS, rows, strict=False):
        assert {name: row.body[name] for name in job.fields} == job.fields
        assert ("mask_image" in row.files) == (material_of(job.name).mask is not None)
        assert ("image" in row.files) != ("image" in row.body)


def test_its_own_column_passes_through(rows: list[ManifestRow]) -> None:
    assert [row.extra for row in rows[:-1]] == [{"shows": job.shows} for job in ROWS]


def test_each_picture_and_mask_is_written_once(dataset: Dataset) -> None:
    folder = dataset.manifest.parent
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.png")]
    named = {str(row[field]) for row in dataset.rows for field in ("image", "mask_image") if field in row}
    assert sorted(files) == sorted(name for name in named if "://" not in name)


def test_what_an_earlier_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "mine.png").write_bytes(b"mine")
    (tmp_path / "results.parquet").write_bytes(b"old")
    clear(tmp_path, "demo")
    assert (tmp_path / "outputs" / "mine.png").exists()
    assert not (tmp_path / "results.parquet").exists()
    (tmp_path / "outputs" / ".fillfleet-batch").write_text("an id\n")
    clear(tmp_path, "demo")
    assert not (tmp_path / "outputs").exists()


def test_a_command_is_shown_as_it_is_typed_and_without_its_advice() -> None:
    said = Said(("submit", "my rows.jsonl"), "Batch x\n  new rows 3\nNext:\n  fillfleet watch x\n")
    assert said.typed == "fillfleet submit 'my rows.jsonl'"
    assert said.lines == ["Batch x", "  new rows 3"]
