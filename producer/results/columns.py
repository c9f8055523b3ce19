"""The columns of a results table: the one list of names, types and meanings, for every form of it.

A column has the same type whatever the rows hold, so that tables of several batches can be read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

Row = dict[str, Any]
"""A row of the table: a plain value for each column, model_version as an object, and `extra` as the manifest had it."""

EXTRA: Final = "extra"
"""Where a row keeps its passthrough columns, by their names in the manifest."""
MODEL_VERSION: Final = "model_version"
"""An object in a row, and JSON text in flat tables: pandas and DuckDB have no good type for it."""
EXTRA_PREFIX: Final = "extra_"


class Kind(StrEnum):
    """What a column holds; producer/results/schema.py has the type for it in Parquet."""

    TEXT = "text"
    TEXTS = "texts"
    INTEGER = "integer"
    INTEGERS = "integers"
    NUMBER = "number"
    FLAG = "flag"
    FLAGS = "flags"
    TIME = "time"
    LORAS = "loras"
    BOXES = "boxes"


@dataclass(frozen=True)
class Column:
    """One column of the table. All are nullable: what is not known (yet) is null."""

    name: str
    kind: Kind
    meaning: str


COLUMNS: Final[tuple[Column, ...]] = (
    Column("custom_id", Kind.TEXT, "the row's own id, where the manifest gave one"),
    Column("row", Kind.INTEGER, "the row's number in the manifest, from 1"),
    Column("job_id", Kind.TEXT, "the job that this row became: the id of its prediction on the wire"),
    Column("batch_id", Kind.TEXT, "the batch"),
    Column("status", Kind.TEXT, "created, processing, completed or failed (cancelled: failed, with that error_code)"),
    Column("error_code", Kind.TEXT, "one stable word for what went wrong; null unless failed"),
    Column("error", Kind.TEXT, "what went wrong, in words; null unless failed"),
    Column("attempts", Kind.INTEGER, "how often a worker took the job"),
    Column("failures", Kind.INTEGER, "tries that count against the job"),
    Column("retryable", Kind.FLAG, "whether the same again may work; null unless failed"),
    Column("image", Kind.TEXT, "URI of the image, as in the request"),
    Column("mask_image", Kind.TEXT, "URI of the mask, as in the request"),
    Column("image_sha256", Kind.TEXT, "of the image's file, as it was fetched"),
    Column("mask_sha256", Kind.TEXT, "of the mask's file, as it was fetched"),
    Column("outputs", Kind.TEXTS, "s3:// URIs of the results; null unless completed, and in a dropped one's place"),
    Column("output_sha256", Kind.TEXTS, "of each output's file"),
    Column("output_bytes", Kind.INTEGERS, "of each output's file"),
    Column("output_format", Kind.TEXT, "png, jpeg or webp"),
    Column("output_width", Kind.INTEGER, "in pixels; the same for all outputs of a row"),
    Column("output_height", Kind.INTEGER, "in pixels; the same for all outputs of a row"),
    Column("seeds", Kind.INTEGERS, "the seed of each output"),
    Column("nsfw", Kind.FLAGS, "whether each output was flagged; null where nobody looked"),
    Column("nsfw_policy", Kind.TEXTS, "what is stored of each flagged output: blank, blur, drop (nothing), allow (it)"),
    Column("prompt", Kind.TEXT, "what to put there"),
    Column("size", Kind.TEXT, "W*H, or match: the image's own"),
    Column("num_inference_steps", Kind.INTEGER, "steps of the model"),
    Column("guidance_scale", Kind.NUMBER, "how closely the prompt was followed"),
    Column("seed", Kind.INTEGER, "the seed of the first output, drawn where the row asked for a random one"),
    Column("num_images", Kind.INTEGER, "outputs asked for"),
    Column("enable_safety_checker", Kind.FLAG, "whether the row asked for the safety check"),
    Column("loras", Kind.LORAS, "LoRAs asked for, in order; sha256 and revision of the file used, where known"),
    Column("region", Kind.TEXT, "full or auto: what the row was filled under; before that, what it asked for"),
    Column("regions", Kind.BOXES, "left, top, width, height in the output of each part generated; null where all was"),
    Column("crop_box", Kind.INTEGERS, "left, top, right, bottom around all regions; null where there are none"),
    Column("mask_coverage", Kind.NUMBER, "the part of the canvas that was filled, 0 to 1"),
    Column("max_difference_outside_mask", Kind.INTEGER, "largest change of a channel outside the mask, 0 to 255"),
    Column(MODEL_VERSION, Kind.TEXT, "JSON object: model, revision, dtype, libraries and device that made the outputs"),
    Column("created_at", Kind.TIME, "when the row became a job"),
    Column("started_at", Kind.TIME, "when a worker took the job last"),
    Column("ended_at", Kind.TIME, "when the job completed or failed"),
    Column("queue_ms", Kind.INTEGER, "milliseconds from created to taken by the worker that completed it"),
    Column("fetch_ms", Kind.INTEGER, "milliseconds to fetch and decode the inputs"),
    Column("wait_ms", Kind.INTEGER, "milliseconds of waiting for the device"),
    Column("inference_ms", Kind.INTEGER, "milliseconds on the device"),
    Column("upload_ms", Kind.INTEGER, "milliseconds of safety check, paste-back, encoding and upload"),
    Column("worker", Kind.TEXT, "the worker that had the job last"),
)

SAVED_COLUMNS: Final[tuple[Column, ...]] = (
    Column("files", Kind.TEXTS, "where each output lies beside this table; null where it could not be had"),
    Column("file_errors", Kind.TEXTS, "why an output could not be had; null where it was"),
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


def columns_of(*, saved: bool = False) -> tuple[Column, ...]:
    """Return the table's own columns, in order; `saved`: with those of outputs that lie beside it."""
    return COLUMNS + SAVED_COLUMNS if saved else COLUMNS


def column_names(*, saved: bool = False) -> tuple[str, ...]:
    """Return the names of the table's own columns, in order."""
    return tuple(column.name for column in columns_of(saved=saved))


def time_columns() -> tuple[str, ...]:
    """Return the names of the columns that hold times."""
    return tuple(column.name for column in COLUMNS if column.kind is Kind.TIME)


def meanings() -> Mapping[str, str]:
    """Return name → meaning of every column, for documentation and pages."""
    return {column.name: column.meaning for column in columns_of(saved=True)}


def _may_stay(name: str) -> bool:
    return name != "" and name.casefold() not in _NAMES
