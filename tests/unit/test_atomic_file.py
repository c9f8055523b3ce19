"""A file that is written whole: never half there, and as readable as it should be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from common.atomic_file import atomic_file


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_others_may_read_a_file_unless_it_is_private(tmp_path: Path, private: bool, mode: int) -> None:
    before = os.umask(0o022)
    try:
        with atomic_file(tmp_path / "new" / "x", private=private) as file:
            file.write(b"whole")
            (part,) = (tmp_path / "new").iterdir()
            assert stat.S_IMODE(part.stat().st_mode) == mode
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "x").read_bytes() == b"whole"
    assert stat.S_IMODE((tmp_path / "new" / "x").stat().st_mode) == mode


def test_a_file_that_could_not_be_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(tmp_path / "x") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"
