"""One row of the batch as a card: its pictures, what was asked, what became of it. All that users wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from producer.report.figures import duration, when
from producer.report.markup import code, isolated, plain
from producer.report.pictures import Picture, pictures_of, place_of
from producer.report.summary import state_of
from producer.report.thumbnails import Thumbnail, Wanted
from producer.results.columns import EXTRA, Row

_TIMES: Final = {
    "queue_ms": "in the queue",
    "fetch_ms": "inputs",
    "wait_ms": "waiting for the device",
    "inference_ms": "on the device",
    "upload_ms": "check, paste-back, upload",
}
_LOST: Final = Thumbnail(words="not fetched")
FLAGGED: Final = "flagged"
"""Rows with an output that the safety checker flagged, in the page's filter of states."""


def card(row: Row, thumbnails: Mapping[Wanted, Thumbnail]) -> str:
    """Return the HTML of one row."""
    state = state_of(row)
    is_flagged = any(row.get("nsfw") or ())
    states = f"{state} {FLAGGED}" if is_flagged else state
    flag = f'<span class="badge {FLAGGED}">flagged</span>' if is_flagged else ""
    custom_id = row.get("custom_id")
    name = f'<span class="id">{isolated(custom_id)}</span>' if custom_id is not None else ""
    prompt = row.get("prompt")
    said = f'<p class="prompt" dir="auto">{plain(prompt)}</p>' if prompt else '<p class="soft">no prompt</p>'
    number, badge = plain(row.get("row")), f'<span class="badge {plain(state)}">{plain(state)}</span>{flag}'
    cause = plain(row.get("error_code") or "")
    return f"""<article class="row" id="row-{number}" data-states="{plain(states)}" data-cause="{cause}">
<header><h3>Row {number} {name}</h3>{badge}</header>
<div class="pictures">{"".join(_figure(picture, thumbnails) for picture in pictures_of(row).pictures)}</div>
<div class="words">{_error(row)}{said}
<dl>{_list(_facts(row))}</dl>
<details><summary>All about row {number}</summary><dl>{_list(_details(row))}</dl></details></div>
</article>
"""


def _figure(picture: Picture, thumbnails: Mapping[Wanted, Thumbnail]) -> str:
    caption = f"<figcaption>{plain(picture.caption)}</figcaption>"
    thumbnail = Thumbnail(words=picture.words) if picture.wanted is None else thumbnails.get(picture.wanted, _LOST)
    if thumbnail.data_uri is None:
        return f'<figure><div class="nothing">{isolated(thumbnail.words)}</div>{caption}</figure>'
    return (
        f'<figure><img src="{thumbnail.data_uri}" width="{thumbnail.width}" height="{thumbnail.height}" '
        f'alt="{plain(picture.caption)}" decoding="async">{caption}</figure>'
    )


def _error(row: Row) -> str:
    if row.get("error_code") is None:
        return ""
    return f'<p class="error">{code(row["error_code"])} {isolated(row.get("error") or "")}</p>'


def _list(facts: Iterator[tuple[str, str]]) -> str:
    return "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)


def _facts(row: Row) -> Iterator[tuple[str, str]]:
    """Yield (name, value as HTML) of what most people look for."""
    if row.get("output_width") is not None:
        yield "Output", f"{row['output_width']}*{row['output_height']} {plain(row.get('output_format'))}"
    if row.get("mask_coverage") is not None:
        yield "Filled", f"{100 * row['mask_coverage']:.3g} % of the canvas"
    if row.get("regions"):
        yield "Generated", plain(_regions(row["regions"], row.get("output_width"), row.get("output_height")))
    if row.get("max_difference_outside_mask") is not None:
        largest = row["max_difference_outside_mask"]
        yield "Outside the mask", "exactly as before" if largest == 0 else f"changed by at most {largest} of 255"
    for lora in row.get("loras") or ():
        scale = lora.get("scale")
        yield "LoRA", f"{isolated(place_of(lora.get('path')))}{'' if scale is None else f' at {scale:g}'}"
    if row.get("inference_ms") is not None:
        yield "On the device", duration(row["inference_ms"])


def _regions(regions: Sequence[Sequence[int]], width: int | None, height: int | None) -> str:
    sizes = ", ".join(f"{wide}*{high} at {left},{top}" for left, top, wide, high in regions)
    if not width or not height:
        return sizes
    share = sum(wide * high for _, _, wide, high in regions) / (width * height)
    return f"{100 * share:.3g} % of the canvas: {sizes}"


def _details(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the rest."""
    yield "Job", code(row.get("job_id"))
    for name, column in (("Image", "image"), ("Mask", "mask_image")):
        if row.get(column) is not None:
            yield name, code(place_of(row[column]))
    for uri, sha256 in zip(row.get("outputs") or (), row.get("output_sha256") or (), strict=False):
        if uri is None:
            continue
        yield "Output", code(uri) + (f"<br>sha256 {code(sha256)}" if sha256 is not None else "")
    yield (
        "Size, steps, guidance",
        plain(f"{row.get('size')}, {row.get('num_inference_steps')}, {row.get('guidance_scale')}"),
    )
    yield "Seeds", plain(", ".join(str(seed) for seed in row.get("seeds") or [row.get("seed")]))
    yield "Attempts", plain(f"{row.get('attempts')}, of which {row.get('failures')} count as failures")
    if row.get("error_code") is not None:
        yield "The same again", "may work" if row.get("retryable") else "will fail again"
    yield "Created", when(row.get("created_at"))
    yield "Started", when(row.get("started_at"))
    yield "Ended", when(row.get("ended_at"))
    for column, name in _TIMES.items():
        if row.get(column) is not None:
            yield name.capitalize(), duration(row[column])
    if row.get("worker") is not None:
        yield "Worker", code(row["worker"])
    for name, value in (row.get(EXTRA) or {}).items():
        yield isolated(name), isolated(value)
