"""What `fillfleet doctor` says of the model: is it there or can it be had, and what does its licence say?

It asks for metadata alone. Weights are neither downloaded nor, where they are large, read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, ModelInfo, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

from common.checkup import Finding, Verdict
from common.errors import FillfleetError, Rejected, Transient
from common.settings import Settings
from worker.model_folder import hub_in_words, hub_token, is_snapshot, local_folder, revision_of
from worker.model_licence import CARD, HUB_PAGES, CommercialUse, ModelLicence, licence_of, read_licence

_MODEL: Final = "model"
_INDEX: Final = "model_index.json"
HUB_SECONDS: Final = 5.0
_HASHED_BYTES: Final = 1024**3
"""A folder of more is not hashed for its revision: 31 GB take minutes to read."""


def check_model(settings: Settings) -> Sequence[Finding]:
    """Look for the model that FILL_MODEL names, and read its licence."""
    name = settings.fill_model
    try:
        folder = local_folder(settings)
    except Rejected as error:
        return [Finding(_MODEL, Verdict.MISSING, f"no model at FILL_MODEL={name}", error.message)]
    if folder is None:
        return _check_hub_model(settings)
    revision = _quick_revision(folder)
    found = f"{name}, revision {revision}" if revision else f"{name}, its revision too large to compute here"
    facts = {"name": name, "revision": revision}
    return [Finding(_MODEL, Verdict.OK, found, facts=facts), _licence(read_licence(folder, None))]


def _quick_revision(folder: Path) -> str | None:
    if not is_snapshot(folder) and sum(path.stat().st_size for path in folder.rglob("*")) > _HASHED_BYTES:
        return None
    return revision_of(folder)


def _check_hub_model(settings: Settings) -> list[Finding]:
    name, kept = settings.fill_model, kept_snapshot(settings)
    token = f"HF_TOKEN is {'set' if settings.hf_token else 'not set'}"
    facts: dict[str, Any] = {"name": name, "hf_token": settings.hf_token is not None, "on_this_host": kept is not None}
    try:
        info = _ask_hub(settings, kept)
    except FillfleetError as error:
        if kept is None:
            todo = "check this host's way to the hub" if isinstance(error, Transient) else f"see {HUB_PAGES}/{name}"
            found = f"{name} is not on this host, and the hub does not give it ({token})"
            return [Finding(_MODEL, Verdict.MISSING, found, f"{error.message}; {todo}", facts)]
        found = f"{name}, revision {kept.name}, on this host; the hub was asked in vain: {error.message}"
        facts |= {"revision": kept.name}
        return [Finding(_MODEL, Verdict.OK, found, facts=facts), _licence(read_licence(kept, name))]
    here = _is_kept(info, kept)
    facts |= {"revision": info.sha, "gated": bool(info.gated), "on_this_host": here}
    where = "on this host" if here else "not on this host yet: the first worker downloads it"
    card = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
    found = f"{name}, revision {info.sha}, {where} ({token})"
    return [Finding(_MODEL, Verdict.OK, found, facts=facts), _licence(licence_of(card, None, name))]


def _ask_hub(settings: Settings, kept: Path | None) -> ModelInfo:
    """Return what the hub says of the model. Raises Rejected also where it would not hand out the files."""
    name, revision, token = settings.fill_model, settings.fill_revision, hub_token(settings)
    with hub_in_words(settings):
        info = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS, token=token)
        if not _is_kept(info, kept):
            get_hf_file_metadata(hf_hub_url(name, _INDEX, revision=revision), token=token, timeout=HUB_SECONDS)
    return info


def _is_kept(info: ModelInfo, kept: Path | None) -> bool:
    return kept is not None and kept.name == info.sha


def kept_snapshot(settings: Settings) -> Path | None:
    """Return the folder in the hub's cache where the whole model is there already."""
    index = try_to_load_from_cache(settings.fill_model, _INDEX, revision=settings.fill_revision)
    if not isinstance(index, str):
        return None
    folder = Path(index).parent
    parts = [name for name, value in json.loads(Path(index).read_bytes()).items() if isinstance(value, list)]
    return folder if all(_has_weights(folder / part) for part in parts) else None


def _has_weights(part: Path) -> bool:
    """Return whether a part of the pipeline is whole: all its shards, or its one file of weights if it has any."""
    if not part.is_dir():
        return False
    for index in part.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
        return all((part / shard).is_file() for shard in shards)
    return not (part / "config.json").is_file() or any(part.glob("*.safetensors"))


def _licence(licence: ModelLicence) -> Finding:
    facts = {
        "licence": licence.name,
        "commercial_use": licence.commercial_use.value,
        "terms": [one.link for one in licence.terms],
    }
    if licence.commercial_use is CommercialUse.ALLOWED:
        return Finding("licence", Verdict.OK, licence.says, facts=facts)
    read = ", ".join(f"{one.link} ({one.title})" for one in licence.terms)
    todo = f"read {read}" if read else f"read the terms where the weights came from; the {CARD} here leads to none"
    return Finding("licence", Verdict.WARNING, licence.says, f"{todo}; docs/use-policy.md says more", facts)
