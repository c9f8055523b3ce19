"""A host with GPUs, as far as nvidia-smi and CUDA_VISIBLE_DEVICES make one: a stand-in for the command, on PATH."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.errors import Rejected
from common.settings import Settings
from tests.support.sleeping_model import SleepingModel

LARGE: Final = "NVIDIA H100 80GB HBM3, 81559, 570.133.20, 9.0, Disabled"
"""Name, MiB, driver, compute capability and MIG mode, as nvidia-smi writes them."""
SMALL: Final = "NVIDIA GeForce RTX 4090, 24564, 570.133.20, 8.9, [N/A]"
ON_ITS_GPU: Final = "tests.support.gpu_host:SleepingOnItsGpu"


class SleepingOnItsGpu(SleepingModel):
    """A sleeping model whose version says which GPU its process was given, so that every result does."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.version |= {"device": os.environ["CUDA_VISIBLE_DEVICES"], "threads": str(settings.worker_threads)}


class SleepingOnTheFirstGpu(SleepingOnItsGpu):
    """On every other GPU the operator has to do something before it can start."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if self.version["device"] != uuid_of(0):
            raise Rejected("model_not_allowed", "FILL_MODEL=some/model: accept its licence")


def uuid_of(number: int) -> str:
    """Return the UUID of the GPU with this number."""
    return f"GPU-{number:08x}-3d5e-11f0-8d2c-0a58a9feac02"


def with_gpus(folder: Path, gpus: Sequence[str]) -> dict[str, str]:
    """Put a nvidia-smi into `folder` that knows these GPUs; returns the PATH with it."""
    listed = [f"GPU {n}: {gpu.split(',')[0]} (UUID: {uuid_of(n)})" for n, gpu in enumerate(gpus)]
    queried = [f"{uuid_of(n)}, {gpu.split(', ', 1)[1]}" for n, gpu in enumerate(gpus)]
    return with_nvidia_smi(folder, list_says="\n".join(listed), query_says="\n".join(queried))


def with_nvidia_smi(folder: Path, *, list_says: str, query_says: str = "", code: int = 0) -> dict[str, str]:
    """Put a nvidia-smi into `folder` that answers so; returns the PATH with it."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$1" in -L) echo {shlex.quote(list_says)} ;; *) echo {shlex.quote(query_says)} ;; esac\n'
        f"exit {code}\n"
    )
    script.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
