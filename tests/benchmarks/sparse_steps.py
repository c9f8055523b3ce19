"""Masked-token steps: between whole steps, the transformer computes the tokens of the mask and of the text alone.

All other tokens stand still as the last whole step left them: their keys and values are still attended to, and their
latents go on at the velocity that it gave them. This was measured and is no part of the worker (docs/decisions/0017);
it is kept so that it can be measured again. Nothing of it outlives the block that it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import _get_qkv_projections
from torch import Tensor
from torch.nn.functional import max_pool2d


@dataclass(frozen=True)
class Plan:
    """Which steps are whole, and what the others compute."""

    every: int = 1
    """The first step is whole, and every so many steps another."""
    noise_span: float | None = None
    """Instead: a step is whole when the noise level, from 1 to 0, has fallen by so much since the last whole one."""
    ring: int = 1
    """Tokens around the mask that every step computes, too: they see both sides of its edge."""
    asks_text: bool = True
    """Whether every step computes the text's tokens, too."""


@contextmanager
def sparse_steps(transformer: Any, plan: Plan, rows: Tensor) -> Iterator[None]:
    """Let `transformer`, that of a FluxFillPipeline, make one picture in this block by `plan`.

    The picture is a batch of one, and `rows` are its tokens that every step computes (see mask_tokens). The blocks must
    be neither compiled nor cached.
    """
    steps = _Steps(plan, rows)
    stock = dict(transformer.attn_processors)
    hooks = [
        transformer.register_forward_pre_hook(steps.before, with_kwargs=True),
        transformer.register_forward_hook(steps.after),
    ]
    try:
        transformer.set_attn_processor({name: _Attention(one, steps) for name, one in stock.items()})
        yield
    finally:
        for hook in hooks:
            hook.remove()
        transformer.set_attn_processor(stock)


def mask_tokens(mask: Tensor, side: int, ring: int) -> Tensor:
    """Return the numbers of the image tokens that the mask reaches, and of `ring` tokens around those.

    `mask` is height x width, filled from 0.5 on; both are multiples of `side`, a token's in pixels.
    """
    reached = max_pool2d((mask >= 0.5).float()[None, None], side)
    around: Tensor = max_pool2d(reached, 2 * ring + 1, stride=1, padding=ring)
    return around.flatten().nonzero()[:, 0]


class _Steps:
    """Which step this is, and what the last whole one left."""

    def __init__(self, plan: Plan, image_rows: Tensor) -> None:
        self._plan = plan
        self._image_rows = image_rows
        self._step = 0
        self._level = 0.0
        self._velocity: Tensor | None = None
        self.rows: Tensor | None = None
        """The tokens of this step among those of text and image together; None where it is whole."""

    def before(self, _transformer: Any, positional: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Hand the transformer no more than the tokens of this step."""
        if self._is_whole(named["timestep"]):
            self.rows = None
            return positional, named
        states, texts, text_places = (named[name] for name in ("hidden_states", "encoder_hidden_states", "txt_ids"))
        text = len(text_places)
        rows = self._image_rows = self._image_rows.to(states.device)
        asked = {"hidden_states": states[:, rows], "img_ids": named["img_ids"][rows]}
        self.rows = rows + text
        if self._plan.asks_text:
            self.rows = torch.cat([torch.arange(text, device=rows.device), self.rows])
        else:
            asked |= {"encoder_hidden_states": texts[:, :0], "txt_ids": text_places[:0]}
        return positional, named | asked

    def after(self, _transformer: Any, _positional: Any, said: tuple[Tensor]) -> tuple[Tensor]:
        """Return the velocity of all tokens, whichever were computed."""
        if self.rows is None:
            self._velocity = said[0]
            return said
        velocity = cast(Tensor, self._velocity).clone()
        velocity[:, self._image_rows] = said[0]
        return (velocity,)

    def _is_whole(self, timestep: Tensor) -> bool:
        span, step = self._plan.noise_span, self._step
        self._step += 1
        if span is None:
            return step % self._plan.every == 0
        level = float(timestep[0])
        if step == 0 or self._level - level >= span:
            self._level = level
            return True
        return False


class _Attention:
    """FluxAttnProcessor over the tokens of a step, which see those of the last whole step, too."""

    def __init__(self, stock: Any, steps: _Steps) -> None:
        self._attention_backend = stock._attention_backend
        self._parallel_config = stock._parallel_config
        self._steps = steps
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return what stock's does, for the same arguments; bit for bit where the step is whole."""
        projected = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        heads: list[Any] = [None if one is None else one.unflatten(-1, (-1, attn.head_dim)) for one in projected]
        query, key, value, *of_text = heads
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            text_query, text_key, text_value = of_text
            query = torch.cat([attn.norm_added_q(text_query), query], dim=1)
            key = torch.cat([attn.norm_added_k(text_key), key], dim=1)
            value = torch.cat([text_value, value], dim=1)
        query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
        key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)
        key, value = self._beside_kept(key, value)
        made = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        made = made.flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return cast(Tensor, made)
        text = encoder_hidden_states.shape[1]
        text_made, made = made.split_with_sizes([text, made.shape[1] - text], dim=1)
        made = attn.to_out[1](attn.to_out[0](made.contiguous()))
        return made, attn.to_add_out(text_made.contiguous())

    def _beside_kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of all tokens, those of this step being new."""
        rows = self._steps.rows
        if rows is None or self._keys is None or self._values is None:
            self._keys, self._values = key, value
        else:
            self._keys.index_copy_(1, rows, key)
            self._values.index_copy_(1, rows, value)
        return self._keys, self._values
