"""What decides a result's last bits, written down: it is recorded with every job."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import torch

from worker.model_folder import ModelFolder

PROFILE = "exact"
LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def model_version(pipe: Any, folder: ModelFolder) -> dict[str, str]:
    """Return the model version of a loaded pipeline (DESIGN's word). All values are text, and none is a path."""
    device: torch.device = pipe.device
    return {
        "model": _shown(folder),
        "revision": folder.revision,
        "profile": PROFILE,
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "attention": os.environ.get("DIFFUSERS_ATTN_BACKEND", "native"),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in LIBRARIES},
    }


def _shown(folder: ModelFolder) -> str:
    """Return the name that the operator wrote, but of a folder's path the last part alone: users see it in results."""
    return folder.path.name if os.path.isabs(folder.name) or folder.name.startswith((".", "~")) else folder.name
