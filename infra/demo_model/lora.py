"""Makes a small LoRA for the demo model, in diffusers' own format: `python -m infra.demo_model.lora FOLDER`.

Its style is unmistakable: light and dark upright stripes, as strong as the scale. The same file comes out each time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch import Tensor

NAME = "demo-style.safetensors"
RANK = 4
STRIPES = 0.7
"""How far from the fill's colour the stripes go at scale 1, where black to white is 2."""


def demo_style() -> dict[str, Tensor]:
    """Return the LoRA's tensors: the stripes at the output, and small noise in every attention of the double blocks."""
    import torch

    from infra.demo_model.recipe import TRANSFORMER, WIDTH
    from infra.demo_model.weights import PACKED, PLUS, REFERENCE, SPREAD

    generator = torch.Generator("cpu").manual_seed(7)
    tensors: dict[str, Tensor] = {}
    for block in range(TRANSFORMER["num_layers"]):
        for module in ("to_q", "to_k", "to_v", "to_out.0"):
            for part, shape in (("lora_A", (RANK, WIDTH)), ("lora_B", (WIDTH, RANK))):
                key = f"transformer.transformer_blocks.{block}.attn.{module}.{part}.weight"
                tensors[key] = torch.randn(shape, generator=generator) * 0.005
    down = torch.zeros(RANK, WIDTH)
    down[0, PLUS] = SPREAD / REFERENCE  # the channel that always holds the same number
    up = torch.randn(TRANSFORMER["out_channels"], RANK, generator=generator) * 0.005
    for n in range(PACKED):
        up[n, 0] = STRIPES if n % 2 else -STRIPES  # each token packs two columns of latents
    tensors["transformer.proj_out.lora_A.weight"] = down
    tensors["transformer.proj_out.lora_B.weight"] = up
    return tensors


def save_demo_style(folder: Path) -> Path:
    """Write the LoRA into `folder` at once, and return its path."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    target, scratch = folder / NAME, folder / f".{NAME}.{os.getpid()}"
    scratch.write_bytes(save(demo_style()))
    os.replace(scratch, target)
    return target


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    """Make demo-style.safetensors in FOLDER."""
    click.echo(save_demo_style(folder))


if __name__ == "__main__":
    main()
