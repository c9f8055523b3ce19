"""How a manifest is cut into chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from producer.manifest.open import open_manifest
from producer.manifest.options import ManifestOptions
from producer.submission import chunks
from tests.support.manifests import write

MIB = 2**20


@pytest.mark.parametrize("value", ["x" * MIB, {"a": ["x" * MIB]}, [[]] * (MIB // 64)])
def test_a_chunk_of_long_rows_ends_before_it_fills_the_memory(tmp_path: Path, value: Any) -> None:
    line = json.dumps({"image": "https://example.com/1.png", "notes": value}) + "\n"
    path = write(tmp_path, "long.jsonl", line * 150)
    found = [len(chunk) for chunk in chunks(open_manifest(str(path), ManifestOptions()))]
    assert sum(found) == 150
    assert max(found) <= 64
