"""The contact sheet: every job's before, mask and after in one picture, for a README or a first look."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from infra.demo import preview
from infra.demo.outcome import Judged, Outcome
from infra.demo.run import Run

WIDTH: Final = 1600
_MARGIN: Final = 28
_GAP: Final = 8
_GUTTER: Final = 28
_HEAD: Final = 92
_TITLE_HEIGHT: Final = 50
_CAPTION_HEIGHT: Final = 20
_ROW_GAP: Final = 16
_PER_HALF: Final = 3
_ASPECT: Final = 1.5

_PAPER: Final = (250, 250, 248)
_INK: Final = (28, 28, 30)
_SOFT: Final = (105, 105, 112)
_BOX: Final = (234, 234, 230)
_FRAME: Final = (214, 214, 208)
_RED: Final = (176, 42, 42)


@dataclass(frozen=True)
class _Cell:
    """One picture with a word under it; without a picture it is an empty, framed box with `text` in it."""

    picture: Image.Image | None
    caption: str
    text: str = ""


@dataclass(frozen=True)
class _Strip:
    """One job: its title, how it came, a line about it, and its cells. A wide strip takes a whole row."""

    title: str
    came_as: str
    line: str
    cells: tuple[_Cell, ...]

    @property
    def is_wide(self) -> bool:
        return len(self.cells) > _PER_HALF


def draw_sheet(run: Run) -> Image.Image:
    """Return the sheet: RGB, WIDTH pixels wide, as high as the jobs need."""
    rows = _rows([_strip(one) for one in run.judged])
    cell = _cell_size()
    row_height = _TITLE_HEIGHT + cell[1] + _CAPTION_HEIGHT + _ROW_GAP
    sheet = Image.new("RGB", (WIDTH, _HEAD + len(rows) * row_height + _MARGIN - _ROW_GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 22), "Fillfleet: before, mask, after", font=_font(30), fill=_INK)
    draw.text((_MARGIN, 60), _note(run), font=_font(17), fill=_SOFT)
    for number, row in enumerate(rows):
        top = _HEAD + number * row_height
        for half, strip in enumerate(row):
            left = _MARGIN + half * (_half_width() + _GUTTER)
            _draw_strip(sheet, strip, left, top, cell)
    return sheet


def _note(run: Run) -> str:
    images = sum(len(one.outcome.files) for one in run.judged)
    rows = len(run.judged) - run.calls
    note = f"{len(run.judged)} jobs, {images} images: {rows} rows of a batch, {run.calls} single calls."
    if run.card.untrained:
        note += (
            " The bundled model is untrained: it shows the path, not the picture; unmasked pixels are the original's."
        )
    return note


def _rows(strips: Sequence[_Strip]) -> list[list[_Strip]]:
    # Two to a row, in order; a wide one takes its row alone, and who comes after it fills the half that it left open.
    rows: list[list[_Strip]] = []
    half_open: list[_Strip] | None = None
    for strip in strips:
        if strip.is_wide:
            rows.append([strip])
        elif half_open is None:
            half_open = [strip]
            rows.append(half_open)
        else:
            half_open.append(strip)
            half_open = None
    return rows


def _strip(judged: Judged) -> _Strip:
    outcome = judged.outcome
    return _Strip(title=outcome.job.title, came_as=outcome.came_as, line=_line(outcome), cells=tuple(_cells(outcome)))


def _line(outcome: Outcome) -> str:
    fields = outcome.job.fields
    prompt = f'"{fields["prompt"]}"' if fields.get("prompt") else "no prompt"
    parts = [prompt, f"{fields['num_inference_steps']} steps", outcome.job.output_format]
    if outcome.prediction.seeds:
        parts.insert(1, f"seed {outcome.prediction.seeds[0]}")
    parts += [f"LoRA {path} at {scale:g}" for path, scale in outcome.job.loras]
    return ", ".join(parts)


def _cells(outcome: Outcome) -> list[_Cell]:
    sent = preview.before(outcome)
    cells = [
        _Cell(sent, "before", "HTTP 404"),
        _Cell(preview.mask(outcome), "mask"),
    ]
    pictures = preview.after(outcome)
    if not pictures:
        cells.append(_Cell(None, outcome.prediction.status.value, outcome.prediction.error))
    for number, picture in enumerate(pictures):
        seeds = outcome.prediction.seeds
        several = len(pictures) > 1 and number < len(seeds)
        cells.append(_Cell(picture, f"after, seed {seeds[number]}" if several else "after"))
    return cells


def _half_width() -> int:
    return (WIDTH - 2 * _MARGIN - _GUTTER) // 2


def _cell_size() -> tuple[int, int]:
    width = (_half_width() - (_PER_HALF - 1) * _GAP) // _PER_HALF
    return width, round(width / _ASPECT)


def _draw_strip(sheet: Image.Image, strip: _Strip, left: int, top: int, cell: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    title = _font(20)
    draw.text((left, top), strip.title, font=title, fill=_INK)
    draw.text((left + title.getlength(strip.title) + 12, top + 4), strip.came_as, font=_font(15), fill=_SOFT)
    draw.text((left, top + 26), strip.line, font=_font(15), fill=_SOFT)
    for number, one in enumerate(strip.cells):
        x = left + number * (cell[0] + _GAP)
        if number >= _PER_HALF:
            x += _GUTTER - _GAP  # the second half's cells stand under each other
        _draw_cell(sheet, one, (x, top + _TITLE_HEIGHT), cell)


def _draw_cell(sheet: Image.Image, cell: _Cell, place: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = place
    draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=_BOX)
    if cell.picture is not None:
        small = preview.fitted(cell.picture.convert("RGB"), *size)
        left, top = x + (size[0] - small.width) // 2, y + (size[1] - small.height) // 2
        sheet.paste(small, (left, top))
        # A mask that is white up to its edge would run into the paper.
        draw.rectangle((left, top, left + small.width - 1, top + small.height - 1), outline=_FRAME)
    else:
        lines = textwrap.wrap(cell.text, width=30)[:7]
        height = 19 * len(lines)
        for number, line in enumerate(lines):
            at = (x + size[0] / 2, y + (size[1] - height) / 2 + 19 * number)
            draw.text(at, line, font=_font(15), fill=_RED, anchor="ma")
    draw.text((x, y + size[1] + 3), cell.caption, font=_font(13), fill=_SOFT)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
