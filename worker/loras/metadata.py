"""Takes an adapter's alphas, and nothing else, from the peft configuration that diffusers writes into a file.

diffusers would hand that configuration, which anybody may have written, to peft as it is; some of its fields name
code to import or other methods than LoRA.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from common.errors import Rejected

KEY = "lora_adapter_metadata"
FORBIDDEN = ("use_dora", "use_rslora", "use_qalora", "lora_bias", "layer_replication", "modules_to_save")
_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+\$?")


def alphas_of_metadata(
    metadata: Mapping[str, str], layers: Mapping[str, Mapping[str, Any]], *, given: set[str]
) -> dict[str, float]:
    """Return `{part}.{layer}.alpha` for every layer of a part whose metadata sets alphas other than the ranks.

    `layers` is the verified layers by part and name, each with a `rank`; `given` the alphas that the file has as
    tensors. Raises Rejected (lora_unsupported) where it asks for more than a plain LoRA, or has alphas twice.
    """
    if KEY not in metadata:
        return {}
    table = _table(metadata[KEY])
    alphas: dict[str, float] = {}
    for part, own in layers.items():
        settings = {key.removeprefix(f"{part}."): table[key] for key in table if key.startswith(f"{part}.")}
        if not settings:
            continue
        asked = [name for name in FORBIDDEN if settings.get(name)]
        if asked:
            raise Rejected("lora_unsupported", f"asks for {asked[0]} in its metadata; use a plain LoRA for FLUX.1")
        found = {name: _alpha(settings, name) for name in own}
        if any(found[name] != layer.rank for name, layer in own.items()):
            alphas |= {f"{part}.{name}.alpha": alpha for name, alpha in found.items()}
    if alphas and given:
        raise Rejected("lora_unsupported", "has alphas both as tensors and in its metadata; keep one of them")
    return alphas


def _table(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise Rejected("lora_unsupported", f"has {KEY} that is not a JSON table; remove it from the file")
    return table


def _alpha(settings: Mapping[str, Any], layer: str) -> float:
    """Return the alpha that peft would use for `layer`: by the first pattern that fits its end, else the common one."""
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_PATTERN.fullmatch(pattern) for pattern in patterns):
        raise Rejected("lora_unsupported", "has an alpha_pattern in its metadata that is not a table of layer names")
    value: object = settings.get("lora_alpha")
    for pattern, alpha in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            value = alpha
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise Rejected("lora_unsupported", "has no usable lora_alpha in its metadata")
    return float(value)
