"""Says under which licence a model runs: in the log at each load, and once on a host so that nobody can miss it.

It only tells. No worker is kept from starting by a licence, and one that allows commercial use is a line in the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from common.settings import Settings
from common.telemetry import get_logger
from worker.model_folder import ModelFolder
from worker.model_licence import CommercialUse, ModelLicence, read_licence

log = get_logger(__name__)

_FOLDER: Final = ".licence-notices"
"""In the cache folder, which workers of one host share and restarts keep."""
_RULE: Final = "=" * 78


def tell_licence(folder: ModelFolder, settings: Settings) -> None:
    """Log the licence of the model in `folder`, and print the notice where these weights are new to this host."""
    licence = read_licence(folder.path, folder.hub_id)
    tell = log.info if licence.commercial_use is CommercialUse.ALLOWED else log.warning
    tell(
        "model.licence",
        model=folder.name,
        revision=folder.revision,
        licence=licence.name,
        commercial_use=licence.commercial_use.value,
        terms=[one.link for one in licence.terms],
        says=licence.says,
    )
    if licence.commercial_use is CommercialUse.RULED_OUT and _is_first_time(folder, licence, settings):
        click.echo("\n".join(_notice(folder, licence)), err=True)


def _notice(folder: ModelFolder, licence: ModelLicence) -> Iterator[str]:
    yield ""
    yield _RULE
    yield "THE LICENCE OF THIS MODEL'S WEIGHTS RULES OUT COMMERCIAL USE"
    yield ""
    yield f"  model     {folder.name}"
    yield f"  revision  {folder.revision}"
    yield f"  licence   {licence.name}"
    for one in licence.terms:
        yield f"  read      {one.link}  ({one.title})"
    if not licence.terms:
        yield "  read      its terms where you got these weights: the folder names no text that is there"
    yield ""
    yield "Whoever runs this worker answers for keeping to these terms, and for what is"
    yield "made with it. Commercial use needs another licence from those who made the"
    yield "weights. docs/use-policy.md of Fillfleet says more."
    yield ""
    yield "This is shown once for these weights on this host. The log says it at every"
    yield "start (model.licence)."
    yield _RULE
    yield ""


def _is_first_time(folder: ModelFolder, licence: ModelLicence, settings: Settings) -> bool:
    """Return whether nobody was told before: of workers that start at once, exactly one is the first.

    Where nothing can be written down it is always the first time: better said twice than never.
    """
    what = "\n".join((folder.name, folder.revision, licence.name or ""))
    marker = _marker_folder(settings) / hashlib.sha256(what.encode()).hexdigest()
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        with marker.open("x") as file:
            file.write(f"{what}\nshown {datetime.now(UTC).isoformat(timespec='seconds')}\n")
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _marker_folder(settings: Settings) -> Path:
    return settings.lora_cache_folder.expanduser() / _FOLDER
