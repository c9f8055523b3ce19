"""What the demo model is made of: the sizes of its parts, its words and its tokenizers. Plain data; no weights.

The parts are those of FLUX.1 Fill (two text encoders, a VAE, a guided transformer of double and single blocks), only
far smaller, so that the stock FluxFillPipeline runs it and no code elsewhere has to know which model it has.
"""

from __future__ import annotations

from typing import Any

SEED = 20240821
TEXT_LENGTH = 32
"""Tokens a prompt may have in either text encoder; the real model has 77 and 512."""
TEXT_WIDTH = 64
LATENT_CHANNELS = 16
VAE_SCALE = 16
HEADS, HEAD_WIDTH = 5, 32
WIDTH = HEADS * HEAD_WIDTH

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1, -1, -1), "orange": (1, 0.1, -1), "yellow": (1, 0.9, -1), "green": (-0.9, 0.5, -0.9),
    "blue": (-1, -0.6, 1), "purple": (0.2, -1, 0.8), "pink": (1, -0.1, 0.4), "brown": (0.1, -0.4, -0.8),
    "black": (-1, -1, -1), "white": (1, 1, 1), "grey": (0, 0, 0), "gray": (0, 0, 0),
    "golden": (0.9, 0.5, -0.8), "turquoise": (-0.8, 0.7, 0.7),
}  # fmt: skip
"""Words whose colour tints the fill: red, green and blue from -1 to 1."""

VAE: dict[str, Any] = {
    "encoder_block_out_channels": (64,) * 5,
    "decoder_block_out_channels": (64,) * 5,
    "num_encoder_blocks": (0, 0, 1, 1, 2),
    "num_decoder_blocks": (3, 2, 2, 1, 0),
    "latent_channels": LATENT_CHANNELS,
    "upsample_fn": "bilinear",
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
}

TRANSFORMER: dict[str, Any] = {
    "in_channels": 8 * LATENT_CHANNELS + 4 * VAE_SCALE * VAE_SCALE,  # noise, masked image, packed mask
    "out_channels": 4 * LATENT_CHANNELS,
    "num_layers": 2,
    "num_single_layers": 5,
    "attention_head_dim": HEAD_WIDTH,
    "num_attention_heads": HEADS,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}

SCHEDULER: dict[str, Any] = {  # the real model's numbers
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def _byte_symbols() -> list[str]:
    """Return the 256 printable symbols in which byte-level BPE writes bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [n for n in range(256) if n not in printable]
    symbols = {n: chr(n) for n in printable} | {n: chr(256 + i) for i, n in enumerate(rest)}
    return [symbols[n] for n in range(256)]


def clip_vocabulary() -> dict[str, int]:
    """Return every byte, alone and as the end of a word, and the two marks: any text has tokens."""
    symbols = _byte_symbols()
    names = [*symbols, *(f"{s}</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    return {name: index for index, name in enumerate(names)}


def t5_vocabulary() -> list[tuple[str, float]]:
    """Return the tokens and scores: colour words whole, all else letter by letter."""
    words = [(f"▁{form}", -1.0) for word in COLOURS for form in (word, word.capitalize())]
    letters = [(chr(n), -8.0) for n in [*range(33, 127), *range(161, 384)]]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words, ("▁", -4.0), *letters]


def tokenizers() -> tuple[Any, Any]:
    """Return the CLIP and the T5 tokenizer, made here from the vocabularies above."""
    from transformers import CLIPTokenizer, T5TokenizerFast

    clip = CLIPTokenizer(vocab=clip_vocabulary(), merges=[], model_max_length=TEXT_LENGTH)
    return clip, T5TokenizerFast(vocab=t5_vocabulary(), extra_ids=0, model_max_length=TEXT_LENGTH)


def text_configs(clip: Any, t5: Any) -> tuple[Any, Any]:
    """Return the configurations of both text encoders; they take the marks' ids from the tokenizers."""
    from transformers import CLIPTextConfig, T5Config

    clip_config = CLIPTextConfig(
        vocab_size=len(clip_vocabulary()), hidden_size=TEXT_WIDTH, intermediate_size=128, projection_dim=TEXT_WIDTH,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=TEXT_LENGTH,
        bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id,
    )  # fmt: skip
    t5_config = T5Config(
        vocab_size=len(t5_vocabulary()), d_model=TEXT_WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", pad_token_id=t5.pad_token_id, eos_token_id=t5.eos_token_id,
    )  # fmt: skip
    return clip_config, t5_config
