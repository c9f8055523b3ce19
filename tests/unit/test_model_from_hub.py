"""A model that comes from the hub brings its card along, and is loaded without one where the hub does not give it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from common.settings import Settings
from tests.support.model_hub import COMMIT, FILL_CARD, ModelHub, running_hub, with_card
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
NAME = "someone/some-fill"
WORKERS = 3
PROGRAM = """
import sys
from common.settings import Settings
from common.telemetry import configure_logging
from worker.licence_notice import tell_licence
from worker.model_folder import find_model
settings = Settings()
configure_logging(settings, "worker")
folder = find_model(settings)
tell_licence(folder, settings)
print(folder.hub_id, folder.revision, (folder.path / "vae" / "config.json").is_file())
"""


def start(program: str, hub: ModelHub, home: Path) -> subprocess.Popen[str]:
    """Start a program that gets its model from this hub."""
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    settings = {"FILLFLEET_ENV": "test", "FILL_MODEL": NAME, "LORA_CACHE_FOLDER": str(home / "lora")}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=inherited | hub.environment(home) | settings,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_worker(hub: ModelHub, home: Path) -> subprocess.CompletedProcess[str]:
    """Do what a worker does first, up to the loading of the weights."""
    worker = start(PROGRAM, hub, home)
    said, errors = worker.communicate(timeout=120)
    return subprocess.CompletedProcess(PROGRAM, worker.returncode, said, errors)


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    return with_card(model_folder, tmp_path / "on-the-hub", FILL_CARD)


def test_the_card_comes_beside_the_weights_and_stays_known_when_the_hub_is_away(model: Path, tmp_path: Path) -> None:
    with running_hub({NAME: model}) as hub:
        first = start_worker(hub, tmp_path / "home")
        assert first.stdout == f"{NAME} {COMMIT} True\n", first.stderr
        assert f"GET /{NAME}/resolve/{COMMIT}/README.md" in hub.asked
        assert "RULES OUT COMMERCIAL USE" in first.stderr
        assert f"https://huggingface.co/{NAME}/blob/main/LICENSE.md" in first.stderr, "people read it at the hub itself"
    again = start_worker(hub, tmp_path / "home")
    assert again.stdout == first.stdout, again.stderr
    assert "RULES OUT COMMERCIAL USE" not in again.stderr
    assert '"commercial_use": "ruled out"' in again.stderr


def test_workers_that_start_together_on_a_host_download_every_file_once(model: Path, tmp_path: Path) -> None:
    program = f"""
import os
from common.settings import Settings
from worker.model_folder import find_model
from diffusers import DiffusionPipeline  # once for all of them
workers = []
for _ in range({WORKERS}):
    workers.append(os.fork())
    if workers[-1] == 0:
        print(find_model(Settings()).revision, flush=True)
        os._exit(0)
for worker in workers:
    os.waitpid(worker, 0)
"""
    slow = "transformer/diffusion_pytorch_model.safetensors"
    with running_hub({NAME: model}) as hub:
        hub.held[slow] = threading.Event()
        worker = start(program, hub, tmp_path / "home")
        asked = f"HEAD /{NAME}/resolve/{COMMIT}/{slow}"
        assert wait_until(lambda: hub.asked.count(asked) == WORKERS, 100), "all want it before anyone has it"
        hub.held[slow].set()
        said, errors = worker.communicate(timeout=100)
    assert said.split() == [COMMIT] * WORKERS, errors
    given = Counter(one.partition("/resolve/")[2] for one in hub.asked if one.startswith("GET") and "/resolve/" in one)
    assert given[f"{COMMIT}/{slow}"] == 1
    assert {number for name, number in given.items() if name.endswith(".safetensors")} == {1}


def test_a_card_that_the_hub_does_not_give_keeps_no_model_from_loading(model: Path, tmp_path: Path) -> None:
    with running_hub({NAME: model}) as hub:
        hub.refused.add("README.md")
        done = start_worker(hub, tmp_path / "home")
    assert done.stdout == f"{NAME} {COMMIT} True\n", done.stderr
    assert "model.no_card" in done.stderr
    assert "licence unknown" in done.stderr
