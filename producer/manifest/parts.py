"""A table in several files, as Spark, dask and img2dataset write it: part after part, sorted by name.

Rows are numbered through all parts; an empty part is fine, as long as one has rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from producer.manifest.options import Form
from producer.manifest.row import BadRow, ManifestRow, NoRows


class Part(Protocol):
    """One file of the table."""

    def rows(self, after: int = 0) -> Iterator[ManifestRow | BadRow]:
        """Yield its rows, the first of which is number `after` + 1. Raises NoRows where it has none."""


class PartsManifest:
    """A folder or prefix of tables that have one form."""

    def __init__(self, name: str, form: Form, openers: Sequence[Callable[[], Part]]) -> None:
        """Each of `openers` opens one part when its turn comes; it may raise NoRows, too."""
        self.name = name
        self.form = form
        self._openers = tuple(openers)

    def rows(self) -> Iterator[ManifestRow | BadRow]:
        """Yield the rows of all parts. Raises ManifestError where one of them cannot be read (on)."""
        number = 0
        for opener in self._openers:
            try:
                for row in opener().rows(number):
                    number = row.number
                    yield row
            except NoRows:
                continue
        if number == 0:
            raise NoRows(f"{self.name} holds no rows")
