"""A passthrough value in the cell of a flat table.

It is always text: strings stay as they are, and any other value is its JSON, such as 12.5 or [1,2].
"""

from __future__ import annotations

from producer.results.columns import EXTRA, Row
from producer.results.ndjson import to_json


def extra_cell(row: Row, name: str) -> str | None:
    """Return the passthrough value that the manifest called `name`; None where the row has none."""
    value = (row.get(EXTRA) or {}).get(name)
    return value if value is None or isinstance(value, str) else to_json(value)
