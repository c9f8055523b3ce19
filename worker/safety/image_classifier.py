"""A classifier of images that transformers loads: safetensors alone, no code from its folder, on the CPU.

It computes on one thread of its own: torch keeps a team of threads for each thread that calls it, and the jobs of all
slots would otherwise have a team each, beside the device's. The fill device's memory is the fill model's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch
from PIL import Image
from safetensors import SafetensorError

from common.errors import Rejected
from common.settings import Settings
from common.telemetry import get_logger
from worker.safety.classifier_folder import ClassifierFolder, find_classifier

log = get_logger(__name__)

THRESHOLD: Final = 0.85
"""What Black Forest Labs' own code for FLUX.1 uses with Falconsai/nsfw_image_detection."""
UNSAFE: Final = "nsfw"
UNUSABLE: Final = "safety_model_unusable"
_SIDE: Final = 64
"""Of the picture that proves at the start that the classifier answers."""


class ImageClassifier:
    """A SafetyChecker: flags by the probability that the model gives its label `nsfw`."""

    def __init__(self, settings: Settings) -> None:
        """Loads nothing yet."""
        self.threshold = THRESHOLD if settings.safety_threshold is None else settings.safety_threshold
        self._settings = settings
        self._loading = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="safety")
        self._processor: Any = None
        self._model: Any = None
        self._unsafe = 0

    def load(self) -> None:
        """Find, load and try it, unless it is loaded.

        Raises Rejected (safety_model_not_found, safety_model_unusable), Transient (hub_unavailable).
        """
        with self._loading:
            if self._model is None:
                folder = find_classifier(self._settings)
                self._thread.submit(self._load, folder).result()

    def score(self, image: Image.Image) -> float:
        """Return the probability, 0..1, that `image` (any size and mode) is not safe. Alpha is left aside."""
        self.load()
        return self._thread.submit(self._score, image).result()

    def check(self, image: Image.Image) -> bool:
        """Return whether the score reaches the threshold."""
        return self.score(image) >= self.threshold

    def _load(self, folder: ClassifierFolder) -> None:
        processor, model, lacking = _read(folder)
        if lacking:
            # They would be drawn at random, and so would every verdict.
            raise _unusable(folder, f"its weights lack {', '.join(sorted(lacking)[:3])}")
        self._unsafe = _unsafe_label(folder, model.config.id2label)
        self._processor = processor
        self._model = model.eval()
        try:
            self._score(Image.new("RGB", (_SIDE, _SIDE)))
        except (ValueError, RuntimeError, IndexError) as error:
            self._model = None
            raise _unusable(folder, f"it does not classify a picture ({_first_line(error)})") from error
        log.info("safety.loaded", classifier=folder.name, revision=folder.commit, threshold=self.threshold)
        if folder.commit is not None and self._settings.safety_revision is None:
            log.warning("safety.not_pinned", hint=f"set SAFETY_REVISION={folder.commit}, and no other is ever taken")

    def _score(self, image: Image.Image) -> float:
        with torch.inference_mode():
            inputs = self._processor(images=image.convert("RGB"), return_tensors="pt")
            logits = self._model(**inputs).logits[0]
            score = float(logits.softmax(dim=-1)[self._unsafe])
        if not math.isfinite(score):
            raise ValueError("the classifier's answer is no number")  # which no threshold would ever flag
        return score


def _read(folder: ClassifierFolder) -> tuple[Any, Any, set[str]]:
    """Return processor, model, and the names of weights that the file does not have."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    where = {"local_files_only": True, "trust_remote_code": False}
    try:
        # Pillow's backend: the other one is torchvision's, which nothing else here needs.
        processor = AutoImageProcessor.from_pretrained(folder.path, backend="pil", **where)
        model, report = AutoModelForImageClassification.from_pretrained(
            folder.path, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **where
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise _unusable(folder, f"transformers cannot load it ({_first_line(error)})") from error
    return processor, model, set(report["missing_keys"])


def _unsafe_label(folder: ClassifierFolder, labels: Mapping[int, str]) -> int:
    found = [number for number, label in labels.items() if str(label).strip().casefold() == UNSAFE]
    if len(found) != 1:
        known = ", ".join(str(label) for label in labels.values())
        raise _unusable(folder, f"none of its labels is `{UNSAFE}`, only {known}" if not found else "it has two")
    return found[0]


def _unusable(folder: ClassifierFolder, reason: str) -> Rejected:
    return Rejected(
        UNUSABLE,
        f"SAFETY_CLASSIFIER={folder.name}: {reason}; name an image classifier in safetensors with a label `{UNSAFE}`, "
        "such as Falconsai/nsfw_image_detection",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:400] or type(error).__name__
