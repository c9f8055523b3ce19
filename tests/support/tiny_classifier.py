"""A classifier of images as transformers has them, tiny and with weights set by hand: it says nsfw of what is red.

The folder has the layout of Falconsai/nsfw_image_detection: a ViTForImageClassification in safetensors with the labels
normal and nsfw, and the configuration of a ViTImageProcessor. Loading it and asking it are the real thing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from transformers import ViTConfig, ViTForImageClassification

LABELS: Final[Mapping[int, str]] = {0: "normal", 1: "nsfw"}
RED: Final = (250, 0, 60)
WHITE: Final = (255, 255, 255)
_SIDE: Final = 32
_PATCH: Final = 16
_PREPROCESSOR: Final = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": _SIDE, "width": _SIDE},
}


def build_classifier(folder: Path, labels: Mapping[int, str] = LABELS) -> Path:
    """Write the classifier into `folder` and return that. The last of `labels` is the one for red."""
    config = ViTConfig(
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        image_size=_SIDE,
        patch_size=_PATCH,
        id2label=dict(labels),
        label2id={label: number for number, label in labels.items()},
    )
    model = ViTForImageClassification(config)
    with torch.no_grad():
        _see_red(model.state_dict(), _PATCH)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR))
    return folder


def _see_red(weights: Mapping[str, torch.Tensor], patch: int) -> None:
    """Set the weights: a patch is (redness, -redness, 1, -1), the class token takes the mean of them, and tells it.

    Attention without queries is the mean; the constants keep the layer norms from blowing a faint red up.
    """
    for name, tensor in weights.items():
        tensor.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    constants = torch.tensor([0.0, 0.0, 1.0, -1.0])
    weights["vit.embeddings.cls_token"].copy_(constants)
    weights["vit.embeddings.patch_embeddings.projection.bias"].copy_(constants)
    kernel = weights["vit.embeddings.patch_embeddings.projection.weight"]
    for feature, sign in ((0, 1.0), (1, -1.0)):
        for channel, share in ((0, 1.0), (1, -0.5), (2, -0.5)):
            kernel[feature, channel] = sign * share / patch**2
    (layer,) = {name.rpartition(".attention.")[0] for name in weights if ".attention." in name and "q_proj" in name}
    for name in ("v_proj", "o_proj"):
        weights[f"{layer}.attention.{name}.weight"][:2, :2] = torch.eye(2)
    weights["classifier.weight"][:, 0] = -4.0
    weights["classifier.weight"][-1, 0] = 4.0
    weights["classifier.bias"][:] = 1.5
    weights["classifier.bias"][-1] = -1.5
