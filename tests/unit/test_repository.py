"""What a newcomer meets first: the Makefile, the lock, and what must never be committed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", LOCK, re.MULTILINE))
TOOLS = ("sh", "make", "awk", "rm", "mkdir", "mv", "cp", "cat", "echo")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what `make` needs before .venv is there, and a PATH of its own in bin/ without any Python."""
    (tmp_path / "infra").mkdir()
    for name in ("Makefile", "infra/find_python.sh", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is needed to test the Makefile"
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=clone,
        env={"PATH": str(clone / "bin"), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def put_python(clone: Path, name: str, change: str) -> None:
    """Put a Python on PATH that runs as this one, after the change."""
    code = shlex.quote(f"import sys; {change}; exec(sys.argv[1])")
    write_script(clone / "bin" / name, f'[ "$1" = -c ] || exit 1\nexec {sys.executable} -c {code} "$2"')


TOO_OLD = "sys.version_info = (3, 10, 12, 'final', 0)"


def test_bare_make_explains_itself_without_any_python(clone: Path) -> None:
    result = make(clone)
    assert result.returncode == 0
    explained = dict(re.findall(r"^  ([a-z]+) +(\S.*)$", result.stdout, re.MULTILINE))
    assert {"demo", "up", "test", "lint", "bench"} <= set(explained)
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("python3", TOO_OLD, "Python 3.11 or newer (found 3.10)"),
        ("python3", "sys.modules['venv'] = None", "the venv module"),
        ("python3.11", "sys.modules['ensurepip'] = None", "ensurepip"),
        ("something-else", "pass", "Python 3.11 or newer (found none)"),
    ],
)
@pytest.mark.parametrize("target", ["demo", "test"])
def test_what_is_missing_is_said_in_one_line(clone: Path, target: str, name: str, change: str, said: str) -> None:
    put_python(clone, name, change)
    result = make(clone, target)
    assert result.returncode != 0
    (line,) = (result.stdout + result.stderr).splitlines()
    assert said in line
    assert not (clone / ".venv").exists()


def test_a_named_python_that_does_not_fit_is_not_replaced_by_another(clone: Path) -> None:
    put_python(clone, "old", TOO_OLD)
    put_python(clone, "python3.11", "pass")
    result = make(clone, "test", f"PYTHON={clone / 'bin' / 'old'}")
    assert result.returncode != 0
    assert "found 3.10" in result.stderr


def test_a_newer_python_is_found_beside_one_that_is_too_old(clone: Path) -> None:
    put_python(clone, "python3", TOO_OLD)
    put_python(clone, "python3.12", "pass")
    found = subprocess.run(
        ["sh", "infra/find_python.sh"],
        cwd=clone,
        env={"PATH": str(clone / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert found.stdout.strip() == str(clone / "bin" / "python3.12")


def test_an_interrupted_install_is_started_anew_and_a_finished_one_is_kept(clone: Path) -> None:
    # Stands for pip on a line that breaks: the exit code is read from a file, and each run leaves a trace.
    write_script(
        clone / "environment_python",
        f'[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@" >> pip_runs\nexit "$(cat pip_exit)"',
    )
    write_script(
        clone / "bin" / "python3.11",
        f'[ "$1" = -c ] && exec {sys.executable} "$@"\n'
        'mkdir -p "$3/bin" && cp environment_python "$3/bin/python" && : >> "$3/half_done"',
    )
    (clone / "pip_exit").write_text("1")
    assert make(clone, ".venv/.ready").returncode != 0
    assert not (clone / ".venv/.ready").exists()

    (clone / ".venv/left_over").touch()
    (clone / "pip_exit").write_text("0")
    assert make(clone, "-j4", ".venv/.ready").returncode == 0
    assert (clone / ".venv/.ready").exists()
    assert not (clone / ".venv/left_over").exists(), "built on top of what an interrupted install had left"

    (clone / "pip_runs").unlink()
    assert make(clone, ".venv/.ready").returncode == 0
    assert not (clone / "pip_runs").exists(), "a second run installs nothing"

    later = (clone / ".venv/.ready").stat().st_mtime + 10
    os.utime(clone / "requirements.lock", (later, later))
    (clone / ".venv/kept").touch()
    assert make(clone, ".venv/.ready").returncode == 0
    assert (clone / "pip_runs").exists(), "a new lock is installed"
    assert (clone / ".venv/kept").exists()


def test_the_lock_names_no_host_and_no_option() -> None:
    for line in LOCK.splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.]+ +# via .+", line), line
    assert not re.search(r"://|--|\+cpu|@ ", LOCK)


def test_the_lock_pins_the_torch_that_has_builds_for_every_machine() -> None:
    assert PINS["torch"] == "2.13.0"
    assert not [name for name in PINS if re.match("nvidia-|cuda-|triton", name)]


def test_the_lock_fits_every_dependency_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    for requirement in map(Requirement, named):
        pinned = PINS.get(canonicalize_name(requirement.name))
        assert pinned, f"run `make lock`: {requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(pinned, prereleases=True), f"run `make lock`: {requirement}, not {pinned}"


def test_the_makefile_and_the_lock_agree_on_torch() -> None:
    assert f"TORCH := {PINS['torch']}\n" in (ROOT / "Makefile").read_text()


def test_what_is_made_here_and_what_is_secret_stays_out_of_git() -> None:
    ignored = set((ROOT / ".gitignore").read_text().splitlines())
    assert {".venv/", ".env", "/demo/", "__pycache__/"} <= ignored
