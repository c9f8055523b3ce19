"""What `fillfleet submit` is asked for: its options, checked against each other before anything is read or sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from common.contract import FillRequest, InvalidRequest, parse_request
from producer.cli.command import Option, json_option
from producer.manifest.options import Form, ManifestOptions

STDIN: Final = "-"
CUSTOM_ID: Final = "custom_id"
_REMOTE: Final = ("http://", "https://", "s3://")
_FOR_SINGLE_JOBS: Final = frozenset({"enable_sync_mode", "enable_base64_output"})
_FIELDS: Final = (CUSTOM_ID, *(name for name in FillRequest.model_fields if name not in _FOR_SINGLE_JOBS))

_READING: Final = "How to read the manifest"
_CONSTANTS: Final = "For rows that say nothing of it"
_BATCH: Final = "The batch"
_TRYING: Final = "Only looking"

_COLUMN_OPTIONS: Final = {"image_col": "image", "mask_col": "mask_image", "prompt_col": "prompt", "id_col": CUSTOM_ID}
_CONSTANT_OPTIONS: Final = {
    "prompt": "prompt",
    "size": "size",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "seed": "seed",
    "num_images": "num_images",
    "output_format": "output_format",
    "lora": "loras",
    "region": "region",
}
"""Option → field of the contract."""


@dataclass(frozen=True)
class Wish:
    """A submission as the user wants it."""

    source: str
    options: ManifestOptions
    defaults: Mapping[str, Any]
    """Fields of the contract for rows that say nothing of them."""
    name: str | None
    """None: after the manifest."""
    limit: int | None
    strict: bool
    priority: int
    webhook: str | None
    rejects: Path | None
    """None: after the batch."""
    check: bool
    seconds_per_image: float | None
    dollars_per_hour: float | None
    watch: bool
    as_json: bool

    @property
    def from_stdin(self) -> bool:
        """Whether the manifest can be read only once."""
        return self.source == STDIN

    @property
    def is_remote(self) -> bool:
        """Whether the manifest lies somewhere that the fleet can read, too."""
        return self.source.lower().startswith(_REMOTE)


def wish_of(given: Mapping[str, Any]) -> Wish:
    """Return what the options, by their names in Python, ask for. Raises click.UsageError where they contradict."""
    _check_together(given)
    source: str = given["manifest"]
    masks: Path | None = given["masks"]
    form: str | None = given["form"]
    options = ManifestOptions(
        form=None if form is None else Form(form),
        columns=_columns(given),
        keep=given["keep"],
        mask=given["mask"],
        masks=masks,
        mask_suffix=given["mask_suffix"],
        root=given["root"],
    )
    return Wish(
        source=source,
        options=options,
        defaults=_defaults(given),
        name=given["name"],
        limit=given["limit"],
        strict=given["strict"],
        priority=given["priority"],
        webhook=given["webhook"],
        rejects=given["rejects"],
        check=given["check"],
        seconds_per_image=given["seconds_per_image"],
        dollars_per_hour=given["dollars_per_hour"],
        watch=given["watch"],
        as_json=given["as_json"],
    )


def submit_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and all options of `submit`."""
    for decorate in reversed(_all_options()):
        function = decorate(function)
    return function


def _check_together(given: Mapping[str, Any]) -> None:
    if given["mask"] is not None and given["masks"] is not None:
        raise click.UsageError("--mask is one mask for all rows, --masks a folder of them; give one of the two")
    if given["watch"] and given["check"]:
        raise click.UsageError("--check starts nothing that --watch could follow; leave one of them out")
    for name in ("seconds_per_image", "dollars_per_hour"):
        if given[name] is not None and not given["check"]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for the estimate of --check")
    if given["dollars_per_hour"] is not None and given["seconds_per_image"] is None:
        raise click.UsageError("--dollars-per-hour needs --seconds-per-image: GPU-hours are made of those")
    if given["manifest"] == STDIN and given["name"] is None and not given["check"]:
        raise click.UsageError("a manifest from stdin has no name: give the batch one with --name")


