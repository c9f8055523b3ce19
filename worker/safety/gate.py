"""Where a job's images meet the classifier: which of them it looks at, and what follows from what it says.

It runs on the job's own thread, never the device's. Every image that is flagged leaves a line in the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from common.contract import FillRequest
from common.errors import Rejected
from common.safety_policy import SafetyPolicy
from common.settings import Settings
from common.telemetry import get_logger
from worker.safety.checker import SafetyChecker
from worker.safety.flagged import stored_instead

log = get_logger(__name__)


@dataclass(frozen=True)
class Judged:
    """What becomes of one output. `nsfw` is the classifier's word, None where it did not look."""

    nsfw: bool | None
    policy: SafetyPolicy | None
    """What was done because it was flagged; None where it was not."""
    stored: Image.Image | None
    """What is stored: the very image, another one in its place, or nothing."""


@dataclass(frozen=True)
class SafetyGate:
    """One worker's classifier, and what its operator wants of it."""

    checker: SafetyChecker
    settings: Settings

    def admit(self, image: Image.Image, request: FillRequest) -> None:
        """Raise Rejected (input_flagged) where inputs are checked and the job's image is flagged.

        Colours under transparent pixels are looked at, too. Masks are not: no picture comes of them.
        """
        if not self.settings.safety_check_inputs or not self._looks_at(request):
            return
        if self.checker.check(image.convert("RGB")):
            log.info("safety.flagged", what="image")
            raise Rejected(
                "input_flagged",
                "image: the safety checker flagged this image, and this fleet fills no such images; if that is a "
                "mistake, ask its operator",
            )

    def judge(self, image: Image.Image, request: FillRequest) -> Judged:
        """Return what becomes of an output."""
        if not self._looks_at(request):
            return Judged(None, None, image)
        if not self.checker.check(image):
            return Judged(False, None, image)
        policy = self.settings.safety_policy
        log.info("safety.flagged", what="output", policy=policy.value)
        return Judged(True, policy, stored_instead(image, policy))

    def _looks_at(self, request: FillRequest) -> bool:
        """Whether the checker looks at this job at all: a request may do without where the operator allows it."""
        return request.enable_safety_checker or not self.settings.allow_safety_checker_off
