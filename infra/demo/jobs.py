"""The demo's jobs, as data: which photograph, which mask, what is asked for, by which way, and what must come of it.

Most are rows of one batch, as a dataset would be filled; a few are calls of the API of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from common.contract import MODELS, Status

DEMO_LORA: Final = "demo-style"
"""The LoRA that `python -m infra.demo_model.lora` makes, by its name in the LoRA folder."""
_QUICK: Final = 10
"""Steps of the jobs that show something else than the picture: the demo has about a minute on two cores."""
_USUAL: Final = 28


class ImageBy(StrEnum):
    """How a job names its image."""

    FILE = "a PNG file"
    ALPHA = "a PNG file with alpha"
    URL = "fetched from a URL, as JPEG"
    GONE = "a URL that answers HTTP 404"


class UploadBy(StrEnum):
    """The two ways to upload a file."""

    FORM = "multipart form through the API"
    TICKET = "presigned PUT straight into the bucket"


@dataclass(frozen=True)
class Call:
    """How a job is sent that is no row of the batch: a request of its own, in the interactive queue."""

    version: str
    model: str
    upload_by: UploadBy


@dataclass(frozen=True)
class DemoJob:
    """One job. `fields` go into the request as they are; image, mask_image and LoRA are added to them."""

    name: str
    title: str
    shows: str
    photo: str
    mask: str | None
    """A name in masks.MASKS; None: nothing is masked, the bars of another size are filled."""
    fields: Mapping[str, Any]
    image_by: ImageBy = ImageBy.FILE
    call: Call | None = None
    """None: it is a row of the batch."""
    loras: tuple[tuple[str, float], ...] = ()
    expected: Status = Status.COMPLETED
    same_as: str | None = None
    """The job whose output must have the very same bytes."""
    differs_from: str | None = None
    """The job whose output must be another one, though all but one field are the same."""

    @property
    def output_format(self) -> str:
        """png, jpeg or webp."""
        return str(self.fields.get("output_format", "png"))

    @property
    def images(self) -> int:
        """How many outputs were asked for."""
        return int(self.fields.get("num_images", 1))

    def body(self, image: str, mask: str | None) -> dict[str, Any]:
        """Return the request: the job's fields with the sources of image and mask."""
        body: dict[str, Any] = {"image": image, **self.fields}
        if mask is not None:
            body["mask_image"] = mask
        if self.loras:
            body["loras"] = [{"path": path, "scale": scale} for path, scale in self.loras]
        return body


_MATCHA: Final = {
    "prompt": "a cup of green matcha tea",
    "size": "match",
    "seed": 42,
    "num_inference_steps": _USUAL,
}
_CURTAIN: Final = {"prompt": "a green curtain", "size": "match", "seed": 5, "num_inference_steps": _QUICK}

JOBS: Final = (
    DemoJob(
        name="matcha",
        title="Inpaint with a prompt",
        shows="What the mask covers is filled as the prompt says; every other pixel stays exactly as it was.",
        photo="coffee",
        mask="coffee_in_the_cup",
        fields=_MATCHA,
        call=Call("v3", MODELS[0], UploadBy.TICKET),
    ),
    DemoJob(
        name="matcha-again",
        title="The same seed again",
        shows="Same request and seed, as a row of the batch instead of a call: the output has the very same bytes.",
        photo="coffee",
        mask="coffee_in_the_cup",
        fields=_MATCHA,
        same_as="matcha",
    ),
    DemoJob(
        name="no-rocket",
        title="Remove",
        shows="An empty prompt continues the surroundings.",
        photo="rocket",
        mask="rocket",
        fields={"prompt": "", "size": "match", "seed": 7, "num_inference_steps": _QUICK},
    ),
    DemoJob(
        name="wide-flower",
        title="Outpaint",
        shows="No mask and a wider size: the photograph stays whole, and the bars at its sides are filled.",
        photo="flower",
        mask=None,
        fields={"prompt": "", "size": "896*427", "seed": 11, "num_inference_steps": _QUICK},
    ),
    DemoJob(
        name="backdrop",
        title="Alpha as mask",
        shows="No mask image: the transparent pixels of the PNG are the mask. No seed: one is drawn.",
        photo="astronaut",
        mask="around_the_astronaut",
        fields={"prompt": "a blue studio backdrop", "size": "match", "num_inference_steps": _QUICK},
        image_by=ImageBy.ALPHA,
    ),
    DemoJob(
        name="dahlias",
        title="Several images",
        shows="num_images 3: three outputs of one job, with the seeds 21, 22 and 23.",
        photo="flower",
        mask="dahlia",
        fields={
            "prompt": "a purple dahlia in bloom",
            "size": "match",
            "seed": 21,
            "num_images": 3,
            "num_inference_steps": 8,
        },
    ),
    DemoJob(
        name="badge",
        title="JPEG output",
        shows="output_format jpeg, in full colour resolution. Small, but no longer exact outside the mask.",
        photo="astronaut",
        mask="mission_patch",
        fields={
            "prompt": "a green badge",
            "size": "match",
            "seed": 3,
            "output_format": "jpeg",
            "num_inference_steps": _QUICK,
        },
        call=Call("v2", MODELS[1], UploadBy.FORM),
    ),
    DemoJob(
        name="curtain",
        title="Without a LoRA",
        shows="What the next job makes without its LoRA.",
        photo="cat",
        mask="cloth_behind_the_cat",
        fields=_CURTAIN,
    ),
    DemoJob(
        name="curtain-lora",
        title="With a LoRA",
        shows="The same request and seed with a LoRA from the operator's folder: its style is upright stripes.",
        photo="cat",
        mask="cloth_behind_the_cat",
        fields=_CURTAIN,
        loras=((DEMO_LORA, 1.0),),
        differs_from="curtain",
    ),
    DemoJob(
        name="evening",
        title="A soft mask, WebP output",
        shows="The image comes from a URL. The mask's greys blend softly; lossless WebP keeps the rest exact.",
        photo="china",
        mask="evening_sky",
        fields={
            "prompt": "a pink evening sky",
            "size": "match",
            "seed": 9,
            "output_format": "webp",
            "num_inference_steps": _QUICK,
        },
        image_by=ImageBy.URL,
    ),
    DemoJob(
        name="gone",
        title="A broken URL",
        shows="The image's URL answers 404: this job fails at once and says why, and the others are not disturbed.",
        photo="coffee",
        mask="coffee_in_the_cup",
        fields={"prompt": "never filled", "size": "match", "seed": 1, "num_inference_steps": _QUICK},
        image_by=ImageBy.GONE,
        expected=Status.FAILED,
    ),
)


BAD_ROW: Final[Mapping[str, Any]] = {"custom_id": "too-many-steps", "num_inference_steps": 99}
"""What is wrong on purpose in one more row of the manifest: it becomes no job, and the others are not disturbed."""


def choose_jobs(*, bundled_model: bool) -> tuple[DemoJob, ...]:
    """Return the jobs for a model: the demo's LoRA fits the bundled one alone."""
    return tuple(job for job in JOBS if bundled_model or not job.loras)
