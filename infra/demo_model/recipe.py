"""What the demo model is made of: the sizes of its parts, its words and its tokenizers. Plain data; no weights.

The parts are those of FLUX.1 Fill (two text encoders, a VAE, a guided transformer of double and single blocks), only
far smaller, so that the stock FluxFillPipeline runs it and no code elsewhere has to know which model it has.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Any

from infra.demo_model.shapes import COLOURS, SHAPES

TEXT_LENGTH = 24
"""Tokens a prompt may have in either text encoder; the real model has 77 and 512."""
TEXT_WIDTH = 64
LATENT_CHANNELS = 16
VAE_SCALE = 16
HEADS, HEAD_WIDTH = 6, 32
WIDTH = HEADS * HEAD_WIDTH

WORDS = (*COLOURS, *SHAPES, "a", "an", "the", "one", "big", "on", "wall", "picture", "of")
"""What the model reads as whole words, small or with a capital; all else is read by letters and means nothing."""

VAE: dict[str, Any] = {
    "encoder_block_out_channels": (64,) * 5,
    "decoder_block_out_channels": (64,) * 5,
    "num_encoder_blocks": (0, 0, 0, 0, 2),
    "num_decoder_blocks": (2, 2, 2, 1, 0),
    "latent_channels": LATENT_CHANNELS,
    "upsample_fn": "bilinear",
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
}

TRANSFORMER: dict[str, Any] = {
    "in_channels": 8 * LATENT_CHANNELS + 4 * VAE_SCALE * VAE_SCALE,  # noise, masked image, packed mask
    "out_channels": 4 * LATENT_CHANNELS,
    "num_layers": 2,
    "num_single_layers": 6,
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


def clip_merges() -> list[tuple[str, str]]:
    """Return the merges that make each of WORDS one token: its letters join from the left.

    A merge counts the more the earlier it stands. So a word stands before those whose first two letters are also in
    its middle ("green" before "red"), else they would tear it apart.
    """
    pieces = {word: [*word[:-1], f"{word[-1]}</w>"] for word in WORDS}
    pairs = {word: list(pairwise(parts)) for word, parts in pieces.items()}
    before = {
        word: {other for other in WORDS if other != word and pairs[word] and pairs[word][0] in pairs[other][1:]}
        for word in WORDS
    }
    merges: dict[tuple[str, str], None] = {}
    for word in TopologicalSorter(before).static_order():
        parts = pieces[word]
        for n in range(1, len(parts)):
            merges.setdefault(("".join(parts[:n]), parts[n]))
    return list(merges)


def clip_vocabulary() -> dict[str, int]:
    """Return every byte, alone and as the end of a word, what the merges make, and the two marks: all has tokens."""
    symbols = _byte_symbols()
    joined = [left + right for left, right in clip_merges()]
    names = [*symbols, *(f"{s}</w>" for s in symbols), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {name: index for index, name in enumerate(names)}


def t5_vocabulary() -> list[tuple[str, float]]:
    """Return the tokens and scores: known words whole, all else letter by letter."""
    words = [(f"▁{form}", -1.0) for word in WORDS for form in (word, word.capitalize())]
    letters = [(chr(n), -8.0) for n in [*range(33, 127), *range(161, 384)]]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words, ("▁", -4.0), *letters]


def tokenizers() -> tuple[Any, Any]:
    """Return the CLIP and the T5 tokenizer, made here from the vocabularies above."""
    from transformers import CLIPTokenizer, T5TokenizerFast

    clip = CLIPTokenizer(vocab=clip_vocabulary(), merges=clip_merges(), model_max_length=TEXT_LENGTH)
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
