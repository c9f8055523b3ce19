"""LoRAs are read while the device works: once, byte for byte what was verified, and never where they are in place."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

import worker.loras.prepared
from common.errors import Transient
from infra.demo_model.recipe import WIDTH
from tests.support.fills import (
    TO_OUT,
    TO_Q,
    FillSettings,
    adapter,
    peft_pair,
    quiet_peft,
    same,
    small_work,
    write_lora,
)
from worker.loras.base_shapes import BaseShapes
from worker.loras.file import verify_lora
from worker.loras.prepared import PreparedLoras
from worker.model import FluxFillModel, load_model
from worker.work import Adapter

pytestmark = quiet_peft

LORA_BYTES = 2 * 2 * 4 * WIDTH * 4
"""Of one of `loras` below: two pairs of rank 4 in float32."""


def _ignore(_: str) -> None:
    pass


def _fill(model: FluxFillModel, *adapters: Adapter) -> Any:
    return model.fill(small_work(adapters=adapters), _ignore)[0]


@pytest.fixture
def loras(tmp_path: Path) -> list[Adapter]:
    """Three LoRAs of the same size."""
    return [
        adapter(write_lora(tmp_path / f"{n}.safetensors", peft_pair(TO_OUT, seed=n) | peft_pair(TO_Q, seed=n + 50)))
        for n in range(3)
    ]


@pytest.fixture(scope="module")
def shared() -> FluxFillModel:
    """A model beside which no LoRA is kept in the host's memory but by the jobs that want it."""
    return load_model(FillSettings(lora_prepared_bytes=0))


@pytest.fixture
def model(shared: FluxFillModel) -> Iterator[FluxFillModel]:
    """That model, without adapters before and after."""
    yield shared
    shared._adapters.keep_only(())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, as they are read."""
    paths: list[Path] = []

    def spy(path: Path, *arguments: Any, **more: Any) -> Any:
        paths.append(path)
        return verify_lora(path, *arguments, **more)

    monkeypatch.setattr(worker.loras.prepared, "verify_lora", spy)
    return paths


def test_what_was_verified_is_what_the_device_loads_whatever_becomes_of_the_file(
    model: FluxFillModel, loras: list[Adapter]
) -> None:
    alone = _fill(model, loras[0])
    model._adapters.keep_only(())
    prepared = model.prepare(small_work(adapters=(loras[0],)))

    write_lora(loras[0].path, peft_pair(TO_OUT, seed=99))
    assert same(model.develop(model.run(prepared, _ignore))[0], alone)
    model._adapters.keep_only(())
    loras[0].path.unlink()
    assert same(model.develop(model.run(prepared, _ignore))[0], alone)


def test_what_is_in_place_is_not_read_again(model: FluxFillModel, loras: list[Adapter], reads: list[Path]) -> None:
    first = _fill(model, loras[0])
    assert reads == [loras[0].path]
    loras[0].path.unlink()

    assert same(_fill(model, loras[0]), first)
    assert reads == [loras[0].path]


def test_the_device_reads_nothing_that_was_prepared(
    model: FluxFillModel, loras: list[Adapter], reads: list[Path]
) -> None:
    prepared = model.prepare(small_work(adapters=tuple(loras)))
    assert reads == [one.path for one in loras]

    model.run(prepared, _ignore)

    assert reads == [one.path for one in loras]


def test_a_lora_that_had_to_go_before_its_turn_is_read_again(model: FluxFillModel, loras: list[Adapter]) -> None:
    never, alone = _fill(model), _fill(model, loras[0])
    prepared = model.prepare(small_work(adapters=(loras[0],)))  # it is in place, and so not read
    model._adapters.keep_only(())

    assert same(model.develop(model.run(prepared, _ignore))[0], alone)

    model._adapters.keep_only(())
    loras[0].path.unlink()
    with pytest.raises(Transient) as caught:
        model.run(prepared, _ignore)
    assert caught.value.code == "lora_gone"
    assert same(_fill(model), never)


def test_what_a_job_in_line_waits_for_goes_last(loras: list[Adapter]) -> None:
    model = load_model(FillSettings(lora_resident_bytes=2 * LORA_BYTES))
    _fill(model, loras[0])
    _fill(model, loras[1])
    in_line = model.prepare(small_work(adapters=(loras[0],)))  # the one that was not used for longest

    _fill(model, loras[2])
    assert model.resident == {loras[0].sha256, loras[2].sha256}

    del in_line  # withdrawn
    _fill(model, loras[1])
    assert model.resident == {loras[1].sha256, loras[2].sha256}


def test_jobs_that_want_the_same_file_at_once_read_it_once(
    model: FluxFillModel, loras: list[Adapter], reads: list[Path]
) -> None:
    together = Barrier(4)

    def prepare(_: int) -> Any:
        together.wait()
        return model.prepare(small_work(adapters=(loras[0],)))

    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(prepare, range(4)))

    assert reads == [loras[0].path]
    assert len({id(one.adapters.read[loras[0].sha256]) for one in prepared}) == 1, "and has it in memory once"


def test_a_file_that_was_checked_is_not_read_again_to_be_loaded(loras: list[Adapter], reads: list[Path]) -> None:
    model = load_model(FillSettings())
    model.check_adapter(loras[0].path, "loras[0].path")

    _fill(model, loras[0])

    assert reads == [loras[0].path]


def test_what_nobody_waits_for_stays_within_its_bound(
    fill_model: FluxFillModel, loras: list[Adapter], reads: list[Path]
) -> None:
    base: BaseShapes = fill_model._base
    kept = PreparedLoras(base, FillSettings(lora_prepared_bytes=2 * LORA_BYTES))
    for number in (0, 1, 0, 2):
        kept.get(loras[number])
    assert reads == [loras[number].path for number in (0, 1, 2)]

    kept.get(loras[0])
    kept.get(loras[2])
    assert len(reads) == 3
    kept.get(loras[1])  # it had to go: it was not asked for longest
    assert len(reads) == 4
