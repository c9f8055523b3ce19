"""The demo's dataset as a user would have it: a folder of images and masks, and a manifest with a row for each job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.demo.jobs import BAD_ROW, DemoJob, ImageBy
from infra.demo.material import Material
from infra.demo.photo_server import PhotoServer
from infra.demo.photos import PHOTOS_BY_NAME, as_png

Inputs = Sequence[tuple[DemoJob, Material]]

FOLDER: Final = "dataset"
MANIFEST: Final = "manifest.jsonl"
OWN_COLUMN: Final = "shows"
"""A column that the system does not know: it comes back in the results as it is."""
_GONE: Final = "/gone.jpg"


@dataclass(frozen=True)
class Dataset:
    """What was written."""

    manifest: Path
    rows: tuple[Mapping[str, Any], ...]
    """The rows that become jobs, in order."""
    bad_row: Mapping[str, Any]
    """The last one, which does not."""


def write_dataset(inputs: Inputs, folder: Path, site: PhotoServer) -> Dataset:
    """Write images/, masks/ and the manifest, over those of an earlier run. Raises OSError."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = [_row(job, material, folder, site) for job, material in inputs if job.call is None]
    # As it would be with one wrong number in it: a row that is good but for that.
    bad_row = {**rows[0], **BAD_ROW, OWN_COLUMN: "A bad row is listed, and stops no other."}
    manifest = folder / MANIFEST
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in (*rows, bad_row)]
    manifest.write_text("".join(lines), encoding="utf-8")
    return Dataset(manifest, tuple(rows), bad_row)


def remote_image(job: DemoJob, site: PhotoServer) -> str | None:
    """Return the URL that a job names as its image, or None where it brings a file along."""
    if job.image_by is ImageBy.URL:
        return site.url(_site_path(job))
    return site.url(_GONE) if job.image_by is ImageBy.GONE else None


def site_files(jobs: Iterable[DemoJob]) -> dict[str, tuple[str, bytes]]:
    """Return what the photo server has: the untouched file of each photograph that a job names by URL."""
    files: dict[str, tuple[str, bytes]] = {}
    for job in jobs:
        if job.image_by is ImageBy.URL:
            path = PHOTOS_BY_NAME[job.picture].path
            files[_site_path(job)] = ("image/jpeg" if path.suffix == ".jpg" else "image/png", path.read_bytes())
    return files


def _row(job: DemoJob, material: Material, folder: Path, site: PhotoServer) -> dict[str, Any]:
    image = remote_image(job, site)
    if image is None:
        alpha = "-alpha" if job.image_by is ImageBy.ALPHA else ""
        image = f"images/{job.picture}{alpha}.png"
        (folder / image).write_bytes(as_png(material.image))
    mask = None
    if material.mask is not None:
        mask = f"masks/{job.mask}.png"
        (folder / mask).write_bytes(as_png(material.mask))
    return {"custom_id": job.name, **job.body(image, mask), OWN_COLUMN: job.shows}


def _site_path(job: DemoJob) -> str:
    return f"/{PHOTOS_BY_NAME[job.picture].path.name}"
