"""What may not even be opened: files that are no safetensors, or claim what they do not hold."""

from __future__ import annotations

import json
import pickle
import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from common.errors import Rejected
from worker.loras.header import MAX_TENSORS, Header, read_header

A = {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}


def _file(path: Path, table: Any, data: bytes = b"\0" * 32, length: int | None = None) -> Path:
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def _read(path: Path, max_bytes: int = 10**9, max_rank: int = 512) -> Header:
    return read_header(path, max_bytes=max_bytes, max_rank=max_rank)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    header = _read(_file(tmp_path / "a", {"__metadata__": {"k": "v"}, "x.lora_A.weight": A}))

    assert header.tensors["x.lora_A.weight"].shape == (4, 2)
    assert header.metadata == {"k": "v"}
    assert header.rank == 4


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is empty"),
        (b"\x10\0\0", "is truncated"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"\n  <html>" + b" " * 99, "is a web page"),
        (pickle.dumps({"weight": [0.0] * 100}), "is a Python pickle"),
        (b'{"error": "not found, sorry, really"}', "is a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"# A text of any other kind", "is of another format"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 64, "is a GGUF file"),
    ],
)
def test_other_formats_are_named(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "renamed.safetensors"
    path.write_bytes(content)

    with pytest.raises(Rejected, match=kind) as caught:
        _read(path)

    assert caught.value.code == "lora_not_safetensors"


def test_a_pytorch_checkpoint_by_a_safetensors_name_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))

    with pytest.raises(Rejected, match="PyTorch or zip"):
        _read(path)


@pytest.mark.parametrize(
    ("table", "data", "reason"),
    [
        ({"a": A}, b"\0" * 31, "truncated"),
        ({"a": A}, b"\0" * 33, "after its last tensor"),
        ({"a": A, "b": A}, b"\0" * 32, "overlap"),
        ({"a": A, "b": A | {"data_offsets": [31, 63]}}, b"\0" * 63, "overlap"),
        ({"a": A, "b": A | {"data_offsets": [40, 72]}}, b"\0" * 72, "gaps"),
        ({"a": A | {"data_offsets": [4, 36]}}, b"\0" * 36, "gaps"),
        ({"a": A | {"data_offsets": [32, 0]}}, b"\0" * 32, "differ"),
        ({"a": A | {"shape": [2**40, 2**40]}}, b"\0" * 32, "differ"),
        ({"a": A | {"shape": [-4, -2]}}, b"\0" * 32, "wrongly"),
        ({"a": A | {"shape": [4.0, 2]}}, b"\0" * 32, "wrongly"),
        ({"a": A | {"shape": [True, 8]}}, b"\0" * 32, "wrongly"),
        ({"a": A | {"data_offsets": [-32, 0]}}, b"\0" * 32, "wrongly"),
        ({"a": A | {"data_offsets": [0]}}, b"\0" * 32, "wrongly"),
        ({"a": A | {"extra": 1}}, b"\0" * 32, "wrongly"),
        ({"a": [1, 2]}, b"\0" * 32, "wrongly"),
        ({"a" * 600: A}, b"\0" * 32, "too long"),
        ({"a\nb": A}, b"\0" * 32, "not printable"),
        ({}, b"", "no tensors"),
        ([A], b"\0" * 32, "not a table"),
        ({"__metadata__": {"k": 1}, "a": A}, b"\0" * 32, "not text"),
        (b'{"a": 1' + b" " * 99, b"", "not valid JSON"),
        (b'{"a": ' + json.dumps(A).encode() + b', "a": ' + json.dumps(A).encode() + b"}", b"\0" * 32, "not valid JSON"),
        (b"[" * 200_000, b"", "not valid JSON"),
        (b"\xff\xfe" * 50, b"", "not valid JSON"),
    ],
)
def test_a_header_that_lies_is_refused(table: Any, data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=reason) as caught:
        _read(_file(tmp_path / "a", table, data))

    assert caught.value.code == "lora_not_safetensors"


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "F64", "C64", 7, None])
def test_number_formats_that_no_adapter_needs_are_refused(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="allowed are F32, F16, BF16") as caught:
        _read(_file(tmp_path / "a", {"a": A | {"dtype": dtype}}))

    assert caught.value.code == "lora_unsupported"


def test_an_alpha_may_be_a_single_number_of_any_kind(tmp_path: Path) -> None:
    alpha = {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}

    assert _read(_file(tmp_path / "a", {"x.alpha": alpha}, b"\0" * 8)).tensors["x.alpha"].shape == ()


@pytest.mark.parametrize("name", ["x.lora_A.weight", "lora_unet_x.lora_down.weight", "processor.down.weight"])
def test_a_rank_above_the_limit_is_refused(name: str, tmp_path: Path) -> None:
    entry = {"dtype": "F16", "shape": [10**6, 1], "data_offsets": [0, 2 * 10**6]}
    path = _file(tmp_path / "a", {name: entry}, b"\0" * 2 * 10**6)

    with pytest.raises(Rejected, match="rank 1000000; at most 512") as caught:
        _read(path)

    assert caught.value.code == "lora_rank_too_large"


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(10**13)  # sparse

    with pytest.raises(Rejected, match="at most 1000000000 are allowed") as caught:
        _read(path)

    assert caught.value.code == "lora_too_large"


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path = _file(tmp_path / "many", {f"t{n}": empty for n in range(MAX_TENSORS + 1)}, b"")

    with pytest.raises(Rejected, match="10001 tensors"):
        _read(path)


def test_a_header_of_100_megabytes_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge-header"
    with path.open("wb") as file:
        file.write((100 * 2**20).to_bytes(8, "little") + b'{"')
        file.truncate(200 * 2**20)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()

    with pytest.raises(Rejected, match="claims a header of 104857600 bytes"):
        _read(path)

    assert time.thread_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB
