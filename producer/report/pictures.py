"""Which pictures a row is shown with: what went in, what was masked, what came out, or words where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from common.contract import Status
from common.s3_uri import is_s3_uri
from common.safety_policy import SafetyPolicy
from common.urls import shown
from producer.report.summary import state_of
from producer.report.thumbnails import Kind, Wanted
from producer.results.columns import Row
from producer.results.outputs import outputs_of

_ENDED_WITHOUT: Final = {
    "failed": "failed: no output",
    "cancelled": "cancelled: no output",
    "created": "waits",
    "processing": "is being filled",
}

_STORED: Final[Mapping[str, str]] = {
    SafetyPolicy.BLANK: "what is stored is a blank",
    SafetyPolicy.BLUR: "what is stored is blurred",
    SafetyPolicy.DROP: "nothing of it is stored",
    SafetyPolicy.ALLOW: "it is stored, and not shown here",
}
"""A page goes from hand to hand, so no flagged image is shown on it, whatever is stored."""


@dataclass(frozen=True)
class Picture:
    """One place in a row's line of pictures. Either it is wanted from the bucket, or words stand there."""

    caption: str
    wanted: Wanted | None = None
    words: str = ""


@dataclass(frozen=True)
class RowPictures:
    """The pictures of a row, in the order in which they are shown."""

    pictures: tuple[Picture, ...]

    @property
    def to_fetch(self) -> list[Wanted]:
        """Those that lie in the bucket."""
        return [picture.wanted for picture in self.pictures if picture.wanted is not None]


def pictures_of(row: Row) -> RowPictures:
    """Return the row's pictures: before, mask, and one for each output."""
    return RowPictures((_before(row), _mask(row), *_after(row)))


def place_of(uri: object) -> str:
    """Return an input's URI as it may be shown: others than s3:// without query and user name, which hold secrets."""
    text = str(uri)
    return text if is_s3_uri(text) else shown(text).strip('"')


def _before(row: Row) -> Picture:
    return _input("before", row.get("image"), Kind.IMAGE, row.get("image_sha256"))


def _mask(row: Row) -> Picture:
    if row.get("mask_image") is not None:
        return _input("mask: white is filled", row["mask_image"], Kind.MASK, row.get("mask_sha256"))
    if row.get("image") is not None and is_s3_uri(str(row["image"])):
        return _input("mask: the image's clear parts", row["image"], Kind.CLEAR_PARTS, row.get("image_sha256"))
    return Picture("mask", words="no mask file: clear parts of the image or bars are filled")


def _input(caption: str, uri: object, kind: Kind, sha256: str | None) -> Picture:
    if uri is None:
        return Picture(caption, words="not known")
    if is_s3_uri(str(uri)):
        return Picture(caption, Wanted(str(uri), kind, sha256))
    return Picture(caption, words=f"not fetched: {_host_and_name(str(uri))}")


def _after(row: Row) -> Iterator[Picture]:
    outputs, flags, seeds = outputs_of(row), row.get("nsfw") or [], row.get("seeds") or []
    for number, output in enumerate(outputs):
        caption = "after" if len(outputs) == 1 else f"after {number + 1} of {len(outputs)}"
        if number < len(seeds) and seeds[number] is not None:
            caption += f", seed {seeds[number]}"
        if number < len(flags) and flags[number]:
            yield Picture(caption, words=f"flagged by the safety checker: {_STORED[_policy(row, number)]}")
        elif output.uri is None:
            yield Picture(caption, words="the table does not say where it lies")
        else:
            yield Picture(caption, Wanted(output.uri, Kind.IMAGE, output.sha256, output.bytes))
    if not outputs:
        state = state_of(row)
        missing = "no output" if state == Status.COMPLETED else ""
        yield Picture("after", words=_ENDED_WITHOUT.get(state, missing or state))


def _policy(row: Row, number: int) -> str:
    policies = row.get("nsfw_policy") or []
    known = str(policies[number]) if number < len(policies) else ""
    return known if known in _STORED else SafetyPolicy.BLANK.value  # of a row of an older API


def _host_and_name(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        host = parts.hostname or parts.scheme
    except ValueError:
        return "an address that cannot be read"
    name = parts.path.rstrip("/").rpartition("/")[2]
    return f"{host} … {name[-60:]}" if name else host
