"""Which profile fits which GPU, for FLUX.1 Fill as it is published and for any other model."""

from __future__ import annotations

import pytest

from common.fill_profile import FillProfile, Offload, Quantization
from worker.vram_fit import GIB, PLANS, ModelSize, Plan, advice, best_plans

FLUX_FILL = ModelSize(transformer=23_804_782_720, text_encoders=(246_120_960, 9_524_621_312), vae=167_640_000)
"""In bf16: 11.9 billion weights, CLIP, T5 with 4.8 billion, and the VAE."""
MIB = 1024**2
EXACT, FAST = FillProfile.EXACT, FillProfile.FAST
GPUS = {"H200": 143771, "H100": 81559, "A100 40 GB": 40960, "5090": 32607, "4090": 24564, "L4": 23034, "T4": 15360}
"""MiB, as nvidia-smi says."""


def best(gpu: str) -> dict[FillProfile, Plan | None]:
    return best_plans(FLUX_FILL, GPUS[gpu] * MIB)


def test_the_estimate_is_the_published_one_where_there_is_one() -> None:
    """31.4 GB of weights, a peak of 33.9: both are GiB."""
    assert FLUX_FILL.bytes / GIB == pytest.approx(31.4, abs=0.05)
    assert Plan().needs_bytes(FLUX_FILL) / GIB == pytest.approx(33.9 + 0.5, abs=0.05), "with CUDA's own half"


@pytest.mark.parametrize("gpu", ["H200", "H100", "A100 40 GB"])
def test_from_40_gib_on_everything_fits_as_it_is(gpu: str) -> None:
    assert best(gpu) == {EXACT: Plan(), FAST: Plan(FAST)}


def test_smaller_cards_offload_for_exact_and_quantize_for_fast() -> None:
    assert best("5090") == {EXACT: Plan(offload=Offload.MODEL), FAST: Plan(FAST, Quantization.INT8)}
    assert best("4090") == {EXACT: Plan(offload=Offload.MODEL), FAST: Plan(FAST, Quantization.INT8)}
    assert best("L4") == {EXACT: None, FAST: Plan(FAST, Quantization.INT8, Offload.TEXT)}
    assert best("T4") == {EXACT: None, FAST: Plan(FAST, Quantization.INT8, Offload.MODEL)}


def test_the_advice_names_the_settings_and_what_they_need() -> None:
    assert advice(FLUX_FILL, 81559 * MIB) == "exact fits (34.4 GiB); fast fits (34.4 GiB)"
    assert advice(FLUX_FILL, 24564 * MIB) == (
        "exact fits with FILL_OFFLOAD=model (23.7 GiB: tight); fast fits with FILL_QUANTIZATION=int8 (23.8 GiB: tight)"
    )
    assert advice(FLUX_FILL, 8 * GIB) == (
        "exact does not fit: it needs 23.7 GiB at least; fast does not fit: it needs 13.0 GiB at least"
    )


def test_what_is_moved_out_or_quantized_never_needs_more() -> None:
    for quantization in (Quantization.NONE, Quantization.INT8, Quantization.FP8):
        needs = [Plan(FAST, quantization, offload).needs_bytes(FLUX_FILL) for offload in Offload]
        assert needs == sorted(needs, reverse=True)
        assert len(set(needs)) == 3
    for offload in Offload:
        whole, halved = (
            Plan(FAST, numbers, offload).needs_bytes(FLUX_FILL) for numbers in (Quantization.NONE, Quantization.FP8)
        )
        assert whole > halved


def test_every_setting_of_a_plan_but_offload_is_one_of_fast_alone() -> None:
    for plan in PLANS:
        allowed = {"FILL_PROFILE", "FILL_QUANTIZATION", "FILL_OFFLOAD"} if plan.profile is FAST else {"FILL_OFFLOAD"}
        assert set(plan.settings) <= allowed
        assert ("FILL_PROFILE" in plan.settings) is (plan.profile is FAST)


def test_a_small_model_fits_a_small_card_as_it_is() -> None:
    assert best_plans(ModelSize(10**8, (10**7,), 10**7), 4 * GIB) == {EXACT: Plan(), FAST: Plan(FAST)}
