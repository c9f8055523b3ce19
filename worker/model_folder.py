"""Finds the model that FILL_MODEL names, brings it onto this host if need be, and says which revision it is.

Downloads go into the hub's own cache (HF_HOME), whose locks make several workers of one host wait for one download.
torch and diffusers are imported only where they are needed: who looks for a folder need not wait for them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from huggingface_hub import hf_hub_download

import worker
from common.errors import Rejected, Transient
from common.settings import Settings
from common.telemetry import get_logger
from worker.hub import in_words
from worker.model_licence import CARD

if TYPE_CHECKING:
    from worker.loras.base_shapes import BaseShapes

log = get_logger(__name__)

BUNDLED = Path(worker.__file__).resolve().parents[1] / "infra" / "demo_model" / "weights"
"""Where the demo model lies; found by its place, since worker never imports infra."""
BUNDLED_NAME = "bundled"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CARD_SECONDS: Final = 5.0


@dataclass(frozen=True)
class ModelFolder:
    """A diffusers folder on this host. `name` is what the operator wrote, `revision` says which content it has.

    `hub_id` is its name on the hub, where it was brought from there.
    """

    name: str
    path: Path
    revision: str
    hub_id: str | None = None


def find_model(settings: Settings) -> ModelFolder:
    """Return the model's folder, downloaded where it is on the hub.

    Raises Rejected (model_not_found, model_not_allowed) where the operator has to do something, Transient
    (hub_unavailable).
    """
    path = local_folder(settings)
    if path is not None:
        return ModelFolder(settings.fill_model, path, revision_of(path))
    path = _download(settings)
    return ModelFolder(settings.fill_model, path, path.name, hub_id=settings.fill_model)


def find_shapes(settings: Settings) -> BaseShapes:
    """Return the shapes of the model that FILL_MODEL names, from its configuration alone. Raises as find_model does."""
    from worker.loras.base_shapes import CONFIGURATIONS, BaseShapes

    path = local_folder(settings)
    if path is None:
        with hub_in_words(settings):
            files = [
                hf_hub_download(settings.fill_model, name, revision=settings.fill_revision, token=hub_token(settings))
                for name in CONFIGURATIONS
            ]
        path = Path(files[0]).parents[1]
    return BaseShapes.of_folder(path)


def local_folder(settings: Settings) -> Path | None:
    """Return the folder that FILL_MODEL names, or None where it names a model of the hub. Raises Rejected."""
    name = settings.fill_model
    path = BUNDLED if name == BUNDLED_NAME else Path(name).expanduser()
    if (path / "model_index.json").is_file():
        return path
    if name == BUNDLED_NAME:
        raise Rejected(
            "model_not_found",
            "the demo model is not there: the installation lacks infra/demo_model/weights; install Fillfleet anew, or "
            "set FILL_MODEL",
        )
    if path.is_dir() or not _HUB_ID.fullmatch(name):
        raise Rejected(
            "model_not_found",
            f"FILL_MODEL={name}: must be `bundled`, a folder that holds model_index.json, or a hub id "
            "such as black-forest-labs/FLUX.1-Fill-dev",
        )
    return None


def _download(settings: Settings) -> Path:
    """Return the snapshot's folder in the hub's cache; its name is the commit."""
    from diffusers import DiffusionPipeline

    with hub_in_words(settings):
        folder = Path(
            DiffusionPipeline.download(
                settings.fill_model, revision=settings.fill_revision, token=hub_token(settings), use_safetensors=True
            )
        )
    if not (folder / CARD).is_file():
        _bring_card(settings, folder)
    return folder


def _bring_card(settings: Settings, folder: Path) -> None:
    """Bring the model's card beside its weights: diffusers takes only what it loads, and the licence stands there."""
    try:
        hf_hub_download(
            settings.fill_model, CARD, revision=folder.name, token=hub_token(settings), etag_timeout=_CARD_SECONDS
        )
    except Exception as error:  # noqa: BLE001 - a model whose licence stays unknown is loaded all the same
        told = in_words(error)
        log.warning("model.no_card", model=settings.fill_model, why=told.message if told else type(error).__name__)


def hub_token(settings: Settings) -> str | None:
    """Return the token to ask the hub with, or None for whatever the hub's own library finds on this host."""
    return settings.hf_token.get_secret_value() if settings.hf_token else None


@contextmanager
def hub_in_words(settings: Settings) -> Iterator[None]:
    """Turn the hub's errors in the block into Rejected (model_not_found, model_not_allowed) and Transient."""
    try:
        yield
    except Exception as error:
        told = in_words(error)
        if told is None:
            raise
        if isinstance(told, Transient):
            raise Transient(told.code, f"FILL_MODEL={settings.fill_model}: {told.message}") from error
        raise Rejected(
            "model_not_allowed" if told.code == "hub_gated" else "model_not_found",
            f"FILL_MODEL={settings.fill_model}: {told.message}; accept the model's licence on its page, "
            "and set HF_TOKEN to a token of that account",
        ) from error


def revision_of(folder: Path) -> str:
    """Return the commit of a hub snapshot, or a hash over the files of the pipeline's parts."""
    if is_snapshot(folder):
        return folder.name
    index = json.loads((folder / "model_index.json").read_text())
    parts = sorted(part for part in index if not part.startswith("_") and (folder / part).is_dir())
    digest = hashlib.sha256(json.dumps({part: index[part] for part in parts}).encode())
    for path in (path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def is_snapshot(folder: Path) -> bool:
    """Return whether this is a folder of the hub's cache, which is named by its commit."""
    return folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name) is not None
