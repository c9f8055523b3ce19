"""The demo model's weights, set by hand: nothing here was trained.

All starts as small noise. Over it the VAE is set to carry the mean colour of each 16 x 16 patch, and the transformer
to predict, for each place, the colour of the nearest known places plus the colour that the prompt names: colours flow
into the mask instead of noise. The arithmetic is plain on purpose, so that the same bytes come out each time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from infra.demo_model.recipe import COLOURS, HEAD_WIDTH, LATENT_CHANNELS, SEED, VAE_SCALE, WIDTH, t5_vocabulary

NOISE = 0.02
COLOUR_GAIN = 2.0
"""Latents are (mean colour - 0.5) times this: colours from -1 to 1, as wide as the noise they are mixed with."""
REFERENCE = 32.0
"""Two channels hold plus and minus this, so that every LayerNorm divides by nearly the same number."""
SPREAD = REFERENCE * math.sqrt(2 / WIDTH)
"""What a LayerNorm divides by."""
LEFTOVER = 0.06
"""How much of the starting noise is kept, as a soft texture by which seeds differ."""
TINT = 0.85

# Channels of the transformer's stream. Twelve each: three colours of the four latents that one token packs. GROUND
# stays zero: what is read is the difference to it, since a LayerNorm also takes the mean away.
PLUS, MINUS, KNOWN, FLAG, TEXT_COLOUR, GROUND = 0, 1, 2, 3, 4, 7
NOISY, MASKED, FILL, SMOOTH = 8, 20, 32, 44
PACKED = 12
OWN_HEAD, NEAR_HEAD, SMOOTH_HEAD, WORD_HEAD = 0, 1, 2, 3
QK_GAIN = 4.0
"""Weight of the query and key norms: a token outscores its neighbour by e^7 where it should look at itself."""


@torch.no_grad()
def scatter_noise(module: nn.Module, seed: int) -> None:
    """Fill all weights with small noise and all biases with zero, norms with one; the same for the same seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name and parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, NOISE, generator=generator)


@torch.no_grad()
def set_vae(vae: Any) -> None:
    """Make the encoder take the mean colour of each patch and the decoder blend such colours smoothly."""
    scatter_noise(vae, SEED)
    for block in (m for m in vae.modules() if type(m).__name__ == "AutoencoderTinyBlock"):
        block.conv[-1].weight.zero_()  # the residual branch adds nothing
    for layers in (vae.encoder.layers, vae.decoder.layers):
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        for convolution in convolutions:
            convolution.weight.zero_()
            taps = (slice(1, 3), slice(1, 3)) if convolution.stride == (2, 2) else (slice(1, 2), slice(1, 2))
            for colour in range(3):
                window = convolution.weight[colour, colour][taps]
                window.fill_(1.0 / window.numel())
    to_latent, from_latent = vae.encoder.layers[-1], vae.decoder.layers[0]
    to_latent.weight.mul_(COLOUR_GAIN)
    to_latent.bias[:3] = -0.5 * COLOUR_GAIN
    from_latent.weight.mul_(1.0 / COLOUR_GAIN)
    from_latent.bias[:3] = 0.5


@torch.no_grad()
def set_text_encoders(clip: Any, t5: Any) -> None:
    """Give each colour word its colour as embedding; every other token has a small random one."""
    scatter_noise(clip, SEED + 1)
    scatter_noise(t5, SEED + 2)
    embedding = t5.shared.weight
    embedding[:, : TEXT_COLOUR + 3] = 0.0
    embedding[:, PLUS] = 8.0  # dominates the norm, so that the colours come through it unchanged
    for index, (piece, _) in enumerate(t5_vocabulary()):
        colour = COLOURS.get(piece.removeprefix("▁").lower()) if piece.startswith("▁") else None
        if colour is not None:
            embedding[index, FLAG] = 1.0
            embedding[index, TEXT_COLOUR : TEXT_COLOUR + 3] = torch.tensor(colour)


