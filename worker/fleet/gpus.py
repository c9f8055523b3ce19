"""The GPUs of this host, as the driver's own nvidia-smi lists them.

nvidia-smi rather than a binding of NVML: it comes with every driver and into every container that has a GPU, says in
words why a driver does not answer, and where the driver hangs it is another process that hangs. torch is never asked:
who only counts GPUs must not open a context on one, and the supervisor of the workers does without torch.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.errors import Rejected

_MIB: Final = 1024**2
_SECONDS: Final = 30.0
"""Without its persistence daemon the driver of eight GPUs takes ten seconds to wake up."""
_FACTS: Final = ("uuid", "memory.total", "driver_version", "compute_cap", "mig.mode.current")
_GPU: Final = re.compile(r"GPU (\d+): (.+?) \(UUID: (GPU-[^)]+)\)")
_MIG: Final = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")
_MIG_MEMORY: Final = re.compile(r"(\d+)gb")
_TROUBLES: Final = {
    "version mismatch": "the driver was updated under the running kernel: reboot, or load its kernel modules again",
    "couldn't communicate": "the driver is installed but does not run: load or install it again, and see `dmesg`",
    "unable to determine the device handle": "a GPU does not answer: see `dmesg` for Xid errors, and reset or reboot",
    "insufficient permissions": "this user may not use /dev/nvidia*: correct their owner, group or mode",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG device of one. What nvidia-smi did not tell is None."""

    id: str
    """Its number in nvidia-smi; a MIG device's is that of its GPU with its own, such as 0:1."""
    uuid: str
    name: str
    memory_bytes: int | None = None
    driver: str | None = None
    compute_capability: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """Return its number with its name."""
        return f"{self.id} ({self.name})"


def list_gpus() -> list[Gpu]:
    """Return this host's GPUs; a GPU in MIG mode is there as its MIG devices.

    Raises Rejected (no_driver, driver_broken) where nobody can say.
    """
    said = _ask("-L")
    try:
        facts = parse_facts(_ask(f"--query-gpu={','.join(_FACTS)}", "--format=csv,noheader,nounits"))
    except Rejected:  # a driver so old that it does not know all of these fields
        facts = {}
    return list(parse_list(said, facts))


def parse_list(text: str, facts: Mapping[str, Mapping[str, str]]) -> Iterator[Gpu]:
    """Yield what `nvidia-smi -L` lists, with the facts of parse_facts."""
    whole: Gpu | None = None
    sliced = False
    for line in text.splitlines():
        if found := _GPU.match(line):
            if whole is not None and not sliced:
                yield whole
            known = facts.get(found[3], {})
            whole = _whole(found[1], found[2], found[3], known)
            # In MIG mode it takes no work itself, also while it is not divided into devices yet.
            sliced = known.get("mig.mode.current") == "Enabled"
        elif whole is not None and (found := _MIG.match(line)):
            sliced = True
            yield _slice(whole, found[1], found[2], found[3])
    if whole is not None and not sliced:
        yield whole


def _whole(number: str, name: str, uuid: str, facts: Mapping[str, str]) -> Gpu:
    memory, compute = facts.get("memory.total", ""), re.fullmatch(r"(\d+)\.(\d+)", facts.get("compute_cap", ""))
    return Gpu(
        id=number,
        uuid=uuid,
        name=name,
        memory_bytes=int(memory) * _MIB if memory.isdigit() else None,
        driver=facts.get("driver_version"),
        compute_capability=(int(compute[1]), int(compute[2])) if compute else None,
    )


def _slice(whole: Gpu, profile: str, number: str, uuid: str) -> Gpu:
    size = _MIG_MEMORY.search(profile)
    return Gpu(
        id=f"{whole.id}:{number}",
        uuid=uuid,
        name=f"{whole.name} MIG {profile}",
        memory_bytes=int(size[1]) * 10**9 if size else None,  # its name rounds up; GiB would promise too much
        driver=whole.driver,
        compute_capability=whole.compute_capability,
    )


def parse_facts(text: str) -> dict[str, dict[str, str]]:
    """Return what a query for _FACTS says, by UUID; what the GPU does not know of itself is not in it."""
    facts = {}
    for line in text.splitlines():
        values = [part.strip() for part in line.split(",")]
        if len(values) == len(_FACTS):
            known = {name: value for name, value in zip(_FACTS, values, strict=True) if not value.startswith("[")}
            facts[values[0]] = known
    return facts


def visible_gpus(gpus: Sequence[Gpu], cuda_visible_devices: str | None) -> list[Gpu]:
    """Return those that CUDA_VISIBLE_DEVICES leaves, in its order; numbers are taken as nvidia-smi's.

    Raises Rejected (no_such_gpu) where it names one that is not here.
    """
    if cuda_visible_devices is None:
        return list(gpus)
    left: list[Gpu] = []
    for wish in (part.strip() for part in cuda_visible_devices.split(",")):
        if wish in {"", "-1", "NoDevFiles"}:
            break  # as CUDA does: what stands behind is hidden, too
        found = [gpu for gpu in gpus if _means(wish, gpu)]
        if not found:
            raise Rejected(
                "no_such_gpu", f"CUDA_VISIBLE_DEVICES={cuda_visible_devices}: there is no {wish} here; {in_words(gpus)}"
            )
        left += found
    return left


def _means(wish: str, gpu: Gpu) -> bool:
    if wish.isdigit():
        return gpu.id.partition(":")[0] == wish
    return len(wish) > len("GPU-") and gpu.uuid.startswith(wish)  # CUDA takes the first digits of a UUID, too


def in_words(gpus: Sequence[Gpu]) -> str:
    """Return which GPUs there are, for messages."""
    if not gpus:
        return "there is none"
    return f"there {'is' if len(gpus) == 1 else 'are'} {', '.join(gpu.title for gpu in gpus)}"


def _ask(*arguments: str) -> str:
    """Return what nvidia-smi says. Raises Rejected (no_driver, driver_broken)."""
    try:
        process = subprocess.Popen(
            ["nvidia-smi", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise Rejected(
            "no_driver",
            "nvidia-smi is not here: install NVIDIA's driver; in a container, start it with GPUs and the NVIDIA "
            "container toolkit",
        ) from error
    try:
        said, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: what the driver holds may never end
        raise Rejected(
            "driver_broken", f"nvidia-smi does not answer within {_SECONDS:.0f} s: the driver hangs; see `dmesg`"
        ) from None
    if process.returncode != 0 and not said.lower().startswith("no devices"):
        raise Rejected("driver_broken", f"nvidia-smi fails: {_reason(said)}")
    return said


def _reason(said: str) -> str:
    what = " ".join(said.split())[:300]
    for sign, todo in _TROUBLES.items():
        if sign in what.lower():
            return f"{what} ({todo})"
    return what or "it says nothing"