def _columns(given: Mapping[str, Any]) -> dict[str, str]:
    columns = {field: given[name] for name, field in _COLUMN_OPTIONS.items() if given[name] is not None}
    for pair in given["col"]:
        field, sign, column = pair.partition("=")
        if not sign or not column or field not in _FIELDS:
            fields = ", ".join(_FIELDS)
            raise click.UsageError(f"--col {pair!r} must be FIELD=COLUMN, where FIELD is one of {fields}")
        if columns.setdefault(field, column) != column:
            raise click.UsageError(f"{field} is said to be two columns, {columns[field]!r} and {column!r}; say one")
    return columns


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constants by field, checked against the contract. Raises click.UsageError naming the option."""
    said = {name: given[name] for name in _CONSTANT_OPTIONS if given[name] not in {None, ()}}
    if "lora" in said:
        said["lora"] = [_lora(text) for text in said["lora"]]
    defaults = {_CONSTANT_OPTIONS[name]: value for name, value in said.items()}
    try:
        parse_request({"image": "https://example.com/", **defaults})
    except InvalidRequest as error:
        problem = error.problems[0]
        options = {field: f"--{name.replace('_', '-')}" for name, field in _CONSTANT_OPTIONS.items()}
        option = options.get(problem.field.partition("[")[0].partition(".")[0], problem.field)
        raise click.UsageError(f"{option}: {problem.value} {problem.reason}; allowed: {problem.allowed}") from None
    return defaults


def _lora(text: str) -> dict[str, Any]:
    path, colon, scale = text.rpartition(":")  # the last one: https://… has a colon of its own
    try:
        if not colon or not path:
            raise ValueError
        return {"path": path, "scale": float(scale)}
    except ValueError:
        raise click.UsageError(f"--lora {text!r} must be PATH:SCALE, such as linoyts/yarn_art_Flux_LoRA:0.9") from None


def _option(section: str, *names: str, **more: Any) -> Callable[..., Any]:
    return click.option(*names, cls=Option, section=section, **more)


def _all_options() -> list[Callable[..., Any]]:
    return [click.argument("manifest"), *_reading_options(), *_constant_options(), *_batch_options(), *_last_options()]


def _reading_options() -> list[Callable[..., Any]]:
    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    forms = click.Choice([form.value for form in Form])
    named = {"metavar": "COLUMN"}
    return [
        _option(_READING, "--form", type=forms, help="Its form, where neither name nor content tells."),
        _option(_READING, "--image-col", **named, help="The column that is the image's URL or path."),
        _option(_READING, "--mask-col", **named, help="The column that is the mask's URL or path."),
        _option(_READING, "--prompt-col", **named, help="The column that is the prompt."),
        _option(_READING, "--id-col", **named, help="The column that is the row's own id."),
        _option(
            _READING, "--col", multiple=True, metavar="FIELD=COLUMN", help="The same for any field; may be repeated."
        ),
        _option(
            _READING, "--keep", multiple=True, **named, help="Pass a column through although it looks like a field."
        ),
        _option(_READING, "--root", type=folder, help="Where relative paths begin. Default: the manifest's folder."),
        _option(_READING, "--masks", type=folder, help="A folder of masks with the names of the images."),
        _option(
            _READING,
            "--mask-suffix",
            default="_mask",
            show_default=True,
            metavar="TEXT",
            help="x.png and x_mask.png are a pair.",
        ),
    ]


def _constant_options() -> list[Callable[..., Any]]:
    formats = click.Choice(["png", "jpeg", "webp"])
    return [
        _option(_CONSTANTS, "--mask", metavar="FILE|URL", help="One mask for all."),
        _option(_CONSTANTS, "--prompt", metavar="TEXT", help="What to put there."),
        _option(_CONSTANTS, "--size", metavar="W*H|match", help="Size of the output. Default: match, the image's own."),
        _option(_CONSTANTS, "--steps", type=int, metavar="N", help="Steps of the model."),
        _option(_CONSTANTS, "--guidance", type=float, metavar="X", help="How closely the prompt is followed."),
        _option(_CONSTANTS, "--seed", type=int, metavar="N", help="The same seed for every row."),
        _option(_CONSTANTS, "--num-images", type=int, metavar="N", help="Outputs for each row."),
        _option(_CONSTANTS, "--output-format", type=formats, help="Default: png."),
        _option(_CONSTANTS, "--lora", multiple=True, metavar="PATH:SCALE", help="A LoRA; may be repeated."),
        _option(
            _CONSTANTS,
            "--region",
            type=click.Choice(["full", "auto"]),
            help="auto: make only crops around small masks, cheaper, with less of the picture in sight.",
        ),
    ]


def _batch_options() -> list[Callable[..., Any]]:
    return [
        _option(
            _BATCH, "--name", help="Its name; the same name and rows again make nothing twice. Default: the file's."
        ),
        _option(
            _BATCH, "--priority", type=click.IntRange(0, 9), default=5, metavar="0-9", help="9 goes first. Default: 5."
        ),
        _option(_BATCH, "--strict", is_flag=True, help="Start nothing if any row is bad (exit code 4)."),
        _option(_BATCH, "--webhook", metavar="URL", help="Called when the batch has ended."),
        _option(_BATCH, "--limit", type=click.IntRange(1), metavar="N", help="Only the first N rows, to try."),
        _option(
            _BATCH,
            "--rejects",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Where bad rows are listed. Default: NAME.rejects.jsonl",
        ),
    ]


def _last_options() -> list[Callable[..., Any]]:
    return [
        _option(_TRYING, "--check", is_flag=True, help="Judge all rows and estimate; nothing is written or uploaded."),
        _option(
            _TRYING, "--seconds-per-image", type=click.FloatRange(0, min_open=True), metavar="S", help="For GPU-hours."
        ),
        _option(
            _TRYING, "--dollars-per-hour", type=click.FloatRange(0, min_open=True), metavar="D", help="For the price."
        ),
        click.option("--watch", is_flag=True, help="Watch it to its end (exit code 3 if rows failed)."),
        json_option,
    ]
