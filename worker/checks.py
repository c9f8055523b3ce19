"""What `fillfleet doctor` asks of a worker's host: the model, the device, the classifier.

This file is imported in the base install, too: whatever the worker extra brings is imported inside the checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from common.checkup import Check, Finding, Verdict
from common.errors import Rejected, Transient
from common.settings import Settings

_INSTALL: Final = "pip install 'fillfleet[worker]'"
_GIB: Final = 1024**3


def say_not_installed(_settings: Settings) -> Sequence[Finding]:
    """Say why nothing is said of model, device and classifier: an API's host needs none of them."""
    found = "the worker extra is not installed here: model, device and classifier are looked at on the workers' hosts"
    return [Finding("worker", Verdict.NOTE, found, f"for a worker on this host: {_INSTALL}")]


def check_model(settings: Settings) -> Sequence[Finding]:
    """Look for the model, and read its licence."""
    from worker.model_check import check_model as check

    return check(settings)


def check_device(settings: Settings) -> Sequence[Finding]:
    """Ask torch which devices there are, and whether the wished one is among them."""
    import torch

    from worker.torch_device import choose_device

    name = "device"
    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    seen = [f"{gpu.name} with {gpu.total_memory / _GIB:.0f} GiB" for gpu in gpus]
    facts = {"torch": torch.__version__, "gpus": seen}
    try:
        device = choose_device(settings.fill_device)
    except Rejected as error:
        return [Finding(name, Verdict.MISSING, f"torch {torch.__version__} sees no GPU", error.message, facts)]
    if device.type == "cuda" and (device.index or 0) >= len(gpus):
        found = f"torch {torch.__version__} sees {len(gpus)} GPUs, and no {device}"
        return [Finding(name, Verdict.MISSING, found, "number them from 0 in FILL_DEVICE", facts)]
    where = seen[device.index or 0] if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    others = f"; {len(gpus)} GPUs here, one worker each" if len(gpus) > 1 else ""
    found = f"torch {torch.__version__} on {device}: {where}{others}"
    return [Finding(name, Verdict.OK, found, facts=facts | {"device": str(device)})]


def check_profile(settings: Settings) -> Sequence[Finding]:
    """Ask whether what FILL_PROFILE and the settings around it say goes together, and with this host's device."""
    from worker.profile import profile_of
    from worker.torch_device import choose_device, host_of

    name = "profile"
    try:
        device = choose_device(settings.fill_device)
    except Rejected:
        return []  # check_device says so
    try:
        profile = profile_of(settings, host_of(device))
    except Rejected as error:
        return [
            Finding(
                name, Verdict.MISSING, f"no worker starts under FILL_PROFILE={settings.fill_profile}", error.message
            )
        ]
    facts = {**profile.in_effect, "offload": profile.offload.value}
    said = [f"{key} {value}" for key, value in facts.items() if (key, value) != ("offload", "none")]
    return [Finding(name, Verdict.OK, ", ".join(said), facts=facts)]


def check_machine(settings: Settings) -> Sequence[Finding]:
    """Look at GPUs and their memory, cores, the host's memory and disk."""
    from worker.machine_check import check_machine as check

    return check(settings)


def check_safety(settings: Settings) -> Sequence[Finding]:
    """Load the classifier that looks at images, as a worker does at its start; it is not downloaded for that."""
    from worker.safety import make_checker
    from worker.safety.checker import OPEN_NSFW
    from worker.safety.classifier_folder import find_classifier

    name, classifier = "safety", settings.safety_classifier
    try:
        checker = make_checker(settings)
        if classifier != OPEN_NSFW:
            find_classifier(settings, may_download=False)
        checker.load()
    except ImportError:
        return [Finding(name, Verdict.MISSING, "the classifier of images is not installed", _INSTALL)]
    except Transient:
        return [Finding(name, Verdict.NOTE, f"{classifier} is not on this host yet: the first worker downloads it")]
    except Rejected as error:
        return [Finding(name, Verdict.MISSING, "the classifier of images cannot be used", error.message)]
    found = f"{classifier} flags images from {checker.threshold} on; what is stored of them: {settings.safety_policy}"
    return [Finding(name, Verdict.OK, found)]


_CHECKS: Final = (check_model, check_device, check_profile, check_machine, check_safety)
CHECKS: Final[Sequence[Check]] = _CHECKS if find_spec("torch") is not None else (say_not_installed,)
