"""Finds a LoRA's file on the Hugging Face hub. It asks as nobody: a job must never see what the operator's token may.

Only names and sizes are asked here; the file itself comes through common/fetch.py, with its bounds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from huggingface_hub import HfApi, hf_hub_url

from common.errors import Rejected, Transient
from common.settings import Settings
from common.urls import shown
from worker.hub import in_words

WELL_KNOWN = ("pytorch_lora_weights.safetensors", "lora.safetensors")
SUFFIX = ".safetensors"
_HUB_ID = re.compile(
    r"(?P<repo>\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:[/:](?P<file>[\w. /()+-]{1,255}\.safetensors))?", re.ASCII
)
_SHOWN_FILES = 5


@dataclass(frozen=True)
class HubId:
    """A repository of the hub, and the file in it where one is named."""

    repo: str
    file: str | None


@dataclass(frozen=True)
class HubFile:
    """A file at one commit. `sha256` is what the hub says, where it says it."""

    url: str
    commit: str
    sha256: str | None


def parse_hub_id(text: str, *, what: str) -> HubId:
    """Return what `text` names: org/name, org/name/file.safetensors or org/name:file.safetensors.

    Raises Rejected (lora_not_found).
    """
    match = _HUB_ID.fullmatch(text)
    if match is None or ".." in text or "//" in text:
        raise Rejected(
            "lora_not_found",
            f"{what}: {shown(text)} is no hub id; write org/name or org/name/file.safetensors, or an https URL",
        )
    return HubId(match["repo"], match["file"])


class LoraHub:
    """The hub, as anybody sees it."""

    def __init__(self, settings: Settings, *, endpoint: str | None = None) -> None:
        self._api = HfApi(endpoint=endpoint, token=False)
        self._max_bytes = settings.lora_max_bytes
        self._seconds = settings.fetch_seconds

    def find(self, wish: HubId, *, what: str, revision: str | None = None) -> HubFile:
        """Return the file that `wish` means at the commit `revision`, by default the newest.

        Raises Rejected (hub_*, lora_not_found, lora_ambiguous, lora_too_large) and Transient (hub_unavailable).
        """
        try:
            info = self._api.model_info(wish.repo, revision=revision, files_metadata=True, timeout=self._seconds)
        except Exception as error:
            told = in_words(error)
            if told is None:
                raise
            message = f"{what}: {shown(wish.repo)} {told.message}"
            if isinstance(told, Rejected):
                raise Rejected(told.code, message) from None
            raise Transient(told.code, message, retry_after_seconds=told.retry_after_seconds, host=told.host) from None
        files = {file.rfilename: file for file in info.siblings or () if file.rfilename.endswith(SUFFIX)}
        file = files[_choose(wish, sorted(files), what)]
        if file.size is not None and file.size > self._max_bytes:
            raise Rejected(
                "lora_too_large", f"{what}: {shown(wish.repo)} has {file.size} bytes; {self._max_bytes} are allowed"
            )
        commit = info.sha or revision or "main"
        url = hf_hub_url(wish.repo, file.rfilename, revision=commit, endpoint=self._api.endpoint)
        return HubFile(url, commit, file.lfs.sha256 if file.lfs is not None else None)


def _choose(wish: HubId, files: list[str], what: str) -> str:
    """Return the name of the file to take: the one named, the only one, or one of a name that trainers use."""
    if wish.file is not None:
        if wish.file in files:
            return wish.file
        raise Rejected("lora_not_found", f"{what}: {shown(wish.repo)} has no file {shown(wish.file)} on the hub")
    top = [name for name in files if "/" not in name] or files
    if not top:
        raise Rejected("lora_not_found", f"{what}: {shown(wish.repo)} has no .safetensors file on the hub")
    chosen = [top[0]] if len(top) == 1 else [name for name in WELL_KNOWN if name in top]
    if not chosen:
        some = ", ".join(top[:_SHOWN_FILES]) + (", …" if len(top) > _SHOWN_FILES else "")
        raise Rejected(
            "lora_ambiguous",
            f"{what}: {shown(wish.repo)} has several files ({some}); name one: {wish.repo}/{top[0]}",
        )
    return chosen[0]
