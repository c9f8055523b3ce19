"""Writes what was trained as the folder that FluxFillPipeline loads, with its card. Made aside, then put in place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from infra.demo_model import recipe
from infra.demo_model.files import HERE, LOGS
from infra.demo_model.flow import Parts

_CARD = HERE / "card.md"


def save_model(vae: Any, parts: Parts, folder: Path) -> None:
    """Write the pipeline into `folder` in place of what is there; the transformer in half the bytes, as bfloat16."""
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
        shutil.copy(_CARD, made / "README.md")
        for path in made.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # the libraries leave weights unreadable for other users, such as a container's
        if folder.exists():
            os.rename(folder, Path(scratch) / "before")
        os.rename(made, folder)


def save_log(training: Path, name: str) -> None:
    """Keep the log of one training beside the code, without the lines of a part that was run again after a crash."""
    lines = {entry["step"]: entry for entry in map(json.loads, (training / f"{name}.jsonl").read_text().splitlines())}
    LOGS.mkdir(exist_ok=True)
    (LOGS / f"{name}.jsonl").write_text("".join(json.dumps(lines[step]) + "\n" for step in sorted(lines)))
