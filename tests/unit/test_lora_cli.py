"""`fillfleet lora`: what an operator sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common.settings import Settings
from tests.support.fills import TO_Q, FillSettings, peft_pair, write_lora
from worker.loras.cli import lora

Run = Callable[..., Result]


@pytest.fixture
def cli_settings(model_folder: Path, tmp_path: Path) -> Settings:
    (tmp_path / "loras").mkdir()
    return FillSettings(lora_folder=tmp_path / "loras", lora_cache_folder=tmp_path / "cache")


@pytest.fixture
def run(cli_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `fillfleet lora` with arguments, under `cli_settings` with changes."""

    def running(*arguments: str | Path, **changes: object) -> Result:
        settings = cli_settings.model_copy(update=changes)
        monkeypatch.setattr("worker.loras.cli.get_settings", lambda: settings)
        return CliRunner().invoke(lora, [str(argument) for argument in arguments])

    return running


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_lora(tmp_path / "My style (v2).safetensors", peft_pair(TO_Q, rank=3) | peft_pair())


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return write_lora(tmp_path / "wide.safetensors", peft_pair(TO_Q, inputs=224))


def test_verify_says_of_each_file_whether_it_fits_and_why_not(run: Run, good: Path, wide: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.safetensors"
    page.write_text("<html>sign in first, please</html>")

    done = run("verify", good, wide, page, tmp_path / "missing.safetensors", "--json")
    reports = json.loads(done.output)

    assert done.exit_code == 1
    assert [report["code"] for report in reports] == [
        None, "lora_does_not_fit", "lora_not_safetensors", "lora_not_found",
    ]  # fmt: skip
    assert (reports[0]["rank"], reports[0]["layers"]) == (4, 2)
    assert "from 224 inputs" in reports[1]["reason"]


def test_verify_ends_well_when_all_fit(run: Run, good: Path) -> None:
    done = run("verify", good)

    assert done.exit_code == 0
    assert "yes" in done.output


def test_verify_prints_a_table_that_names_the_reason(run: Run, wide: Path) -> None:
    done = run("verify", wide)

    assert done.exit_code == 1
    assert "another model" in " ".join(done.output.split())


def test_added_loras_are_listed_by_the_names_that_jobs_use(run: Run, good: Path, cli_settings: Settings) -> None:
    assert json.loads(run("list", "--json").output) == []
    added = run("add", good)
    named = run("add", good, "--name", "other", "--json")

    assert (added.exit_code, named.exit_code) == (0, 0)
    assert '{"path": "My-style-v2"}' in added.output
    assert json.loads(named.output)["name"] == "other"
    listed = json.loads(run("list", "--json").output)
    assert [(one["name"], one["rank"], one["code"]) for one in listed] == [("My-style-v2", 4, None), ("other", 4, None)]
    assert cli_settings.lora_folder is not None
    assert (cli_settings.lora_folder / "other.safetensors").read_bytes() == good.read_bytes()
    assert "My-style-v2" in run("list").output


def test_a_file_that_does_not_fit_is_not_added(run: Run, wide: Path) -> None:
    done = run("add", wide)

    assert done.exit_code == 1
    assert "it is for another model" in done.output
    assert json.loads(run("list", "--json").output) == []


def test_a_name_is_never_given_to_a_second_lora(run: Run, good: Path, tmp_path: Path) -> None:
    other = write_lora(tmp_path / "other.safetensors", peft_pair(TO_Q))
    assert run("add", good, "--name", "style").exit_code == 0
    assert run("add", good, "--name", "style").exit_code == 0  # the same again does no harm

    done = run("add", other, "--name", "style")

    assert done.exit_code == 1
    assert "another LoRA named style" in done.output


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", ""])
def test_names_are_plain(name: str, run: Run, good: Path, cli_settings: Settings) -> None:
    done = run("add", good, "--name", name)

    assert (done.exit_code == 0) is (name == "")  # empty means none given
    assert cli_settings.lora_folder is not None
    assert [path.name for path in cli_settings.lora_folder.parent.glob("*up*")] == []


@pytest.mark.parametrize("source", ["nothing.safetensors", "./nothing.safetensors", "/nowhere/x.safetensors"])
def test_a_source_that_is_not_there_says_what_to_give(source: str, run: Run) -> None:
    done = run("add", source)

    assert done.exit_code == 1
    assert "give a file, an https URL or a hub id" in done.output


def test_a_url_that_may_not_be_fetched_is_refused(run: Run) -> None:
    done = run("add", "https://127.0.0.1:1/a.safetensors")

    assert done.exit_code == 1
    assert "not allowed" in done.output


def test_without_a_folder_or_a_model_it_says_what_to_set(run: Run, good: Path) -> None:
    assert "set it to the folder" in run("list", lora_folder=None).output
    assert "set it to the folder" in run("add", good, lora_folder=None).output
    assert "FILL_MODEL=/nowhere" in run("verify", good, fill_model="/nowhere").output


def test_a_broken_file_in_the_folder_is_listed_with_its_reason(run: Run, cli_settings: Settings) -> None:
    assert cli_settings.lora_folder is not None
    (cli_settings.lora_folder / "broken.safetensors").write_bytes(b"")

    assert json.loads(run("list", "--json").output)[0]["reason"].startswith("is empty")
