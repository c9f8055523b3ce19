"""Writes what was trained as the folder that FluxFillPipeline loads, with its card. Made aside, then put in place."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from infra.demo_model import recipe
from infra.demo_model.files import HERE, LOGS
from infra.demo_model.flow import Parts
from infra.demo_model.style_training import RANK
from infra.demo_model.styles import STYLES

_CARD = HERE / "card.md"


def save_model(vae: Any, parts: Parts, folder: Path, training: Path) -> None:
    """Write the pipeline into `folder` in place of what is there; the transformer in half the bytes, as bfloat16.

    The card takes from the logs in `training` how long each part was trained.
    """
    import diffusers
    import torch

    clip_tokenizer, t5_tokenizer = recipe.tokenizers()
    pipeline = diffusers.FluxFillPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**recipe.SCHEDULER),
        vae=vae.to(memory_format=torch.contiguous_format),
        text_encoder=parts.clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=parts.t5,
        tokenizer_2=t5_tokenizer,
        transformer=parts.transformer.to(torch.bfloat16),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-model-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        pipeline.save_pretrained(made, safe_serialization=True)
        (made / "README.md").write_text(_CARD.read_text().replace("{parts}", _table(vae, parts, training)))
        for path in made.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # the libraries leave weights unreadable for other users, such as a container's
        if folder.exists():
            os.rename(folder, Path(scratch) / "before")
        os.rename(made, folder)


def _table(vae: Any, parts: Parts, training: Path) -> str:
    """Return the card's rows: what was trained, of how many parameters, for how long."""
    fill = [parts.transformer, parts.clip, parts.t5]
    rows = {
        "vae": ("VAE", [vae]),
        "fill": ("transformer and text encoders", fill),
        "decoder": ("the VAE's decoder again, sharper", [vae.decoder]),
    }
    lines = []
    for name, (title, modules) in rows.items():
        last = _entries(training, name)[-1]
        millions = sum(p.numel() for module in modules for p in module.parameters()) / 1e6
        lines.append(f"| {title} | {millions:.1f} million | {last['step']:,} | {last['seconds'] / 60:.0f} |")
    for name in STYLES:
        last = _entries(training, name)[-1]
        lines.append(f"| LoRA `{name}` | rank {RANK} | {last['step']:,} | {last['seconds'] / 60:.0f} |")
    return "\n".join(lines)


def _entries(training: Path, name: str) -> list[dict[str, Any]]:
    """Return a log's entries, without those of a part that was run again after a crash."""
    entries = {entry["step"]: entry for entry in map(json.loads, (training / f"{name}.jsonl").read_text().splitlines())}
    return [entries[step] for step in sorted(entries)]


def save_log(training: Path, name: str) -> None:
    """Keep the log of one training beside the code."""
    LOGS.mkdir(exist_ok=True)
    (LOGS / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in _entries(training, name)))
