"""What the worker asks of a classifier, and which one the settings name. What follows from it is not decided here."""

from __future__ import annotations

from typing import Final, Protocol

from PIL import Image

from common.settings import Settings
from worker.safety.open_nsfw import OpenNsfw

OPEN_NSFW: Final = "opennsfw"


class SafetyChecker(Protocol):
    """A classifier. Safe to call from several threads at once."""

    @property
    def threshold(self) -> float:
        """The score from which an image is flagged."""

    def load(self) -> None:
        """Load it unless it is loaded; called before the first job.

        Raises Rejected where the operator has to do something, Transient (hub_unavailable).
        """

    def check(self, image: Image.Image) -> bool:
        """Return True where `image`, of any size and mode, must not be shown or stored."""


def make_checker(settings: Settings) -> SafetyChecker:
    """Return the classifier that SAFETY_CLASSIFIER names. Loads nothing yet."""
    if settings.safety_classifier == OPEN_NSFW:
        return OpenNsfw(settings.safety_threshold)
    from worker.safety.image_classifier import ImageClassifier  # torch: only for who asked for it

    return ImageClassifier(settings)
