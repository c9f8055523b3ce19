"""What the images were made with: the LoRAs and, where there are several, the model versions, with the rows of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from producer.report.figures import count
from producer.report.markup import code, isolated, plain
from producer.report.pictures import place_of
from producer.report.summary import LoraFile, Summary

_SHOWN: Final = 50
"""Of each."""


def loras_table(summary: Summary) -> str:
    """Return the LoRAs that completed rows used, each file by its sha256; the most used first."""
    if not summary.loras:
        return ""
    most = sorted(summary.loras.items(), key=lambda item: (-item[1], item[0].path, item[0].sha256 or ""))[:_SHOWN]
    rows = "".join(_lora(lora, number) for lora, number in most)
    return f"""<h2 id="loras">LoRAs</h2>
<div class="scroll" tabindex="0" role="region" aria-label="LoRAs"><table>
<tr><th>LoRA</th><th>sha256 of its file</th><th>Revision</th><th class="number">Rows</th></tr>
{rows}</table></div>"""


def _lora(lora: LoraFile, number: int) -> str:
    path = place_of(lora.path) if "://" in lora.path else lora.path
    sha256 = code(lora.sha256) if lora.sha256 else "not known"
    revision = code(lora.revision) if lora.revision else "-"
    return (
        f'<tr><td>{isolated(path)}</td><td class="long">{sha256}</td><td>{revision}</td>'
        f'<td class="number">{count(number)}</td></tr>'
    )


def versions_table(summary: Summary) -> str:
    """Return the model versions where there is more than one."""
    if len(summary.versions) < 2:
        return ""
    most = sorted(summary.versions.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    rows = "".join(
        f'<tr><td class="long">{version_text(version)}</td><td class="number">{count(number)}</td></tr>'
        for version, number in most
    )
    return f"""<h2 id="versions">Model versions</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Model versions"><table>
<tr><th>Version</th><th class="number">Rows</th></tr>
{rows}</table></div>"""


def version_text(text: str) -> str:
    """Return a model version, which is the JSON of an object, as HTML."""
    version: Mapping[str, object] = json.loads(text)
    return ", ".join(f"{plain(name)} {code(value)}" for name, value in version.items())