@torch.no_grad()
def set_transformer(transformer: Any) -> None:
    """Make the first block gather colours and the output the step towards them; the other blocks stay noise."""
    scatter_noise(transformer, SEED + 3)
    _set_embedders(transformer)
    first = transformer.transformer_blocks[0]
    for norm in (first.norm1, first.norm1_context):
        norm.linear.weight.mul_(0.05)
    first.norm1.linear.bias[2 * WIDTH : 3 * WIDTH] = 1.0  # the gate of the attention
    attention = first.attn
    for norm in (attention.norm_q, attention.norm_k, attention.norm_added_q, attention.norm_added_k):
        norm.weight.fill_(QK_GAIN)
    for head in (OWN_HEAD, NEAR_HEAD, SMOOTH_HEAD, WORD_HEAD):
        rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        for linear in (attention.to_q, attention.to_k, attention.to_v, attention.add_k_proj, attention.add_v_proj):
            linear.weight[rows] = 0.0
        attention.to_out[0].weight[:, rows] = 0.0
    _set_own_head(attention)
    _set_near_head(attention)
    _set_smooth_head(attention)
    _set_word_head(attention)
    _set_output(transformer)


def _set_embedders(transformer: Any) -> None:
    embed, colours = transformer.x_embedder, torch.arange(PACKED)
    embed.weight[: SMOOTH + PACKED] = 0.0
    embed.bias[PLUS], embed.bias[MINUS] = REFERENCE, -REFERENCE
    embed.weight[NOISY + colours, colours] = 1.0
    embed.weight[MASKED + colours, 4 * LATENT_CHANNELS + colours] = 1.0
    embed.weight[KNOWN, 8 * LATENT_CHANNELS :] = -1.0 / (4 * VAE_SCALE * VAE_SCALE)
    embed.bias[KNOWN] = 1.0
    words = transformer.context_embedder
    words.weight[: SMOOTH + PACKED] = 0.0
    words.bias[PLUS], words.bias[MINUS] = REFERENCE, -REFERENCE
    for channel in (FLAG, *range(TEXT_COLOUR, TEXT_COLOUR + 3)):
        # 8 of the embedding's channels' root mean square is 1 after the encoder's norm
        words.weight[channel, channel] = 8.0 / math.sqrt(words.in_features)


def _direction(*weights: float) -> Tensor:
    """Return a head's vector that weighs the fastest rotations of row and column: how fast it forgets distance."""
    vector: Tensor = torch.zeros(HEAD_WIDTH)
    for start in (8, 20):  # where the rotations of row and column begin; the first 8 belong to the unused axis
        for pair, weight in enumerate(weights):
            vector[start + 2 * pair] = weight
    return torch.nn.functional.normalize(vector, dim=0) * math.sqrt(HEAD_WIDTH)


def _read(linear: Any, rows: int | slice, channel: int, weight: float | Tensor) -> None:
    """Add `weight` times the channel to what `linear` puts out in `rows`."""
    linear.weight[rows, channel] += weight
    linear.weight[rows, GROUND] -= weight


def _set_own_head(attention: Any) -> None:
    """A known token brings its own colours to FILL; an unknown one looks at the words and brings nothing."""
    start, near = OWN_HEAD * HEAD_WIDTH, _direction(1, 1, 1)
    rows, words = slice(start, start + HEAD_WIDTH), _words_direction()
    _read(attention.to_q, rows, KNOWN, (near - words) * SPREAD)
    attention.to_q.bias[rows] = words
    _set_known_keys(attention, start)
    for n in range(PACKED):
        _read(attention.to_v, start + n, MASKED + n, SPREAD)
        attention.to_out[0].weight[FILL + n, start + n] = 1.0


