"""Finds the classifier that SAFETY_CLASSIFIER names, and brings it onto this host if need be.

Only its configuration and its safetensors are ever downloaded: no pickle reaches this host, and no code of a stranger.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download

from common.errors import Rejected, Transient
from common.settings import Settings
from worker.hub import in_words

NOT_FOUND: Final = "safety_model_not_found"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES: Final = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
)
_NEEDED: Final = "config.json, preprocessor_config.json and model.safetensors"


@dataclass(frozen=True)
class ClassifierFolder:
    """A folder on this host. `commit` is the hub's, or None where the folder is the operator's own."""

    name: str
    path: Path
    commit: str | None


def find_classifier(settings: Settings, *, endpoint: str | None = None, may_download: bool = True) -> ClassifierFolder:
    """Return the classifier's folder, downloaded where it is on the hub (at `endpoint`, by default the public one).

    Raises Rejected (safety_model_not_found) where the operator has to do something, Transient (hub_unavailable).
    """
    name = settings.safety_classifier
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return ClassifierFolder(name, path, None)
    if path.is_dir() or not _HUB_ID.fullmatch(name):
        raise Rejected(
            NOT_FOUND,
            f"SAFETY_CLASSIFIER={name}: must be `opennsfw`, a folder that holds {_NEEDED}, or a hub id such as "
            "Falconsai/nsfw_image_detection",
        )
    try:
        snapshot = Path(
            snapshot_download(
                name,
                revision=settings.safety_revision,
                token=settings.hf_token.get_secret_value() if settings.hf_token else None,
                allow_patterns=list(_FILES),
                endpoint=endpoint,
                local_files_only=not may_download,
            )
        )
    except Exception as error:
        raise _in_words(error, name) from error
    return ClassifierFolder(name, snapshot, snapshot.name)


def _in_words(error: Exception, name: str) -> Exception:
    told = in_words(error)
    if told is None:
        return error
    if isinstance(told, Transient):
        advice = f"until it does, name a folder that holds {_NEEDED}"
        return Transient(told.code, f"SAFETY_CLASSIFIER={name}: {told.message}; {advice}")
    advice = "check SAFETY_CLASSIFIER and SAFETY_REVISION, and for a gated one HF_TOKEN"
    return Rejected(NOT_FOUND, f"SAFETY_CLASSIFIER={name}: {told.message}; {advice}")
