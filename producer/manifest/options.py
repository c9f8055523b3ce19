"""How to read a manifest: its form, which column is which field, what holds for rows that say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final


class Form(StrEnum):
    """The forms that a manifest may have."""

    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    FOLDER = "folder"
    """Images and masks as pairs of files, matched by name."""
    WEBDATASET = "webdataset"
    """Tar files with KEY.image.png, KEY.mask.png, KEY.json."""
    IMAGEFOLDER = "imagefolder"
    """A folder of images with a metadata.jsonl, .csv or .parquet, as the datasets library has it."""


@dataclass(frozen=True)
class ManifestOptions:
    """What the user said about the manifest beside where it is. Paths are on this machine."""

    form: Form | None = None
    """None: told by name and content."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of the contract, or custom_id → column of the manifest; what is not named here is looked up by name."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the contract for rows that say nothing of them."""
    keep: tuple[str, ...] = ()
    """Columns to pass through although they look like a field."""
    mask: str | None = None
    """One mask for all rows that name none: a local path, a URL or an s3:// URI."""
    masks: Path | None = None
    """A folder of masks that have the stems of the images."""
    mask_suffix: str = "_mask"
    """x.png + x_mask.png are a pair."""
    root: Path | None = None
    """Relative paths are below it, and may not leave it. Default: the manifest's own folder."""
    local_files: bool = True
    """False where the manifest is somebody else's: a row that names a local path is then a bad row."""


_IN_JSON: Final = ("columns", "constants", "keep", "mask", "mask_suffix")


def options_to_json(options: ManifestOptions) -> dict[str, Any]:
    """Return what another machine may know of the options: all but what is about files of this one."""
    told = {name: getattr(options, name) for name in _IN_JSON}
    return {**told, "keep": list(options.keep), "form": None if options.form is None else options.form.value}


def options_from_json(told: Mapping[str, Any]) -> ManifestOptions:
    """Return the options that `options_to_json` told of; rows may then name no file of this machine."""
    known = {name: told[name] for name in _IN_JSON if told.get(name) is not None}
    form = told.get("form")
    if "keep" in known:
        known["keep"] = tuple(known["keep"])
    return ManifestOptions(**known, form=None if form is None else Form(form), local_files=False)
