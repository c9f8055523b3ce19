"""The columns of a results table: the one list of names, types and meanings, for every form of it.

A column has the same type whatever the rows hold, so that tables of several batches can be read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

Row = dict[str, Any]
"""A row of the table: a plain value for each column, model_version as an object, and `extra` as the manifest had it."""

EXTRA: Final = "extra"
"""Where a row keeps its passthrough columns, by their names in the manifest."""
MODEL_VERSION: Final = "model_version"
"""An object in a row, and JSON text in flat tables: pandas and DuckDB have no good type for it."""
EXTRA_PREFIX: Final = "extra_"


@dataclass(frozen=True)
class Column:
    """One column of the table. All are nullable: what is not known (yet) is null."""

    name: str
    type: pa.DataType
    meaning: str


_TEXT: Final = pa.string()
_TEXTS: Final = pa.list_(pa.string())
_INTEGER: Final = pa.int64()
_INTEGERS: Final = pa.list_(pa.int64())
_NUMBER: Final = pa.float64()
_FLAG: Final = pa.bool_()
_FLAGS: Final = pa.list_(pa.bool_())
_TIME: Final = pa.timestamp("us", tz="UTC")
_LORAS: Final = pa.list_(
    pa.struct([("path", pa.string()), ("scale", pa.float64()), ("sha256", pa.string()), ("revision", pa.string())])
)

COLUMNS: Final[tuple[Column, ...]] = (
    Column("custom_id", _TEXT, "the row's own id, where the manifest gave one"),
    Column("row", _INTEGER, "the row's number in the manifest, from 1"),
    Column("job_id", _TEXT, "the job that this row became: the id of its prediction on the wire"),
    Column("batch_id", _TEXT, "the batch"),
    Column("status", _TEXT, "created, processing, completed or failed (cancelled: failed, with that error_code)"),
    Column("error_code", _TEXT, "one stable word for what went wrong; null unless failed"),
    Column("error", _TEXT, "what went wrong, in words; null unless failed"),
    Column("attempts", _INTEGER, "how often a worker took the job"),
    Column("failures", _INTEGER, "tries that count against the job"),
    Column("retryable", _FLAG, "whether the same again may work; null unless failed"),
    Column("image", _TEXT, "URI of the image, as in the request"),
    Column("mask_image", _TEXT, "URI of the mask, as in the request"),
    Column("image_sha256", _TEXT, "of the image's file, as it was fetched"),
    Column("mask_sha256", _TEXT, "of the mask's file, as it was fetched"),
    Column("outputs", _TEXTS, "s3:// URIs of the results; null unless completed"),
    Column("output_sha256", _TEXTS, "of each output's file"),
    Column("output_bytes", _INTEGERS, "of each output's file"),
    Column("output_format", _TEXT, "png, jpeg or webp"),
    Column("output_width", _INTEGER, "in pixels; the same for all outputs of a row"),
    Column("output_height", _INTEGER, "in pixels; the same for all outputs of a row"),
    Column("seeds", _INTEGERS, "the seed of each output"),
    Column("nsfw", _FLAGS, "whether each output was flagged (and is a blank); null where nobody looked"),
    Column("prompt", _TEXT, "what to put there"),
    Column("size", _TEXT, "W*H, or match: the image's own"),
    Column("num_inference_steps", _INTEGER, "steps of the model"),
    Column("guidance_scale", _NUMBER, "how closely the prompt was followed"),
    Column("seed", _INTEGER, "the seed of the first output, drawn where the row asked for a random one"),
    Column("num_images", _INTEGER, "outputs asked for"),
    Column("enable_safety_checker", _FLAG, "whether the row asked for the safety check"),
    Column("loras", _LORAS, "LoRAs asked for, in order; sha256 and revision of the file used, where known"),
    Column("crop_box", _INTEGERS, "left, top, right, bottom in the image where only a crop was filled; else null"),
    Column("mask_coverage", _NUMBER, "the part of the canvas that was filled, 0 to 1"),
    Column("max_difference_outside_mask", _INTEGER, "largest change of a channel outside the mask, 0 to 255"),
    Column(MODEL_VERSION, _TEXT, "JSON object: model, revision, dtype, libraries and device that made the outputs"),
    Column("created_at", _TIME, "when the row became a job"),
    Column("started_at", _TIME, "when a worker took the job last"),
    Column("ended_at", _TIME, "when the job completed or failed"),
    Column("queue_ms", _INTEGER, "milliseconds from created to taken by the worker that completed it"),
    Column("fetch_ms", _INTEGER, "milliseconds to fetch and decode the inputs"),
    Column("wait_ms", _INTEGER, "milliseconds of waiting for the device"),
    Column("inference_ms", _INTEGER, "milliseconds on the device"),
    Column("upload_ms", _INTEGER, "milliseconds of safety check, paste-back, encoding and upload"),
    Column("worker", _TEXT, "the worker that had the job last"),
)

SAVED_COLUMNS: Final[tuple[Column, ...]] = (
    Column("files", _TEXTS, "where each output lies beside this table; null where it could not be had"),
    Column("file_errors", _TEXTS, "why an output could not be had; null where it was"),
)
"""What a table has in addition when the outputs are saved beside it."""

_NAMES: Final = frozenset(column.name for column in (*COLUMNS, *SAVED_COLUMNS))


def extra_names(names: Iterable[str]) -> dict[str, str]:
    """Return passthrough name → name of its column in CSV and Parquet; both in the order given, each column once.

    A name that the table itself uses (in any case, since DuckDB knows none) and an empty one get `extra_` in front.
    """
    wanted = list(dict.fromkeys(names))
    taken = {name for name in wanted if _may_stay(name)}
    columns: dict[str, str] = {}
    for name in wanted:
        column = name
        if not _may_stay(name):
            column = EXTRA_PREFIX + name
            while column in taken:
                column = EXTRA_PREFIX + column
            taken.add(column)
        columns[name] = column
    return columns


def table_schema(extra_columns: Sequence[str] = (), *, saved: bool = False) -> pa.Schema:
    """Return the schema of a table: the columns of all, then the passthrough columns, which are always text."""
    fields = [
        pa.field(column.name, column.type, metadata={"meaning": column.meaning}) for column in _columns(saved=saved)
    ]
    fields += [
        pa.field(column, pa.string(), metadata={"meaning": "passed through from the manifest"})
        for column in extra_names(extra_columns).values()
    ]
    return pa.schema(fields)


def column_names(*, saved: bool = False) -> tuple[str, ...]:
    """Return the names of the table's own columns, in order."""
    return tuple(column.name for column in _columns(saved=saved))


def time_columns() -> tuple[str, ...]:
    """Return the names of the columns that hold times."""
    return tuple(column.name for column in COLUMNS if column.type == _TIME)


def meanings() -> Mapping[str, str]:
    """Return name → meaning of every column, for documentation and pages."""
    return {column.name: column.meaning for column in _columns(saved=True)}


def _columns(*, saved: bool) -> tuple[Column, ...]:
    return COLUMNS + SAVED_COLUMNS if saved else COLUMNS


def _may_stay(name: str) -> bool:
    return name != "" and name.casefold() not in _NAMES
