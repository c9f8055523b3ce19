"""Manifests as CSV or TSV: a header line, then a row of text cells each.

Python's csv module reads them: it is in C, tells the line, and leaves a ragged row as it stands instead of mending it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import Any, Final

from common.contract import shorten
from producer.manifest.columns import BOOLEANS, INTEGERS, NUMBERS, Columns, cell_value, map_columns
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, ManifestError, ManifestRow, NoRows
from producer.manifest.row_builder import RowBuilder
from producer.manifest.text import ByteSource, TextLines

_CONVERTED: Final = INTEGERS | NUMBERS | BOOLEANS | {"loras"}
_SEPARATORS: Final = {Form.CSV: ",", Form.TSV: "\t"}
_OTHER_SEPARATORS: Final = (
    ("\t", "tabs; say --form tsv"),
    (";", "semicolons; save it with commas"),
    (",", "commas; say --form csv"),
)
_TOO_LONG: Final = "field larger than field limit"
_END_INSIDE: Final = "unexpected end of data"
_REASONS: Final = (
    ("expected after", "has text right after a closing quotation mark; write a quotation mark inside a cell twice"),
    ("new-line character", "has a carriage return inside a cell that is not quoted; put the cell in quotation marks"),
)


class DelimitedManifest:
    """One CSV or TSV file or stream."""

    def __init__(self, source: ByteSource, form: Form, options: ManifestOptions, builder: RowBuilder) -> None:
        self.form = form
        self.name = source.name
        self._source = source
        self._options = options
        self._builder = builder

    def rows(self, after: int = 0) -> Iterator[ManifestRow | BadRow]:
        """Yield the rows; the first is number `after` + 1.

        Raises ManifestError where the header is wrong, or the file cannot be read on; NoRows.
        """
        lines = TextLines(self._source)
        records = _records(lines, _SEPARATORS[self.form])
        first = next(records, None)
        if first is None:
            raise NoRows(f"{self.name} holds no rows: it is empty")
        _, header, flaw = first
        columns = self._columns(header, flaw, lines.number)
        read = _row_reader(columns)
        width = len(header)
        build = self._builder.build
        number = after
        for line, cells, flaw in records:
            number += 1
            if flaw is None and len(cells) != width:
                flaw = (
                    f"has {_cells(len(cells))}, but the header has {_cells(width)}; "
                    "put cells that hold a separator in quotation marks"
                )
            if flaw is None:
                body, custom_id, extra = read(cells)
                yield build(number, f"{self.name}, line {line}", body, custom_id, extra)
            else:
                shown = shorten(_SEPARATORS[self.form].join(cells)) if cells else ""
                yield BadRow(number, self._where(line, lines.number), "row", shown, flaw)
            lines.row = number - after
        if number == after:
            raise NoRows(f"{self.name} holds no rows: there is nothing below its header")

    def _where(self, first: int, last: int) -> str:
        return f"{self.name}, line {first}" if first == last else f"{self.name}, lines {first} to {last}"

    def _columns(self, header: list[str], flaw: str | None, line: int) -> Columns:
        if flaw is not None:
            raise ManifestError(f"{self.name}, line {line}: the header cannot be read: {flaw}")
        if len(header) == 1 and header[0] not in self._options.columns.values():
            for separator, advice in _OTHER_SEPARATORS:
                if separator in header[0]:
                    raise ManifestError(f"{self.name}: its columns seem to be separated by {advice}")
        return map_columns(header, self._options, self.name)


def _records(lines: TextLines, separator: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield (line that it begins on, cells, what is wrong with it), without the blank lines.

    Raises ManifestError where quotation marks do not tell any more where a row ends.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    before = 0
    while True:
        flaw: str | None = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = []
            flaw = _in_words(str(error), lines.name, before + 1)
        line, before = before + 1, lines.number
        lines.pending = 0
        if lines.flaws:
            flaw = lines.flaws[0]
            lines.flaws.clear()
        if cells or flaw is not None:
            yield line, cells, flaw


def _in_words(error: str, name: str, line: int) -> str:
    """Return what is wrong with one row. Raises ManifestError where the rows after it are lost, too."""
    if error.startswith(_TOO_LONG):
        raise ManifestError(
            f"{name}: the row at line {line} has a cell of more than {csv.field_size_limit()} characters; "
            "is a closing quotation mark missing?"
        )
    if error.startswith(_END_INSIDE):
        raise ManifestError(
            f"{name} ends inside a cell of the row at line {line}: close its quotation mark, or copy the file again"
        )
    return next((words for part, words in _REASONS if part in error), f"cannot be read: {error}")


def _row_reader(columns: Columns) -> Callable[[list[str]], tuple[dict[str, Any], str | None, dict[str, Any]]]:
    """Return the function that takes the cells of a row apart: (fields, custom_id, passed through)."""
    plain = tuple((field, place) for field, place in columns.fields if field not in _CONVERTED)
    converted = tuple((field, place) for field, place in columns.fields if field in _CONVERTED)
    extra_columns = columns.extra
    id_place = columns.custom_id

    def read(cells: list[str]) -> tuple[dict[str, Any], str | None, dict[str, Any]]:
        body: dict[str, Any] = {field: cells[place] for field, place in plain if cells[place]}
        for field, place in converted:
            if cells[place].strip():
                body[field] = cell_value(field, cells[place])
        extra = {name: cells[place] for name, place in extra_columns}
        return body, None if id_place is None else cells[id_place], extra

    return read


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
