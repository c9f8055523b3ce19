"""The benchmarks' table as a picture: each row's two figures as bars, its target, and whether it holds.

The bars of a row share one scale that begins at nothing, and rows have scales of their own: their units differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

WIDTH: Final = 1200
ROW_HEIGHT: Final = 76
TOP: Final = 64
MARGIN: Final = 28
BARS_LEFT: Final = 190
BARS_WIDTH: Final = 420
FIGURES_RIGHT: Final = 805
TARGET_LEFT: Final = 830
_INK, _FAINT, _GROUND, _LINE = "#1b1f24", "#6a737d", "#ffffff", "#e1e4e8"
_OURS, _PEER, _MISSED = "#1f6f50", "#b8c0c8", "#b3261e"


def draw_rows(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the picture of rows, as they stand in build/bench.json, to a PNG file."""
    picture = Image.new("RGB", (WIDTH, TOP + ROW_HEIGHT * len(rows) + MARGIN), _GROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 22), "Benchmarks: ours and the peer, measured in the same run", _INK, _font(22))
    for number, (name, row) in enumerate(rows.items()):
        _draw_row(draw, TOP + ROW_HEIGHT * number, name, row)
    picture.save(path, optimize=True)


def _draw_row(draw: ImageDraw.ImageDraw, top: int, name: str, row: Mapping[str, Any]) -> None:
    draw.line((MARGIN, top, WIDTH - MARGIN, top), _LINE)
    draw.text((MARGIN, top + 16), name, _INK, _font(20))
    draw.text((MARGIN, top + 44), str(row["unit"]), _FAINT, _font(13))
    colour = _OURS if row["holds"] else _MISSED
    longest = max(row["ours"], row["peer"]) or 1
    for who, fill, at in (("ours", colour, 14), ("peer", _PEER, 42)):
        length = max(2, round(BARS_WIDTH * row[who] / longest))
        draw.rectangle((BARS_LEFT, top + at, BARS_LEFT + length, top + at + 20), fill)
        draw.text((FIGURES_RIGHT, top + at + 1), f"{who} {_figure(row[who])}", _INK, _font(16), anchor="ra")
    draw.text((TARGET_LEFT, top + 15), "holds" if row["holds"] else "does not hold", colour, _font(16))
    for line, text in enumerate(_lines(str(row["target"]))[:2]):
        draw.text((TARGET_LEFT, top + 38 + 16 * line), text, _FAINT, _font(13))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _lines(text: str) -> list[str]:
    """Break a text between words into lines that fit beside the bars."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(13).getlength(longer) <= WIDTH - MARGIN - TARGET_LEFT:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return font
