"""Trains the demo's LoRAs on the finished model, one a style, so that each works alone and both work together.

The second learns with the first beside it half of the time; nothing else would make two styles one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from infra.demo_model import recipe
from infra.demo_model.examples import Examples
from infra.demo_model.flow import Parts, flow_loss
from infra.demo_model.styles import OUTLINED, STRIPED, draw_styled
from infra.demo_model.training_run import Schedule, TrainingRun

RANK: Final = 16
SCHEDULES: Final = {
    STRIPED: Schedule(steps=1000, warm_up=20, decay_from=0.4),
    OUTLINED: Schedule(steps=1000, warm_up=20, decay_from=0.4),
}
_TARGETS: Final = (
    r"transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.proj_out"
)
"""The layers that every format for LoRAs has a name for; kohya's has one for a single block's other layers, too, but
diffusers converts that for the real model's widths only."""
_RATE: Final = 3e-3
_BATCH: Final = 20
_SIDES: Final = (256, 256, 512)
"""The picture sizes by turns; large ones come in smaller batches."""


def train_styles(folder: Path, vae: Any, parts: Parts) -> dict[str, dict[str, Tensor]]:
    """Return each style's LoRA as diffusers names it, "transformer.….lora_A.weight"; checkpoints go to `folder`."""
    for module in (parts.transformer, parts.clip, parts.t5):
        module.requires_grad_(False)
    tokenizers = recipe.tokenizers()
    striped = _train(folder, vae, tokenizers, parts, STRIPED, beside=())
    outlined = _train(folder, vae, tokenizers, parts, OUTLINED, beside=(STRIPED,))
    return {STRIPED: striped, OUTLINED: outlined}


def _train(
    folder: Path, vae: Any, tokenizers: tuple[Any, Any], parts: Parts, style: str, *, beside: Sequence[str]
) -> dict[str, Tensor]:
    from peft import LoraConfig

    torch.manual_seed(3)
    transformer = parts.transformer
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=_TARGETS), adapter_name=style)
    own = {name: p for name, p in transformer.named_parameters() if f".{style}." in name}
    schedule = SCHEDULES[style]
    module = torch.nn.ParameterDict({name.replace(".", "/"): p for name, p in own.items()})
    optimizer = torch.optim.AdamW(own.values(), lr=_RATE, weight_decay=0.0)
    run = TrainingRun(folder, style, {"lora": module}, [optimizer], schedule, average=0.98)
    companies = [(), *([tuple(beside)] if beside else [])]
    examples = {
        (side, company): Examples(
            vae,
            tokenizers,
            side,
            lambda number, side=side, company=company: draw_styled(number, side, (style, *company)),  # type: ignore[misc]
        )
        for side in sorted(set(_SIDES))
        for company in companies
    }

    def step(number: int) -> dict[str, Tensor]:
        torch.manual_seed(number)
        side, company = _SIDES[number % len(_SIDES)], companies[number % len(companies)]
        transformer.set_adapters([style, *company])
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(name in own)
        return flow_loss(parts, examples[side, company].batch(number, _BATCH if side == _SIDES[0] else _BATCH // 4))

    run.go(step)
    averaged = {name.replace("/", "."): value for name, value in run.averaged("lora").items()}
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(averaged[name])
    return {f"transformer.{name.replace(f'.{style}.', '.')}": value for name, value in averaged.items()}
