"""Tells from an exception what became of the device: out of memory (it goes on) or broken (it does not)."""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_BROKEN = ("CUDA error", "device-side assert", "illegal memory access", "unspecified launch failure")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether the device (or the host) had too little memory; a later, smaller call can work."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # MPS, the CPU's allocator and cuBLAS raise plain RuntimeErrors
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_device_broken(error: BaseException) -> bool:
    """Say whether the GPU gave a sticky error, after which every call of this process fails."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _BROKEN)
