"""What a completed job leaves behind: outputs, timings, and all that it takes to make the same image again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from common.contract import RegionMode
from common.safety_policy import SafetyPolicy

Region = tuple[int, int, int, int]
"""Left, top, width and height, in the output's pixels."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Output(_Frozen):
    """One image that was made. The link to it is signed when it is read, never kept."""

    key: str | None
    """The object's key in the bucket. None, as sha256 and bytes, where the safety policy dropped the image."""
    sha256: str | None
    bytes: int | None
    format: str
    width: int
    height: int
    seed: int
    nsfw: bool | None
    """Whether the safety checker flagged it; None where it did not look."""
    policy: SafetyPolicy | None = None
    """What was done with it because it was flagged; None where it was not. (Where it was, and an older worker did not
    say, a blank is stored.)"""


class Timings(_Frozen):
    """Where the time went, in whole milliseconds."""

    queue: int
    """From created to claimed."""
    fetch: int
    """Inputs and LoRAs fetched, decoded and drawn on the canvas."""
    wait: int
    """Waiting for the device."""
    inference: int
    """On the device."""
    upload: int
    """Safety check, paste-back, encoding and upload."""


class UsedLora(_Frozen):
    """A LoRA as it was really used."""

    path: str
    sha256: str
    scale: float
    revision: str | None = None
    """The hub's commit that it came from; None where it came from elsewhere."""


class JobResult(_Frozen):
    """The result column of a completed job."""

    outputs: tuple[Output, ...]
    timings: Timings
    model_version: dict[str, str]
    worker: str
    mask_coverage: float
    """The part of the canvas that was filled, 0 to 1."""
    region: RegionMode | None = None
    """What the job was filled under: its own wish, its batch's or the fleet's. None: a worker that knew only full."""
    regions: tuple[Region, ...] | None = None
    """What the model made, where that was less than the canvas; every pixel of the mask is in exactly one."""
    max_difference_outside_mask: int | None = None
    """The largest difference of a channel, 0 to 255, between the stored images and the original where the mask is 0.
    Blanked, blurred and dropped images don't count; None where none is left, and where the mask covers all."""
    inputs: dict[str, str]
    """sha256 of image and mask_image, as fetched."""
    loras: tuple[UsedLora, ...] = ()
