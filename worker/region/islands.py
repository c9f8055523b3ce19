"""The islands of a mask: what of it hangs together, or nearly so, and how far each reaches.

Found on the grid of the model's tokens, a two-hundred-and-fiftieth of the pixels, since no margin is finer than that.
Numpy alone: a worker has no other library for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from worker.canvas import MODEL_MULTIPLE

NEAR_PIXELS: Final = 64
"""Islands that are at most so far apart are one: the letters of a word, or the pieces of a scratch, belong together."""
_CELL: Final = MODEL_MULTIPLE
_MOST: Final = 48
"""More are joined with their neighbours first: a canvas has no room for nearly so many areas that are worth it."""

Mask = npt.NDArray[np.bool_]
"""height x width: what of the canvas, or of its tokens, the model fills."""
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Islands:
    """Some islands: the box right around each (right and bottom are just beyond it), and how many pixels it fills."""

    left: Numbers
    top: Numbers
    right: Numbers
    bottom: Numbers
    pixels: Numbers

    def __len__(self) -> int:
        return len(self.left)

    def with_every_other(self) -> Islands:
        """Return what each would be together with each: arrays of n x n."""
        return Islands(
            np.minimum.outer(self.left, self.left),
            np.minimum.outer(self.top, self.top),
            np.maximum.outer(self.right, self.right),
            np.maximum.outer(self.bottom, self.bottom),
            np.add.outer(self.pixels, self.pixels),
        )

    def joined(self, one: int, other: int) -> Islands:
        """Return the islands with these two as one."""
        pairs, rest = self.with_every_other(), np.arange(len(self)) != other
        values = {}
        for name in ("left", "top", "right", "bottom", "pixels"):
            own = getattr(self, name).copy()
            own[one] = getattr(pairs, name)[one, other]
            values[name] = own[rest]
        return Islands(**values)

    def together(self) -> Islands:
        """Return all of them as one."""
        return Islands(
            self.left.min(keepdims=True),
            self.top.min(keepdims=True),
            self.right.max(keepdims=True),
            self.bottom.max(keepdims=True),
            self.pixels.sum(keepdims=True),
        )


def find_islands(mask: Mask) -> Islands:
    """Return the islands of a mask that is not empty; both sides are multiples of 16."""
    height, width = mask.shape
    cells: Mask = np.asarray(mask.reshape(height // _CELL, _CELL, width // _CELL, _CELL).any(axis=(1, 3)))
    reach = NEAR_PIXELS // (2 * _CELL)
    labels, count = _labelled(_spread(cells, reach))
    while count > _MOST:
        reach *= 2
        labels, count = _labelled(_spread(cells, reach))
    found = [_extent(mask, cells & (labels == label)) for label in range(1, count + 1)]
    return Islands(*np.array(found, dtype=np.int64).T)


def _spread(cells: Mask, reach: int) -> Mask:
    """Return the cells that are at most `reach` away from one of them, diagonally too."""
    for axis in (0, 1):
        padded = np.pad(cells, [(reach, reach) if axis == one else (0, 0) for one in (0, 1)])
        around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        cells = np.asarray(around.any(axis=-1))
    return cells


def _labelled(cells: Mask) -> tuple[Numbers, int]:
    """Return a number from 1 on for each cell, the same for all that hang together at sides or corners; and how many.

    By runs: what is without a gap in its row is one, and is united with the runs that it touches in the row above.
    """
    labels = np.zeros(cells.shape, dtype=np.int64)
    roots = [0]
    above: list[tuple[int, int, int]] = []
    for row, line in enumerate(cells):
        edges = np.flatnonzero(np.diff(line, prepend=False, append=False)).tolist()
        runs = []
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            label = len(roots)
            roots.append(label)
            labels[row, begin:end] = label
            for other_begin, other_end, other in above:
                if other_begin <= end and begin <= other_end:
                    _unite(roots, label, other)
            runs.append((begin, end, label))
        above = runs
    names, dense = np.unique([_root(roots, label) for label in range(len(roots))], return_inverse=True)
    numbered: Numbers = dense[labels]
    return numbered, len(names) - 1


def _root(roots: list[int], label: int) -> int:
    while roots[label] != label:
        roots[label] = roots[roots[label]]
        label = roots[label]
    return label


def _unite(roots: list[int], one: int, other: int) -> None:
    roots[max(_root(roots, one), _root(roots, other))] = min(_root(roots, one), _root(roots, other))


def _extent(mask: Mask, cells: Mask) -> tuple[int, int, int, int, int]:
    """Return left, top, right, bottom and number of the pixels of the mask in these cells."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    top, left = int(rows[0]) * _CELL, int(columns[0]) * _CELL
    inside = cells[part].repeat(_CELL, axis=0).repeat(_CELL, axis=1)
    pixels = mask[top : top + inside.shape[0], left : left + inside.shape[1]] & inside
    y, x = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return left + int(x[0]), top + int(y[0]), left + int(x[-1]) + 1, top + int(y[-1]) + 1, int(pixels.sum())
