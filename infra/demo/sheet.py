"""The contact sheet: what each job was asked, what it was given, and what came of it, in one picture for a README.

One glance must do: the prompt is the headline, the mask is hatched over the picture, the result stands beside it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from common.contract import Status
from infra.demo import preview
from infra.demo.outcome import Judged, Outcome
from infra.demo.run import Run

WIDTH: Final = 1600
COLUMNS: Final = 6
_MARGIN: Final = 28
_GAP: Final = 8
_GUTTER: Final = 30
_HEAD: Final = 118
_TITLE_HEIGHT: Final = 66
_CAPTION_HEIGHT: Final = 24
_ROW_GAP: Final = 22
_ASPECT: Final = 4 / 3

_PAPER: Final = (250, 250, 248)
_INK: Final = (28, 28, 30)
_SOFT: Final = (95, 95, 102)
_BOX: Final = (236, 236, 232)
_FRAME: Final = (214, 214, 208)
_RED: Final = (176, 42, 42)


@dataclass(frozen=True)
class _Cell:
    """One picture with a word under it; without a picture it is an empty box with `text` in it."""

    picture: Image.Image | None
    caption: str
    text: str = ""


@dataclass(frozen=True)
class _Strip:
    """One job, or several that differ in their LoRAs alone: what was asked, a line about it, and the cells."""

    title: str
    line: str
    cells: tuple[_Cell, ...]


def draw_sheet(run: Run) -> Image.Image:
    """Return the sheet: RGB, WIDTH pixels wide, as high as the jobs need."""
    rows = _rows([_strip(group) for group in _groups(run.judged)])
    cell = _cell_size()
    row_height = _TITLE_HEIGHT + cell[1] + _CAPTION_HEIGHT + _ROW_GAP
    sheet = Image.new("RGB", (WIDTH, _HEAD + len(rows) * row_height + _MARGIN - _ROW_GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 22), "Fillfleet: what is asked for, and what comes back", font=_font(36), fill=_INK)
    draw.text((_MARGIN, 70), _note(run), font=_font(19), fill=_SOFT)
    for number, row in enumerate(rows):
        column = 0
        for strip in row:
            _draw_strip(sheet, strip, column, _HEAD + number * row_height, cell)
            column += len(strip.cells)
    return sheet


def _note(run: Run) -> str:
    images = sum(len(one.outcome.files) for one in run.judged)
    rows = len(run.judged) - run.calls
    note = f"{len(run.judged)} jobs, {images} images: {rows} rows of a batch, {run.calls} single calls."
    if run.card.untrained:
        return (
            f"{note} The bundled model is untrained: it shows the path, not the picture; unmasked pixels are the"
            " original's."
        )
    return f"{note} Hatched is what the mask covers; every pixel outside of it stays the original's, but for JPEG."


def _groups(judged: Sequence[Judged]) -> list[list[Outcome]]:
    """Return the outcomes in order, those with LoRAs beside the one that they are compared with."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in (one.outcome for one in judged):
        first = next(iter(outcome.job.differs_from), "")
        groups[first if first in groups else outcome.job.name] = [*groups.get(first, ()), outcome]
    return list(groups.values())


def _rows(strips: Sequence[_Strip]) -> list[list[_Strip]]:
    """Return the strips in rows of COLUMNS cells: in order, but one that is narrow fills what a wide one leaves."""
    rows: list[list[_Strip]] = []
    for strip in strips:
        open_rows = (row for row in rows if _width(row) + len(strip.cells) <= COLUMNS)
        row = next(open_rows, None)
        if row is None:
            rows.append([strip])
        else:
            row.append(strip)
    return rows


def _width(row: Sequence[_Strip]) -> int:
    return sum(len(strip.cells) for strip in row)


def _strip(group: Sequence[Outcome]) -> _Strip:
    first, *styled = group
    cells = [*_inputs(first), *_outputs(first, "without a LoRA" if styled else "after")]
    for outcome in styled:
        cells += _outputs(outcome, " + ".join(path for path, _ in outcome.job.loras))
    title = first.job.title
    prompt = str(first.job.fields["prompt"])
    if prompt and first.job.expected is Status.COMPLETED:
        about = "LoRAs: the same request and seed without, and with" if styled else title
        return _Strip(f"“{prompt}”", f"{about} · {first.came_as}", tuple(cells))
    return _Strip(title, f"{'no prompt · ' if not prompt else ''}{first.came_as}", tuple(cells))


def _inputs(outcome: Outcome) -> Iterator[_Cell]:
    """Return the picture that the job was given; nothing for one whose URL held none."""
    given = preview.masked(outcome, *_cell_size())
    if given is not None:
        yield _Cell(given, "before")


def _outputs(outcome: Outcome, caption: str) -> Iterator[_Cell]:
    pictures = preview.after(outcome)
    if not pictures:
        yield _Cell(None, outcome.prediction.status.value, outcome.prediction.error)
    for picture, seed in zip(pictures, outcome.prediction.seeds, strict=False):
        yield _Cell(preview.fitted(picture, *_cell_size()), f"{caption}, seed {seed}")


def _cell_size() -> tuple[int, int]:
    pairs = COLUMNS // 2
    width = (WIDTH - 2 * _MARGIN - (pairs - 1) * _GUTTER - pairs * _GAP) // COLUMNS
    return width, round(width / _ASPECT)


def _left(column: int) -> int:
    """Return where a column begins: cells stand in pairs, whatever strip they belong to."""
    pairs, second = divmod(column, 2)
    width = _cell_size()[0]
    return _MARGIN + pairs * (2 * width + _GAP + _GUTTER) + second * (width + _GAP)


def _draw_strip(sheet: Image.Image, strip: _Strip, column: int, top: int, cell: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((_left(column), top), strip.title, font=_font(28), fill=_INK)
    draw.text((_left(column), top + 37), strip.line, font=_font(18), fill=_SOFT)
    for number, one in enumerate(strip.cells):
        _draw_cell(sheet, one, (_left(column + number), top + _TITLE_HEIGHT), cell)


def _draw_cell(sheet: Image.Image, cell: _Cell, place: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = place
    draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=_BOX)
    if cell.picture is not None:
        left, top = x + (size[0] - cell.picture.width) // 2, y + (size[1] - cell.picture.height) // 2
        sheet.paste(cell.picture, (left, top))
        draw.rectangle((left, top, left + cell.picture.width - 1, top + cell.picture.height - 1), outline=_FRAME)
    else:
        lines = textwrap.wrap(cell.text, width=28)[:8]
        height = 20 * len(lines)
        for number, line in enumerate(lines):
            at = (x + size[0] / 2, y + (size[1] - height) / 2 + 20 * number)
            draw.text(at, line, font=_font(16), fill=_RED, anchor="ma")
    draw.text((x, y + size[1] + 4), cell.caption, font=_font(16), fill=_SOFT)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
