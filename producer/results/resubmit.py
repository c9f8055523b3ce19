"""Failed rows as a manifest of their own, which can be submitted as it is.

Each line is {custom_id, body, passthrough columns}. The body says what differs from a batch's defaults, so that options
given with the new batch hold for the rest, and the drawn seed, so that the row makes the image that it would have made.
Submit it under a name of its own: in the old batch these rows are known with other content (there, `retry` runs them
again). A row without a custom_id becomes "row-N" by its number in the first manifest, and keeps that from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from common.contract import MATCH, FillRequest, Status
from producer.results.columns import EXTRA, EXTRA_PREFIX, Row
from producer.results.ndjson import to_json

_DEFAULTS: Final[Mapping[str, Any]] = {
    "num_inference_steps": FillRequest.model_fields["num_inference_steps"].default,
    "prompt": "",
    "size": MATCH,
    "guidance_scale": FillRequest.model_fields["guidance_scale"].default,
    "num_images": FillRequest.model_fields["num_images"].default,
    "output_format": FillRequest.model_fields["output_format"].default,
    "enable_safety_checker": FillRequest.model_fields["enable_safety_checker"].default,
    "region": None,
}
_TAKEN: Final = frozenset({"custom_id", "body"})
"""Keys that a reader of the line takes for something else than a passthrough column."""


def write_resubmit(rows: Iterable[Row]) -> Iterator[bytes]:
    """Yield one line of JSON for each failed row; rows of any other status are left out."""
    for row in rows:
        if row.get("status") == Status.FAILED:
            yield to_json(resubmit_line(row)).encode() + b"\n"


def resubmit_line(row: Row) -> dict[str, Any]:
    """Return the row as a line of a manifest. A passthrough column named custom_id or body gets `extra_` in front."""
    body = {name: row[name] for name in ("image", "mask_image") if row.get(name) is not None}
    body |= {
        name: row[name] for name, default in _DEFAULTS.items() if row.get(name) is not None and row[name] != default
    }
    if row.get("loras"):
        body["loras"] = [{"path": lora["path"], "scale": lora["scale"]} for lora in row["loras"]]
    if row.get("seed") is not None:
        body["seed"] = row["seed"]
    identity = row.get("custom_id")
    line = {"custom_id": f"row-{row.get('row')}" if identity is None else identity, "body": body}
    return line | _passthrough(row.get(EXTRA) or {})


def _passthrough(extra: Mapping[str, Any]) -> dict[str, Any]:
    names = {}
    for name in extra:
        free = name
        while free in _TAKEN or (free != name and free in extra):
            free = EXTRA_PREFIX + free
        names[free] = extra[name]
    return names
