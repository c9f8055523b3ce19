"""Workers with weights under a non-commercial licence say so at their start: all in the log, one so that it is seen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from infra.demo_model.files import FOLDER
from tests.support.fleet import Fleet
from tests.support.model_hub import FILL_CARD, with_card

NOTICE = "THE LICENCE OF THIS MODEL'S WEIGHTS RULES OUT COMMERCIAL USE"


def test_two_workers_of_a_host_log_the_licence_and_one_of_them_prints_the_notice(fleet: Fleet, tmp_path: Path) -> None:
    model = with_card(FOLDER, tmp_path / "fill", FILL_CARD)
    (model / "LICENSE.md").write_text("the terms")
    env = {"FILL_MODEL": str(model), "LORA_CACHE_FOLDER": str(tmp_path / "cache")}
    workers = [fleet.start("worker", **env) for _ in range(2)]
    for worker in workers:
        fleet.until(partial(fleet.has_been_ready, worker), "the worker is ready", process=worker)
    logs = [path.read_text().splitlines() for path in sorted(tmp_path.glob("worker-*.log"))]
    for lines in logs:
        (event,) = (line for line in lines if '"event": "model.licence"' in line)
        assert '"level": "warning"' in event
        assert str(model / "LICENSE.md") in event
    assert sorted(lines.count(NOTICE) for lines in logs) == [0, 1]
    (said,) = (lines for lines in logs if NOTICE in lines)
    assert any(str(model / "LICENSE.md") in line for line in said[said.index(NOTICE) :] if line.startswith("  read"))
