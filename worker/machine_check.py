"""What `fillfleet doctor` says of a worker's machine: its GPUs, which profile fits them, cores, memory and disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shutil import disk_usage
from typing import Any, Final

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from common.checkup import Finding, Verdict
from common.errors import FillfleetError, Rejected
from common.settings import Settings
from worker.fleet.gpus import Gpu, list_gpus, visible_gpus
from worker.host import cores, memory_bytes
from worker.model_size import FoundSize, find_size
from worker.vram_fit import GIB, PLANS, ModelSize, Plan, advice, best_plans, in_gib

_WORKER_BYTES: Final = 4 * GIB
"""What a worker takes of the host's memory beside the model's parts: torch with CUDA, four jobs' pictures."""
_OF_CUDA: Final = "install torch from PyPI, whose builds for Linux bring CUDA (no extra index of CPU builds)"


def check_machine(settings: Settings) -> Sequence[Finding]:
    """Look at GPUs, host and disk."""
    gpus, found = _look_at_gpus(settings)
    try:
        size = find_size(settings, on_gpu=bool(gpus))
    except FillfleetError:
        size = None  # what is wrong with it, the check of the model says
    fit = [_fit(settings, gpus, size)] if gpus else []
    return [found, *fit, _host(settings, len(gpus), size), *_disk(size)]


def _look_at_gpus(settings: Settings) -> tuple[list[Gpu], Finding]:
    """Return the GPUs that workers of this host would use, and what is to be said of them."""
    name = "gpus"
    unused = settings.fill_device in {"cpu", "mps"}
    try:
        here = list_gpus()
        gpus = visible_gpus(here, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except Rejected as error:
        if error.code == "no_driver":
            return [], Finding(name, Verdict.NOTE, "no NVIDIA driver is here: workers fill on the CPU", error.message)
        verdict = Verdict.NOTE if unused else Verdict.MISSING
        return [], Finding(name, verdict, "the GPUs of this host cannot be used", error.message)
    facts: dict[str, Any] = {"gpus": [_plain(gpu) for gpu in gpus], "torch_cuda": torch.version.cuda}
    if not gpus:
        hidden = "CUDA_VISIBLE_DEVICES hides every GPU" if here else "the driver lists no GPU"
        return [], Finding(name, Verdict.NOTE, f"{hidden}: workers fill on the CPU", facts=facts)
    text = f"{_titles(gpus)}; driver {gpus[0].driver or 'unknown'}"
    if unused:
        return [], Finding(name, Verdict.NOTE, f"{text}; not used: FILL_DEVICE={settings.fill_device}", facts=facts)
    if torch.version.cuda is None:
        found = f"{text}; torch {torch.__version__} is built without CUDA and uses none of them"
        return gpus, Finding(name, Verdict.MISSING, found, _OF_CUDA, facts)
    if torch.cuda.device_count() == 0:
        found = f"{text}; torch {torch.__version__}, built for CUDA {torch.version.cuda}, uses none of them"
        todo = f"update the driver to one for CUDA {torch.version.cuda} or newer; `nvidia-smi` shows which it has"
        return gpus, Finding(name, Verdict.MISSING, found, todo, facts)
    todo = "fillfleet worker --gpus all runs one worker on each" if len(gpus) > 1 else ""
    return gpus, Finding(name, Verdict.OK, text, todo, facts)


def _plain(gpu: Gpu) -> dict[str, Any]:
    return {
        "id": gpu.id,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_bytes": gpu.memory_bytes,
        "driver": gpu.driver,
        "compute_capability": _dotted(gpu.compute_capability),
    }


def _dotted(capability: tuple[int, int] | None) -> str | None:
    return None if capability is None else f"{capability[0]}.{capability[1]}"


def _titles(gpus: Sequence[Gpu]) -> str:
    kinds = Counter((gpu.name, gpu.memory_bytes, gpu.compute_capability) for gpu in gpus)
    said = []
    for (name, memory, capability), count in kinds.items():
        known = [] if memory is None else [in_gib(memory)]
        known += [] if capability is None else [f"compute capability {_dotted(capability)}"]
        said.append(f"{count} x {name}" + (f" ({', '.join(known)})" if known else ""))
    return ", ".join(said)


def _fit(settings: Settings, gpus: Sequence[Gpu], found: FoundSize | None) -> Finding:
    """Say which profiles fit, and whether the one that is set does."""
    name = "vram"
    memories = sorted({gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None})
    if found is None or not memories:
        what = "how large the model is" if found is None else "how much memory the GPUs have"
        return Finding(name, Verdict.NOTE, f"{what} is not known, so neither is which profile fits")
    size = found.size
    plan = Plan(settings.fill_profile, settings.fill_quantization, settings.fill_offload)
    said = " | ".join(f"{in_gib(memory)}: {advice(size, memory)}" for memory in memories)
    facts = {
        "model_bytes": {"transformer": size.transformer, "text_encoders": sum(size.text_encoders), "vae": size.vae},
        "set": _plan_facts(plan, size, memories[0]),
        "fits": [
            {"memory_bytes": memory, "plans": [_plan_facts(one, size, memory) for one in PLANS]} for memory in memories
        ],
    }
    if plan.needs_bytes(size) <= memories[0]:
        return Finding(name, Verdict.OK, said, facts=facts)
    best = best_plans(size, memories[0])
    todo = next((one.settings for one in (best[plan.profile], *best.values()) if one is not None), None)
    now = f"{said}; as it is set, it needs {in_gib(plan.needs_bytes(size))}"
    wish = " ".join(f"{key}={value}" for key, value in todo.items()) if todo else "use a GPU with more memory"
    return Finding(name, Verdict.MISSING, now, f"set {wish}" if todo else wish, facts)


def _plan_facts(plan: Plan, size: ModelSize, memory: int) -> dict[str, Any]:
    needs = plan.needs_bytes(size)
    return {
        "profile": plan.profile.value,
        "quantization": plan.quantization.value,
        "offload": plan.offload.value,
        "needs_bytes": needs,
        "fits": needs <= memory,
    }


def _host(settings: Settings, gpus: int, found: FoundSize | None) -> Finding:
    workers, memory = max(1, gpus), memory_bytes()
    facts = {"cores": cores(), "memory_bytes": memory, "gpus": gpus}
    text = f"{cores()} cores and {in_gib(memory)} of memory"
    if workers > 1:
        text += f": {cores() / workers:.1f} cores and {in_gib(memory // workers)} for each GPU's worker"
    needs = _WORKER_BYTES + (found.size.offloaded(settings.fill_offload) if found and gpus else 0)
    if needs > memory // workers:
        todo = f"each worker takes about {in_gib(needs)} of it: give this host more, or run fewer workers (--gpus N)"
        return Finding("host", Verdict.WARNING, text, todo, facts)
    return Finding("host", Verdict.OK, text, facts=facts)


def _disk(found: FoundSize | None) -> list[Finding]:
    if found is None:
        return []
    folder = next(path for path in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if path.is_dir())
    free, needs = disk_usage(folder).free, found.download_bytes
    facts = {"folder": HF_HUB_CACHE, "free_bytes": free, "download_bytes": needs}
    wanted = f", of which the model takes {in_gib(needs)}" if needs else ""
    if needs > free:
        text = f"{in_gib(free)} free in {HF_HUB_CACHE}, and the model takes {in_gib(needs)}"
        return [Finding("disk", Verdict.MISSING, text, "make room, or set HF_HOME to a folder on a larger disk", facts)]
    return [Finding("disk", Verdict.OK, f"{in_gib(free)} free in {HF_HUB_CACHE}{wanted}", facts=facts)]