def _set_near_head(attention: Any) -> None:
    """An unknown token brings the mean colour of the nearest known ones to FILL; a known one brings nothing."""
    start, far = NEAR_HEAD * HEAD_WIDTH, _direction(0, 1, 3)
    rows, words = slice(start, start + HEAD_WIDTH), _words_direction()
    _read(attention.to_q, rows, KNOWN, (words - far) * SPREAD)
    attention.to_q.bias[rows] = far
    _set_known_keys(attention, start)
    for n in range(PACKED):
        _read(attention.to_v, start + n // 4, MASKED + n, SPREAD / 4)
        attention.to_out[0].weight[FILL + n, start + n // 4] = 1.0


def _words_direction() -> Tensor:
    vector = torch.zeros(HEAD_WIDTH)
    vector[0] = math.sqrt(HEAD_WIDTH)  # on the unused axis, where no rotation makes a difference
    return vector


def _set_known_keys(attention: Any, start: int) -> None:
    """Known tokens answer, unknown ones never do; words answer who looks for them, and whoever knows nothing else."""
    rows, key = slice(start, start + HEAD_WIDTH), _direction(1, 1, 1)
    _read(attention.to_k, rows, KNOWN, key * SPREAD)
    attention.to_k.bias[rows] = -0.97 * key  # a token with a few masked pixels already counts as unknown
    attention.add_k_proj.bias[start] = 1.0


def _set_smooth_head(attention: Any) -> None:
    """Every token brings the mean of the noise around it to SMOOTH, so that seeds differ in large soft patches."""
    start = SMOOTH_HEAD * HEAD_WIDTH
    rows = slice(start, start + HEAD_WIDTH)
    attention.to_q.bias[rows] = _direction(0, 1, 3)
    attention.to_k.bias[rows] = _direction(1, 1, 1)
    attention.add_k_proj.bias[start] = 1.0
    for n in range(PACKED):
        _read(attention.to_v, start + n // 4, NOISY + n, SPREAD / 4)
        attention.to_out[0].weight[SMOOTH + n, start + n // 4] = 1.0


def _set_word_head(attention: Any) -> None:
    """An unknown token looks at the colour words of the prompt and adds their colour to FILL."""
    start = WORD_HEAD * HEAD_WIDTH
    _read(attention.to_q, start, KNOWN, -SPREAD)
    attention.to_q.bias[start] = 0.5
    attention.to_k.bias[start] = -1.0
    _read(attention.add_k_proj, start, FLAG, SPREAD)
    attention.add_k_proj.bias[start] = -0.5
    for colour in range(3):
        _read(attention.add_v_proj, start + colour, TEXT_COLOUR + colour, SPREAD * TINT)
        for n in range(4):
            attention.to_out[0].weight[FILL + 4 * colour + n, start + colour] = 1.0


def _set_output(transformer: Any) -> None:
    """Set v = (noisy - target) / s, where s is the noise level that the timestep tells."""
    out, smooth = transformer.proj_out, 0.35
    for name, module in transformer.named_modules():
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear")):
            module.weight[:, 0] = 0.0  # channel 0 of the time embedding is the reciprocal below: for the output alone
    out.weight[:] = 0.0
    for n in range(PACKED):
        out.weight[n, NOISY + n] = SPREAD
        out.weight[n, FILL + n] = -SPREAD * (1 - smooth)
        out.weight[n, SMOOTH + n] = -SPREAD * smooth
    modulation = transformer.norm_out.linear
    modulation.weight[:] = 0.0
    modulation.weight[:WIDTH, 0] = 1.0  # the scale rows: 1 + scale = 1 / s comes in by channel 0 of the time embedding
    modulation.bias[:WIDTH] = -1.0
    embedding = transformer.time_text_embed
    for part in (embedding.guidance_embedder, embedding.text_embedder):
        part.linear_2.weight[0] = 0.0
    _set_reciprocal(embedding.timestep_embedder)


def _set_reciprocal(embedder: Any) -> None:
    """Make channel 0 the number whose SiLU is about 1 / (s + LEFTOVER), as straight lines between knots."""
    count = 64
    knots = [0.004 * (1.05 / 0.004) ** (n / (count - 1)) for n in range(count)]
    values = [_inverse_silu((1 + LEFTOVER) / (s + LEFTOVER)) for s in knots]
    slopes = [(a - b) / (t - s) for s, t, a, b in zip(knots, knots[1:], values, values[1:], strict=False)]
    frequency = 10000.0 ** (-127 / 128)  # the slowest sine, nearly straight: its value over this is 1000 s
    embedder.linear_1.weight[:count] = 0.0
    embedder.linear_2.weight[0] = 0.0
    embedder.linear_2.weight[:, :count] = 0.0
    embedder.linear_2.bias[0] = values[-1]
    for n in range(1, count):
        sharpness = 12.0 / (knots[n] - knots[n - 1])
        following = slopes[n] if n < count - 1 else 0.0
        embedder.linear_1.weight[n, 255] = -sharpness / (1000 * frequency)
        embedder.linear_1.bias[n] = sharpness * knots[n]
        embedder.linear_2.weight[0, n] = (slopes[n - 1] - following) / sharpness


def _inverse_silu(y: float) -> float:
    x = max(y, 1.0)
    for _ in range(60):  # Newton; SiLU is steep and smooth for these values
        sigmoid = 1 / (1 + math.exp(-x))
        x -= (x * sigmoid - y) / (sigmoid * (1 + x * (1 - sigmoid)))
    return x
