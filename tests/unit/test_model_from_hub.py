"""A model that comes from the hub brings its card along, and is loaded without one where the hub does not give it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.settings import Settings
from tests.support.model_hub import COMMIT, FILL_CARD, ModelHub, running_hub, with_card

ROOT = Path(__file__).parents[2]
NAME = "someone/some-fill"
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


def start_worker(hub: ModelHub, home: Path) -> subprocess.CompletedProcess[str]:
    """Do what a worker does first, up to the loading of the weights."""
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    settings = {"FILLFLEET_ENV": "test", "FILL_MODEL": NAME, "LORA_CACHE_FOLDER": str(home / "lora")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=inherited | hub.environment(home) | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


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


def test_a_card_that_the_hub_does_not_give_keeps_no_model_from_loading(model: Path, tmp_path: Path) -> None:
    with running_hub({NAME: model}) as hub:
        hub.refused.add("README.md")
        done = start_worker(hub, tmp_path / "home")
    assert done.stdout == f"{NAME} {COMMIT} True\n", done.stderr
    assert "model.no_card" in done.stderr
    assert "licence unknown" in done.stderr
