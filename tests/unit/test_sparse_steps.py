"""What the figures of decision 17 rest on: sparse steps skip what they say, and are no others where none is skipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from common.errors import Cancelled
from infra.demo_model.recipe import TEXT_LENGTH
from tests.benchmarks.sparse_steps import Plan, mask_tokens, sparse_steps
from tests.support.fills import same, small_work
from worker.model import FluxFillModel
from worker.work import Work

SIDE = 256
TOKENS = 64
"""The bundled model's have 32 pixels a side."""
AROUND = 16
"""Tokens of the mask below, two by two, and of the ring around them."""


def _ignore(_: str) -> None:
    pass


def _work() -> Work:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((64, 96, 127, 159), fill=255)
    work = small_work(mask=mask, width=SIDE, height=SIDE, prompt="a red circle", steps=6)
    return replace(work, image=work.image.resize((SIDE, SIDE)))


def _rows(work: Work) -> Tensor:
    return mask_tokens(torch.from_numpy(np.asarray(work.mask) / 255), 32, ring=1)


def test_a_mask_takes_every_token_that_it_reaches_and_the_ring_around_them() -> None:
    mask = torch.zeros(160, 224)
    mask[100, :] = 0.49  # not filled
    mask[64, 63] = 0.5  # in row 2 and column 1 of 5 x 7 tokens

    assert mask_tokens(mask, 32, ring=0).tolist() == [15]
    assert mask_tokens(mask, 32, ring=1).tolist() == [7, 8, 9, 14, 15, 16, 21, 22, 23]


def test_where_every_step_is_whole_each_bit_is_as_without(fill_model: FluxFillModel) -> None:
    work = _work()
    whole = fill_model.fill(work, _ignore)[0]

    with sparse_steps(fill_model._pipe.transformer, Plan(every=1), _rows(work)):
        assert same(fill_model.fill(work, _ignore)[0], whole)


@pytest.mark.parametrize(
    ("plan", "sparse"),
    [
        (Plan(4), (AROUND, TEXT_LENGTH)),
        (Plan(4, asks_text=False), (AROUND, 0)),
    ],
)
def test_between_whole_steps_no_more_is_computed_than_was_asked(
    plan: Plan, sparse: tuple[int, int], fill_model: FluxFillModel
) -> None:
    counts: list[tuple[int, int]] = []

    def count(_block: Any, _positional: Any, named: dict[str, Any]) -> None:
        counts.append((named["hidden_states"].shape[1], named["encoder_hidden_states"].shape[1]))

    transformer = fill_model._pipe.transformer
    hook = transformer.transformer_blocks[0].register_forward_pre_hook(count, with_kwargs=True)
    try:
        with sparse_steps(transformer, plan, _rows(_work())):
            fill_model.fill(_work(), _ignore)
    finally:
        hook.remove()

    whole = (TOKENS, TEXT_LENGTH)
    assert counts == [whole, sparse, sparse, sparse, whole, sparse]


def test_a_sparse_fill_is_another_one_but_close_inside_the_mask(fill_model: FluxFillModel) -> None:
    work = _work()
    whole = fill_model.fill(work, _ignore)[0]
    with sparse_steps(fill_model._pipe.transformer, Plan(3), _rows(work)):
        made = fill_model.fill(work, _ignore)[0]

    error = (np.asarray(made, dtype=float) - np.asarray(whole, dtype=float))[np.asarray(work.mask) > 0]
    assert 0 < np.mean(error**2) < (255 / 10 ** (30 / 20)) ** 2  # better than 30 dB


def test_nothing_of_it_is_left_after_a_fill_that_was_cancelled_between_whole_steps(fill_model: FluxFillModel) -> None:
    work = _work()
    whole = fill_model.fill(work, _ignore)[0]
    steps = iter(range(work.steps))

    def cancel(stage: str) -> None:
        if stage == "step" and next(steps) == 1:
            raise Cancelled

    with pytest.raises(Cancelled), sparse_steps(fill_model._pipe.transformer, Plan(4), _rows(work)):
        fill_model.fill(work, cancel)

    assert same(fill_model.fill(work, _ignore)[0], whole)
