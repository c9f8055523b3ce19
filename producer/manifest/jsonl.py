"""Manifests of one JSON object a line: flat, or {custom_id, body} as batch files have it.

A line that is no object is a bad row; the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from common.contract import shorten
from producer.manifest.columns import CUSTOM_ID, FIELDS, BadCell, meant_field, misspelt, typed_value
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, ManifestError, ManifestRow, NoRows
from producer.manifest.row_builder import RowBuilder, bad_text
from producer.manifest.strict_json import BadJson, parse_line
from producer.manifest.text import ByteSource, TextLines

BODY: Final = "body"
_KNOWN_KEYS: Final = 1000


class JsonlManifest:
    """One JSONL file or stream."""

    form = Form.JSONL

    def __init__(self, source: ByteSource, options: ManifestOptions, builder: RowBuilder) -> None:
        for field in options.columns:
            if field != CUSTOM_ID and field not in FIELDS:
                raise ManifestError(f"{shorten(field)} is no field of a request; the fields are {', '.join(FIELDS)}")
        self.name = source.name
        self._source = source
        self._options = options
        self._builder = builder
        self._fields = {name: name for name in (CUSTOM_ID, *FIELDS) if name not in options.columns}
        self._fields = {name: field for name, field in self._fields.items() if name not in options.keep}
        self._fields |= {column: field for field, column in options.columns.items()}
        self._always = frozenset(options.constants) | ({"mask_image"} if options.mask else set())
        self._meant: dict[str, str | None] = {}

    def rows(self, after: int = 0) -> Iterator[ManifestRow | BadRow]:
        """Yield the rows; the first is number `after` + 1. Raises ManifestError where it cannot go on, NoRows."""
        lines = TextLines(self._source)
        number = after
        for line in lines:
            if not line.strip():
                lines.pending = 0
                continue
            if number == after:
                self._check_first(line)
            number += 1
            where = f"{self.name}, line {lines.number}"
            if lines.flaws:
                yield BadRow(number, where, "row", shorten(line.strip()), lines.flaws[0])
                lines.flaws.clear()
            else:
                yield self.row(number, where, line)
            lines.pending = 0
            lines.row = number - after
        if number == after:
            raise NoRows(f"{self.name} holds no rows")

    def row(self, number: int, where: str, line: str) -> ManifestRow | BadRow:
        try:
            row = parse_line(line)
        except BadJson as error:
            return BadRow(number, where, "row", shorten(line.strip()), str(error))
        flaw = bad_text(row) if "\\u" in line else None  # only an escape can hide what the database cannot store
        if flaw is not None:
            return BadRow(number, where, "row", shorten(line.strip()), flaw)
        body = row.get(BODY)
        try:
            if isinstance(body, dict):
                return self._wrapped(number, where, row, body)
            if BODY in row and not any(self._fields.get(name) == "image" for name in row):
                raise BadCell(BODY, shorten(body), "must be an object with the fields of a request")
            return self._flat(number, where, row)
        except BadCell as error:
            return BadRow(number, where, error.field, error.value, error.reason)

    def _wrapped(self, number: int, where: str, row: dict[str, Any], given: dict[str, Any]) -> ManifestRow | BadRow:
        """Return {custom_id, body}: unknown keys of the body stay there, so that the intake can name them."""
        fields = self._fields
        body: dict[str, Any] = {}
        for name, value in given.items():
            field = fields.get(name, name)
            if field == CUSTOM_ID:
                field = name
            if value is not None:
                body[field] = typed_value(field, value)
        id_key = self._options.columns.get(CUSTOM_ID, CUSTOM_ID)
        extra = {name: value for name, value in row.items() if name not in (BODY, id_key)}
        return self._builder.build(number, where, body, row.get(id_key), extra)

    def _flat(self, number: int, where: str, row: dict[str, Any]) -> ManifestRow | BadRow:
        fields = self._fields
        body: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        custom_id = None
        for name, value in row.items():
            field = fields.get(name)
            if field is None:
                extra[name] = value
            elif field == CUSTOM_ID:
                custom_id = value
            elif value is not None:
                body[field] = typed_value(field, value)
        for name in extra:
            meant = self._meant_field(name)
            if meant is not None and meant not in body and meant not in self._always:
                raise BadCell(name, shorten(row[name]), misspelt(meant, name))
        return self._builder.build(number, where, body, custom_id, extra)

    def _meant_field(self, name: str) -> str | None:
        # The same few keys stand on every line; keys made up anew on every line must not pile up.
        if name not in self._meant:
            if len(self._meant) >= _KNOWN_KEYS:
                self._meant.clear()
            self._meant[name] = meant_field(name, (), self._options)
        return self._meant[name]

    def _check_first(self, line: str) -> None:
        start = line.strip()
        if start.startswith("["):
            raise ManifestError(
                f"{self.name} is one JSON array; write one object a line: jq -c '.[]' {self.name} > rows.jsonl"
            )
        if start == "{":
            raise ManifestError(
                f"{self.name} spreads an object over several lines; write one object a line: "
                f"jq -c . {self.name} > rows.jsonl"
            )
