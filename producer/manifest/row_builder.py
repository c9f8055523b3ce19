"""Makes a row of what any form of manifest found: files apart from URLs, the constants, the one mask for all.

Every form ends here, so that the same row means the same in each of them. It judges no field beyond its files and the
custom_id: the intake does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.contract import shorten
from producer.manifest.columns import SOURCES, BadCell, custom_id_of
from producer.manifest.local_paths import BadPath, Places, is_remote
from producer.manifest.options import ManifestOptions
from producer.manifest.row import BadRow, Content, ManifestError, ManifestRow


class RowBuilder:
    """Builds the rows of one manifest. Raises ManifestError where the one mask for all cannot be read."""

    def __init__(self, options: ManifestOptions, places: Places) -> None:
        self._places = places
        self._constants = dict(options.constants)
        self._mask: Content | None = None
        if options.mask is not None:
            mask = _one_mask(options.mask, local_files=options.local_files)
            if isinstance(mask, str):
                self._constants["mask_image"] = mask
            else:
                self._mask = mask
                self._constants.pop("mask_image", None)

    def build(
        self,
        number: int,
        where: str,
        body: dict[str, Any],
        custom_id: Any = None,
        extra: Mapping[str, Any] | None = None,
        files: dict[str, Content] | None = None,
    ) -> ManifestRow | BadRow:
        """Return the row. `body` holds no None; it is taken over and changed.

        `files` are those that came as bytes, by field; they win over what `body` says.
        """
        files = {} if files is None else files
        name: str | None = None
        try:
            name = custom_id_of(custom_id)
            for field in SOURCES:
                value = body.get(field)
                if field in files or value is None:
                    body.pop(field, None)
                elif isinstance(value, str):
                    self._place(field, value, body, files)
        except BadCell as error:
            return BadRow(number, where, error.field, error.value, error.reason, name)
        if self._constants:
            for field, value in self._constants.items():
                if field not in body and field not in files:
                    body[field] = value
        if self._mask is not None and "mask_image" not in body and "mask_image" not in files:
            files["mask_image"] = self._mask
        return ManifestRow(number, where, body, name, files, {} if extra is None else extra)

    def _place(self, field: str, value: str, body: dict[str, Any], files: dict[str, Content]) -> None:
        if value.startswith(("https://", "http://", "s3://")):
            return  # the usual ones, before anything slower is tried
        if not value.strip():
            del body[field]
            return
        try:
            found = self._places.find(value)
        except BadPath as error:
            raise BadCell(field, shorten(value), str(error)) from None
        if isinstance(found, str):
            body[field] = found
        else:
            del body[field]
            files[field] = found


def bad_text(value: Any) -> str | None:
    """Return what is wrong with the texts inside a JSON value, or None. The database stores neither of the two."""
    stack = [value]
    while stack:
        inner = stack.pop()
        if isinstance(inner, str):
            if "\x00" in inner:
                return "holds a NUL character; take it out"
            if not inner.isascii() and any("\ud800" <= char <= "\udfff" for char in inner):
                return "holds half of a surrogate pair; write the character as a whole"
        elif isinstance(inner, dict):
            stack.extend(inner)
            stack.extend(inner.values())
        elif isinstance(inner, list):
            stack.extend(inner)
    return None


def finite(value: Any) -> Any:
    """Return a float that JSON can hold, or None for NaN and infinities; any other value as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _one_mask(mask: str, *, local_files: bool) -> Content | str:
    if is_remote(mask):
        return mask.strip()
    # The user wrote it beside the command, so it is looked up from where the command runs.
    here = Places(Path.cwd(), "the current folder", local_files)
    try:
        return here.find(os.path.abspath(os.path.expanduser(mask)) if "://" not in mask else mask)
    except BadPath as error:
        raise ManifestError(f"the mask for all rows, {shorten(mask)}, {error}") from None
