"""The shapes of the model's linear layers: what an adapter is compared with before it may touch the model.

They come from a loaded pipeline or, without any weights, from a model's configuration files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

Shape = tuple[int, int]
"""Outputs, inputs: the shape of the layer's weight."""
CONFIGURATIONS = ("transformer/config.json", "text_encoder/config.json")


@dataclass(frozen=True)
class BaseShapes:
    """The linear layers of the two parts that adapters may change, by their names within the part."""

    transformer: Mapping[str, Shape]
    text_encoder: Mapping[str, Shape]
    noise_width: int
    """Width of a token of noise. An adapter made for FLUX.1 [dev] sees only these inputs of x_embedder, and fits."""

    @staticmethod
    def of_pipeline(pipe: Any) -> BaseShapes:
        """Return the shapes of a loaded pipeline, which must have no adapters yet: they rename the layers."""
        return _shapes(pipe.transformer, pipe.text_encoder)

    @staticmethod
    def of_folder(folder: Path) -> BaseShapes:
        """Return the shapes that the configuration files in `folder` describe; reads and allocates no weights.

        Raises OSError, ValueError or KeyError where the files are missing or describe another architecture.
        """
        transformer, text_encoder = (json.loads((folder / name).read_text()) for name in CONFIGURATIONS)
        with torch.device("meta"):
            return _shapes(
                FluxTransformer2DModel.from_config(transformer), CLIPTextModel(CLIPTextConfig.from_dict(text_encoder))
            )


def _shapes(transformer: Any, text_encoder: Any) -> BaseShapes:
    return BaseShapes(_linear(transformer), _linear(text_encoder), int(transformer.out_channels))


def _linear(module: nn.Module) -> dict[str, Shape]:
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }
