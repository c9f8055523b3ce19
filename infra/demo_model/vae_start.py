"""Where the VAE's training starts: an encoder that takes the principal components of each 16 x 16 patch, exactly.

From random weights the same network finds little more than mean colours in the time it is given here.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

_LATENT_SPREAD: Final = 0.5
"""Latents are scaled by their component's standard deviation to the power of -this: 1 would make noise of detail."""


@torch.no_grad()
def start_from_components(vae: Any, pictures: Tensor) -> None:
    """Set the weights of `vae` from `pictures` (N x 3 x H x W, from -1 to 1): what differs most is kept."""
    layers = vae.encoder.layers
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    blocks = [module for module in vae.modules() if type(module).__name__ == "AutoencoderTinyBlock"]
    for block in blocks:
        block.conv[-1].weight.zero_()  # each adds nothing at first
        block.conv[-1].bias.zero_()
    first, second, third, fourth, fifth, last = convolutions
    _set_centre(first, torch.eye(3))
    _set_window(second, torch.eye(12))
    _set_window(third, torch.eye(48))
    features = third(second(first((pictures + 1) / 2)))
    basis, _, _ = _components(_windows(features[:, :48]), 64)
    _set_window(fourth, basis)
    basis, middle, spread = _components(_windows(fourth(features)), 32)
    _set_window(fifth, torch.cat([basis, -basis]))  # the blocks that follow keep what is positive
    latents = last.out_channels
    scale = spread[:latents] ** -_LATENT_SPREAD
    scale = scale / ((spread[:latents] * scale) ** 2).mean().sqrt()
    mix = torch.zeros(latents, 64)
    for n in range(latents):
        mix[n, n], mix[n, n + 32] = scale[n], -scale[n]
    _set_centre(last, mix)
    last.bias = nn.Parameter(-middle[:latents] * scale)


def _set_centre(convolution: nn.Conv2d, matrix: Tensor) -> None:
    convolution.weight.mul_(0.02)
    convolution.weight[: matrix.shape[0], : matrix.shape[1]] = 0
    convolution.weight[: matrix.shape[0], : matrix.shape[1], 1, 1] = matrix
    if convolution.bias is not None:
        convolution.bias.zero_()


def _set_window(convolution: nn.Conv2d, matrix: Tensor) -> None:
    """Make a convolution of stride 2 multiply each window of 2 x 2 pixels, seen as one vector, by `matrix`."""
    channels = matrix.shape[1] // 4
    convolution.weight.mul_(0.02)
    convolution.weight[: matrix.shape[0]] = 0
    convolution.weight[: matrix.shape[0], :channels, 1:3, 1:3] = matrix.reshape(-1, channels, 2, 2)


def _windows(features: Tensor) -> Tensor:
    """Return all windows of 2 x 2 pixels as rows: channel, then row, then column."""
    return torch.nn.functional.unfold(features, 2, stride=2).transpose(1, 2).flatten(0, 1)


def _components(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first `count` principal components (count x width), the mean along each, and each's deviation."""
    mean = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(rows.double().T))
    basis = vectors.flip(1)[:, :count].T.float()
    return basis, basis @ mean, values.flip(0)[:count].clamp_min(1e-9).sqrt().float()
