"""What goes together in a profile is decided before the model is loaded, and each refusal says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import Rejected
from common.fill_profile import Attention, FillProfile, Offload, Quantization, VaeTiling
from tests.support.fills import FillSettings
from worker.profile import Compilation, Host, Profile, StepCache, profile_of


def host(kind: str = "cuda", capability: tuple[int, int] | None = (9, 0), *, without: str = "") -> Host:
    """Return a host that has everything but what is named."""
    missing = without.split()
    return Host(
        kind,
        capability if kind == "cuda" else None,
        has_module=lambda module: module not in missing,
        has_program=lambda program: program not in missing,
    )


CPU = host("cpu")


def made(at: Host = CPU, **settings: Any) -> Profile:
    return profile_of(FillSettings(**settings), at)


def refused(code: str, at: Host = CPU, **settings: Any) -> str:
    with pytest.raises(Rejected) as caught:
        made(at, **settings)
    assert caught.value.code == code
    return caught.value.message


def test_who_sets_nothing_gets_exact_and_nothing_else() -> None:
    for at in (CPU, host("cuda"), host("mps")):
        assert made(at) == Profile()
    assert Profile().in_effect == {"profile": "exact"}
    assert Profile().libraries == ()


def test_fast_alone_skips_steps_and_nothing_more() -> None:
    profile = made(fill_profile="fast")

    assert profile == Profile(
        name=FillProfile.FAST, step_cache=StepCache(threshold=0.08, warmup_steps=4), vae_tiling=VaeTiling.AUTO
    )
    assert profile.libraries == ("cache-dit",)


def test_each_acceleration_is_a_setting_of_its_own() -> None:
    profile = made(
        host(),
        fill_profile="fast", fill_step_cache=False, fill_compile=True, fill_compile_cache="/tmp/code",  # noqa: S108
        fill_compile_sizes="1024*1024, 768x512", fill_quantization="fp8", fill_attention="cudnn", fill_vae_tiling="on",
        fill_offload="text",
    )  # fmt: skip

    assert profile == Profile(
        FillProfile.FAST,
        None,
        Compilation(Path("/tmp/code"), ((1024, 1024), (768, 512))),  # noqa: S108
        Quantization.FP8,
        Attention.CUDNN,
        VaeTiling.ON,
        Offload.TEXT,
    )
    assert profile.libraries == ("torchao",)


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"fill_step_cache": True}, "FILL_STEP_CACHE"),
        ({"fill_compile": True}, "FILL_COMPILE"),
        ({"fill_quantization": "int8"}, "FILL_QUANTIZATION"),
        ({"fill_attention": "sage"}, "FILL_ATTENTION"),
        ({"fill_vae_tiling": "on"}, "FILL_VAE_TILING"),
        ({"fill_compile": True, "fill_vae_tiling": "on"}, "FILL_COMPILE and FILL_VAE_TILING"),
    ],
)
def test_under_exact_nothing_may_change_the_images(wish: dict[str, Any], named: str) -> None:
    message = refused("profile_is_exact", host(), **wish)

    assert message.startswith(f"{named} would change the images")
    assert message.endswith(f"set FILL_PROFILE=fast, or leave {named} out")


@pytest.mark.parametrize("wish", [{"fill_step_cache": False}, {"fill_vae_tiling": "off"}, {"fill_compile": False}])
def test_under_exact_what_is_off_may_be_said_to_be_off(wish: dict[str, Any]) -> None:
    assert made(**wish) == Profile()


@pytest.mark.parametrize("profile", ["exact", "fast"])
@pytest.mark.parametrize("offload", ["text", "model"])
def test_parts_may_lie_in_the_hosts_memory_under_both_profiles_since_that_changes_no_image(
    profile: str, offload: str
) -> None:
    there = made(host(), fill_profile=profile, fill_offload=offload)

    assert there.offload == offload
    assert there.in_effect == made(host(), fill_profile=profile).in_effect
    assert "leave it out" in refused("profile_device", CPU, fill_profile=profile, fill_offload=offload)


def test_a_transformer_that_is_moved_for_every_job_is_not_compiled() -> None:
    message = refused("profile_conflict", host(), fill_profile="fast", fill_compile=True, fill_offload="model")

    assert "use FILL_OFFLOAD=text, or leave FILL_COMPILE out" in message
    assert made(host(), fill_profile="fast", fill_compile=True, fill_offload="text").compilation


# --- fp8


def test_fp8_without_compile_is_refused_since_it_is_slower_than_nothing() -> None:
    message = refused("profile_conflict", host(), fill_profile="fast", fill_quantization="fp8")

    assert "slower" in message
    assert "set FILL_COMPILE=true" in message


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (host("cuda", (8, 0)), "this one has 8.0"),
        (host("cuda", (8, 6)), "this one has 8.6"),
        (CPU, "this is no CUDA GPU"),
        (host("mps"), "this is no CUDA GPU"),
    ],
)
def test_fp8_needs_a_gpu_that_multiplies_in_it(at: Host, says: str) -> None:
    message = refused("profile_device", at, fill_profile="fast", fill_quantization="fp8")

    assert "8.9" in message
    assert says in message
    assert "use int8" in message


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
def test_fp8_is_taken_where_it_works(capability: tuple[int, int]) -> None:
    at = host("cuda", capability)

    assert made(at, fill_profile="fast", fill_quantization="fp8", fill_compile=True).quantization is Quantization.FP8


def test_fp8_is_for_bfloat16() -> None:
    message = refused(
        "profile_conflict",
        host(),
        fill_profile="fast",
        fill_quantization="fp8",
        fill_compile=True,
        fill_dtype="float16",
    )

    assert "set FILL_DTYPE=auto" in message


def test_int8_is_taken_without_compile_and_without_a_gpu() -> None:
    assert made(fill_profile="fast", fill_quantization="int8").quantization is Quantization.INT8


# --- what has to be installed


@pytest.mark.parametrize(
    ("without", "wish", "says"),
    [
        ("cache_dit", {}, "pip install 'fillfleet[fast]', or set FILL_STEP_CACHE=false"),
        ("torchao", {"fill_quantization": "int8"}, "pip install 'fillfleet[fast]'"),
        ("flash_attn", {"fill_attention": "flash"}, "install the flash-attn for yours"),
        ("flash_attn_interface", {"fill_attention": "flash3"}, "install the flash-attn-3 for yours"),
        ("sageattention", {"fill_attention": "sage"}, "install the sageattention for yours"),
        ("xformers", {"fill_attention": "xformers"}, "install the xformers for yours"),
        ("gcc cc clang", {"fill_compile": True}, "install gcc, or leave FILL_COMPILE out"),
    ],
)
def test_what_is_not_installed_is_named_with_how_to_get_it(without: str, wish: dict[str, Any], says: str) -> None:
    assert says in refused("profile_not_installed", host(without=without), fill_profile="fast", **wish)
    made(host(), fill_profile="fast", **wish)


def test_on_a_cpu_it_is_the_cxx_compiler_that_compile_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    at = host("cpu", without="g++ clang++")
    assert "install g++" in refused("profile_not_installed", at, fill_profile="fast", fill_compile=True)
    assert made(host("cpu", without="gcc g++ cc clang"), fill_profile="fast", fill_compile=True).compilation

    monkeypatch.setenv("CXX", "c++-of-mine")
    assert made(at, fill_profile="fast", fill_compile=True).compilation


def test_without_the_step_cache_its_library_is_not_asked_for() -> None:
    assert made(host(without="cache_dit"), fill_profile="fast", fill_step_cache=False).step_cache is None


# --- attention


@pytest.mark.parametrize("wish", [one for one in Attention if one is not Attention.NATIVE])
def test_attention_other_than_torchs_own_choice_needs_a_gpu_and_16_bits(wish: Attention) -> None:
    assert "use native" in refused("profile_device", CPU, fill_profile="fast", fill_attention=wish)
    message = refused("profile_conflict", host(), fill_profile="fast", fill_attention=wish, fill_dtype="float32")
    assert "FILL_DTYPE=auto" in message


def test_flash_attention_3_needs_hopper() -> None:
    message = refused("profile_device", host("cuda", (8, 9)), fill_profile="fast", fill_attention="flash3")

    assert "this one has 8.9" in message


def test_a_profile_compiles_on_cuda_and_cpus_only() -> None:
    assert "leave it out" in refused("profile_device", host("mps"), fill_profile="fast", fill_compile=True)


# --- settings


@pytest.mark.parametrize(
    "bad",
    [
        {"fill_profile": "fastest"},
        {"fill_step_cache_threshold": 0},
        {"fill_step_cache_threshold": 1.5},
        {"fill_step_cache_warmup_steps": 0},
        {"fill_quantization": "int4"},
        {"fill_attention": "sage_hub"},
        {"fill_compile_sizes": "1024"},
        {"fill_compile_sizes": "1024*1024;512*512"},
        {"fill_vae_tiling": "true"},
        {"fill_offload": "sequential"},
    ],
)
def test_what_a_setting_cannot_mean_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        FillSettings(**bad)


def test_the_rules_are_asked_without_torch() -> None:
    code = "import sys, worker.profile; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# --- what is written down


def test_what_changes_images_is_in_the_model_version_each_by_its_name() -> None:
    one = made(host(), fill_profile="fast", fill_quantization="int8", fill_compile=True, fill_vae_tiling="off")

    assert one.in_effect == {
        "profile": "fast",
        "step_cache": "TaylorSeer, threshold 0.08, warm-up 4",
        "compile": "repeated blocks",
        "quantization": "int8",
    }
    other = made(host(), fill_profile="fast", fill_step_cache_threshold=0.2)
    assert other.in_effect["step_cache"] == "TaylorSeer, threshold 0.2, warm-up 4"
    assert other.in_effect["vae_tiling"] == "auto"
