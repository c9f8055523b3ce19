"""A row brought into the cells of a flat table, where model_version is JSON text and each passthrough column a column.

A passthrough column is always text: strings stay as they are, and any other value is its JSON, such as 12.5 or [1,2].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from producer.results.columns import EXTRA, Row
from producer.results.ndjson import to_json


def own_cell(row: Row, name: str) -> Any:
    """Return the value of one of the table's own columns."""
    value = row.get(name)
    return to_json(value) if isinstance(value, Mapping) else value


def extra_cell(row: Row, name: str) -> str | None:
    """Return the passthrough value that the manifest called `name`; None where the row has none."""
    value = (row.get(EXTRA) or {}).get(name)
    return value if value is None or isinstance(value, str) else to_json(value)
