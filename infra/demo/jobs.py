"""The demo's jobs, as data: which picture, which mask, what is asked for, by which way, and what must come of it.

Most are rows of one batch, as a dataset would be filled; a few are calls of the API of their own. Seeds were picked by
eye among the first few: how well the bundled model does with any seed, infra/demo_model/quality.py measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from common.contract import MODELS, Status
from infra.demo_model.styles import OUTLINED, STRIPED

_STEPS: Final = 28
"""The usual number: about a second for a picture of the demo on two cores."""


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
    picture: str
    """The name of a photograph or of a drawing."""
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
    differs_from: tuple[str, ...] = ()
    """Jobs whose outputs must be others, though all fields but the LoRAs are the same. The first one has none."""
    is_scored: bool = False
    """Whether what is drawn must be what was asked for. Another model than the bundled one may draw as it likes."""

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


def _fields(prompt: str, seed: int | None, **more: Any) -> dict[str, Any]:
    drawn = {} if seed is None else {"seed": seed}
    return {"prompt": prompt, "size": "match", "num_inference_steps": _STEPS, **drawn, **more}


_CIRCLE: Final = _fields("a red circle", 1)
_STYLED: Final = _fields("a blue circle", 5)

JOBS: Final = (
    DemoJob(
        name="circle",
        title="Inpaint",
        shows="What the mask covers is filled as the prompt says; every other pixel stays exactly as it was.",
        picture="sky",
        mask="circle_at_the_left",
        fields=_CIRCLE,
        call=Call("v3", MODELS[0], UploadBy.TICKET),
        is_scored=True,
    ),
    DemoJob(
        name="star",
        title="Another colour, another shape",
        shows="Colour and shape are the prompt's; place and size are the mask's.",
        picture="night",
        mask="box_at_the_right",
        fields=_fields("a yellow star", 1),
        is_scored=True,
    ),
    DemoJob(
        name="triangle",
        title="The background goes on",
        shows="Around the shape, but inside the mask, the stripes are continued.",
        picture="awning",
        mask="box_at_the_right",
        fields=_fields("a green triangle", 8),
        is_scored=True,
    ),
    DemoJob(
        name="heart",
        title="A round mask",
        shows="A mask has any form; the shape stands in its middle.",
        picture="sand",
        mask="ellipse_at_the_left",
        fields=_fields("a purple heart", 13),
        is_scored=True,
    ),
    DemoJob(
        name="ring",
        title="And one with a hole",
        shows="Through the ring's middle the background is seen.",
        picture="lagoon",
        mask="box_at_the_right",
        fields=_fields("an orange ring", 17),
        is_scored=True,
    ),
    DemoJob(
        name="coffee",
        title="In a photograph",
        shows="The same in a real photograph. The bundled model has seen none: it draws what it knows.",
        picture="coffee",
        mask="inside_the_cup",
        fields=_fields("a red heart", 2),
    ),
    DemoJob(
        name="no-star",
        title="Removed",
        shows="An empty prompt continues what surrounds the mask: the star is gone, the stripes run through.",
        picture="meadow",
        mask="around_the_star",
        fields=_fields("", 7),
        is_scored=True,
    ),
    DemoJob(
        name="no-rocket",
        title="Removed from a photograph",
        shows="An empty prompt again: the sky goes on where the rocket stood.",
        picture="rocket",
        mask="rocket",
        fields=_fields("", 7),
    ),
    DemoJob(
        name="wider",
        title="Outpainted",
        shows="No mask and a wider size: the picture stays whole, and the bars at its sides are filled.",
        picture="ribbon",
        mask=None,
        fields=_fields("", 11, size="576*384"),
        is_scored=True,
    ),
    DemoJob(
        name="seeds",
        title="Several images",
        shows="num_images 3: three outputs of one job, with the seeds 5, 6 and 7. Each seed has its own colour.",
        picture="mist",
        mask="circle_at_the_right",
        fields=_fields("a diamond", 5, num_images=3),
    ),
    DemoJob(
        name="circle-again",
        title="Same seed, same bytes",
        shows="Same request and seed, as a row of the batch instead of a call: the output has the very same bytes.",
        picture="sky",
        mask="circle_at_the_left",
        fields=_CIRCLE,
        same_as="circle",
    ),
    DemoJob(
        name="plain",
        title="Without a LoRA",
        shows="What the next three jobs make without a LoRA.",
        picture="dawn",
        mask="box_at_the_right",
        fields=_STYLED,
        is_scored=True,
    ),
    DemoJob(
        name="striped",
        title="With a LoRA",
        shows="The same request and seed with a LoRA from the operator's folder, in the format of diffusers.",
        picture="dawn",
        mask="box_at_the_right",
        fields=_STYLED,
        loras=((STRIPED, 1.0),),
        differs_from=("plain",),
    ),
    DemoJob(
        name="outlined",
        title="With another LoRA",
        shows="The same again with another LoRA, in the format of kohya's scripts.",
        picture="dawn",
        mask="box_at_the_right",
        fields=_STYLED,
        loras=((OUTLINED, 1.0),),
        differs_from=("plain", "striped"),
    ),
    DemoJob(
        name="both",
        title="With both LoRAs",
        shows="And with both at once: both styles show.",
        picture="dawn",
        mask="box_at_the_right",
        fields=_STYLED,
        loras=((STRIPED, 1.0), (OUTLINED, 1.0)),
        differs_from=("plain", "striped", "outlined"),
    ),
    DemoJob(
        name="gone",
        title="A broken URL",
        shows="The image's URL answers 404: this job fails at once and says why, and the others are not disturbed.",
        picture="coffee",
        mask="inside_the_cup",
        fields=_fields("never filled", 1),
        image_by=ImageBy.GONE,
        expected=Status.FAILED,
    ),
    DemoJob(
        name="sun",
        title="A soft mask, WebP output",
        shows="The image comes from a URL. The mask's greys blend softly; lossless WebP keeps the rest exact.",
        picture="china",
        mask="patch_of_sky",
        fields=_fields("an orange circle", 9, output_format="webp"),
        image_by=ImageBy.URL,
    ),
    DemoJob(
        name="cut-out",
        title="Alpha as mask",
        shows="No mask image: the transparent pixels of the PNG are the mask. No seed: one is drawn.",
        picture="moss",
        mask="circle_at_the_right",
        fields=_fields("a pink square", None),
        image_by=ImageBy.ALPHA,
        is_scored=True,
    ),
    DemoJob(
        name="square",
        title="JPEG output",
        shows="output_format jpeg, in full colour resolution. Small, but no longer exact outside the mask.",
        picture="dusk",
        mask="box_at_the_left",
        fields=_fields("a green square", 5, output_format="jpeg"),
        call=Call("v2", MODELS[1], UploadBy.FORM),
        is_scored=True,
    ),
)


BAD_ROW: Final[Mapping[str, Any]] = {"custom_id": "too-many-steps", "num_inference_steps": 99}
"""What is wrong on purpose in one more row of the manifest: it becomes no job, and the others are not disturbed."""


def choose_jobs(*, bundled_model: bool) -> tuple[DemoJob, ...]:
    """Return the jobs for a model. The demo's LoRAs fit the bundled one alone, and it alone owes these very shapes."""
    if bundled_model:
        return JOBS
    return tuple(replace(job, is_scored=False) for job in JOBS if not job.loras)
