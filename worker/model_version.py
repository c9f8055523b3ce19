"""What decides a result's last bits, written down: it is recorded with every job."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import torch

from common.fill_profile import Attention
from worker.model_folder import ModelFolder
from worker.profile import Profile

LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def model_version(pipe: Any, folder: ModelFolder, profile: Profile, device: torch.device) -> dict[str, str]:
    """Return the model version of a pipeline that computes on `device`. All values are text, and none is a path."""
    return {
        "model": _shown(folder),
        "revision": folder.revision,
        **profile.in_effect,
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "attention": _attention(profile),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in (*LIBRARIES, *profile.libraries)},
    }


def _attention(profile: Profile) -> str:
    """Return the profile's word, or where it leaves the choice to stock, what diffusers is told by its environment."""
    if profile.attention is not Attention.NATIVE:
        return profile.attention.value
    return os.environ.get("DIFFUSERS_ATTN_BACKEND", "native")


def _shown(folder: ModelFolder) -> str:
    """Return the name that the operator wrote, but of a folder's path the last part alone: users see it in results."""
    return folder.path.name if os.path.isabs(folder.name) or folder.name.startswith((".", "~")) else folder.name
