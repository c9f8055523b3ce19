"""Step caching: work is skipped, and each job stays true to itself alone, whatever went before or wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.errors import Cancelled
from tests.support.accelerated import STEPS, fail_at, fill, ignore, load, load_cached, long_work, psnr, whole_steps
from tests.support.fills import SIDE, adapter, fill_stock, peft_pair, quiet_peft, same, write_lora
from worker.model import FluxFillModel

pytestmark = quiet_peft


def test_steps_are_skipped_and_the_picture_stays_near_exact(cached: FluxFillModel, fill_model: FluxFillModel) -> None:
    assert whole_steps(fill_model) == STEPS
    assert 4 <= whole_steps(cached) < STEPS

    one, exact = fill(cached), fill(fill_model)

    assert not same(one, exact)
    assert psnr(one, exact) > 25


def test_the_first_steps_are_always_whole() -> None:
    eager = load(fill_profile="fast", fill_step_cache_threshold=1.0, fill_step_cache_warmup_steps=7)

    assert whole_steps(eager) == 7
    assert whole_steps(eager, steps=5) == 5


def test_a_threshold_that_nothing_meets_gives_exactly_stocks_image(stock: Any) -> None:
    never = load(fill_profile="fast", fill_step_cache_threshold=1e-9)

    assert same(fill(never), fill_stock(stock, long_work(), 7))


def test_a_cached_job_is_the_same_whatever_ran_before(cached: FluxFillModel) -> None:
    alone = fill(cached)
    others: list[dict[str, Any]] = [
        {"prompt": "blue", "seeds": (3,)},
        {"steps": 3},
        {"steps": 20},
        {"image": Image.new("RGB", (SIDE, SIDE), "teal")},
    ]
    for other in others:
        fill(cached, **other)
        assert same(fill(cached), alone)


def test_a_cached_job_is_the_same_in_another_size_before_and_after(cached: FluxFillModel) -> None:
    alone = fill(cached)
    wide = {"image": Image.new("RGB", (192, 96), "teal"), "mask": Image.new("L", (192, 96), 255), "width": 192}

    fill(cached, **wide, height=96)

    assert same(fill(cached), alone)


@pytest.mark.parametrize(
    ("tick", "error"), [(1, Cancelled()), (5, Cancelled()), (9, RuntimeError("a bug")), (STEPS + 1, Cancelled())]
)
def test_after_an_error_or_a_cancel_a_cached_job_is_what_it_is_alone(
    tick: int, error: Exception, cached: FluxFillModel
) -> None:
    alone = fill(cached)

    with pytest.raises(type(error)):
        cached.fill(long_work(prompt="blue", seeds=(9,)), fail_at(tick, error))

    assert same(fill(cached), alone)


def test_a_second_try_for_lack_of_memory_begins_with_nothing_cached(cached: FluxFillModel) -> None:
    alone = fill(cached)

    assert same(cached.fill(long_work(), fail_at(9, MemoryError()))[0], alone)


def test_each_image_of_a_cached_job_equals_the_solo_run_with_its_seed(cached: FluxFillModel) -> None:
    together = cached.fill(long_work(seeds=(41, 42)), ignore)

    assert all(same(one, fill(cached, seeds=(seed,))) for one, seed in zip(together, (41, 42), strict=True))


def test_a_lora_shows_under_caching_and_leaves_nothing_behind(cached: FluxFillModel, tmp_path: Path) -> None:
    before = fill(cached)
    lora = adapter(write_lora(tmp_path / "one.safetensors", peft_pair()))

    with_lora = fill(cached, adapters=(lora,))

    assert same(fill(cached, adapters=(lora,)), with_lora)
    assert psnr(with_lora, before) < 50
    assert same(fill(cached), before)


def test_each_model_of_a_process_has_its_own_caching_and_stock_has_none(
    cached: FluxFillModel, stock: Any, fill_model: FluxFillModel
) -> None:
    before = whole_steps(cached)
    strict = load(fill_profile="fast", fill_step_cache_threshold=1e-9)

    assert whole_steps(strict) == STEPS
    assert whole_steps(cached) == before
    assert same(fill(fill_model), fill_stock(stock, long_work(), 7))
    assert whole_steps(fill_model) == STEPS


def test_caching_writes_nothing_among_the_workers_own_lines(capfd: pytest.CaptureFixture[str]) -> None:
    model = load_cached()
    capfd.readouterr()  # our own lines, of loading
    fill(model)

    assert capfd.readouterr().out == ""
    assert logging.getLogger("cache_dit.caching.cache_interface").level >= logging.ERROR
