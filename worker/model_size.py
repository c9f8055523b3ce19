"""How large the model's parts are: from the headers of its files where they are here, else as the hub lists them.

Nothing is downloaded, and of a file nothing is read but its header.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi

from common.settings import Settings
from worker.model_check import HUB_SECONDS, kept_snapshot
from worker.model_folder import hub_in_words, hub_token, local_folder
from worker.vram_fit import ModelSize

_WEIGHTS: Final = re.compile(r"([a-z0-9_]+)/(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?\.safetensors")
"""What a pipeline loads: neither variants such as *.fp16.safetensors nor the single file beside the folders."""
_HEADER_MAX_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class FoundSize:
    """What the parts take on the device, and what of the model is still to be downloaded to this host."""

    size: ModelSize
    download_bytes: int


def find_size(settings: Settings, *, on_gpu: bool) -> FoundSize:
    """Return the size of the model that FILL_MODEL names. Raises Rejected and Transient as find_model does."""
    width = _width(settings.fill_dtype, on_gpu=on_gpu)
    folder = local_folder(settings) or kept_snapshot(settings)
    if folder is not None:
        paths = {path.relative_to(folder).as_posix(): path for path in folder.glob("*/*.safetensors")}
        return FoundSize(_by_part({name: width * _weights_in(path) for name, path in paths.items()}), 0)
    with hub_in_words(settings):
        info = HfApi().model_info(
            settings.fill_model,
            revision=settings.fill_revision,
            files_metadata=True,
            timeout=HUB_SECONDS,
            token=hub_token(settings),
        )
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    # What such models are published in has 16 bits a weight; whether this one has, its files tell once they are here.
    size = _by_part({name: taken * width // 2 for name, taken in files.items()})
    return FoundSize(size, sum(taken for name, taken in files.items() if _WEIGHTS.fullmatch(name)))


def _width(dtype: str, *, on_gpu: bool) -> int:
    """Return how many bytes a weight takes; as worker/model.py chooses the dtype."""
    return 4 if dtype == "float32" or (dtype == "auto" and not on_gpu) else 2


def _by_part(files: Mapping[str, int]) -> ModelSize:
    parts: dict[str, int] = {}
    for name, taken in files.items():
        found = _WEIGHTS.fullmatch(name)
        if found is not None:
            parts[found[1]] = parts.get(found[1], 0) + taken
    texts = tuple(taken for name, taken in sorted(parts.items()) if name.startswith("text_encoder"))
    transformer = parts.get("transformer", 0)
    return ModelSize(transformer, texts, sum(parts.values()) - transformer - sum(texts))


def _weights_in(path: Path) -> int:
    """Return how many numbers a safetensors file holds."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, _HEADER_MAX_BYTES)))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
