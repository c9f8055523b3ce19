"""Which of this host's devices FILL_DEVICE means."""

from __future__ import annotations

import torch

from common.errors import Rejected
from worker.profile import Host


def choose_device(wish: str) -> torch.device:
    """Return the device to fill on. Raises Rejected (no_such_device) where it is not there."""
    if wish.startswith("cuda") and not torch.cuda.is_available():
        raise Rejected(
            "no_such_device",
            f"FILL_DEVICE={wish}, but torch sees no GPU here: check the driver (nvidia-smi) and that torch is a CUDA "
            "build, or set FILL_DEVICE=auto",
        )
    if wish != "auto":
        return torch.device(wish)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def host_of(device: torch.device) -> Host:
    """Return what the rules of worker/profile.py ask of the host that this device is in."""
    return Host(device.type, torch.cuda.get_device_capability(device) if device.type == "cuda" else None)
