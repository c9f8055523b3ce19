"""Compiles the transformer's repeated blocks, once for all sizes, and fills a few sizes before the first job comes.

What is compiled stays on the disk, so that the next start finds it. Compiled and eager workers make different last
bits: that blocks are compiled is in the model version.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from common.errors import Rejected
from common.telemetry import get_logger
from worker.profile import Compilation
from worker.work import Work

log = get_logger(__name__)

_WARM_UP_STEPS: Final = 2
_MAX_VARIANTS: Final = 64
"""Of one block's code: sizes, and LoRA slots in use or not. torch's own bound, 8, would fail jobs from the ninth on."""


def compile_blocks(transformer: Any, wish: Compilation, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have each block compiled at its first use, by torch's backend. Raises Rejected (profile_folder)."""
    import torch._dynamo.config

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_own_folder(wish.cache))  # read when the first block is compiled
    torch._dynamo.config.recompile_limit = _MAX_VARIANTS
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)


def warm_up(fill: Callable[[Work], object], sizes: Sequence[tuple[int, int]]) -> None:
    """Fill nothing in particular in each size, so that no job waits while its size is compiled."""
    for width, height in sizes:
        began = time.monotonic()
        fill(
            Work(
                image=Image.new("RGB", (width, height), (127, 127, 127)),
                mask=Image.new("L", (width, height), 255),
                width=width,
                height=height,
                prompt="",
                steps=_WARM_UP_STEPS,
                guidance=30.0,
                seeds=(0,),
            )
        )
        log.info("model.warmed_up", width=width, height=height, seconds=round(time.monotonic() - began, 1))


def _own_folder(folder: Path) -> Path:
    """Return the folder, made where it is missing. Raises Rejected where others could put their code into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise Rejected(
            "profile_folder", f"FILL_COMPILE_CACHE={folder} cannot be made or read ({error.strerror}): name another"
        ) from error
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
        raise Rejected(
            "profile_folder",
            f"FILL_COMPILE_CACHE={folder} can be written to by others, whose code would then run in this worker: "
            "name a folder of this user's own, or take the others' right to write away",
        )
    return folder
