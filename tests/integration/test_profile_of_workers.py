"""Profiles in real workers: what a result says that it was made with, and what a contradiction ends in."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from tests.support.fleet import Fleet


def test_a_fast_worker_fills_the_same_job_alike_says_how_and_keeps_its_log_in_json(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.start("dispatcher")
    worker = fleet.start("worker", FILL_PROFILE="fast", FILL_STEP_CACHE_THRESHOLD="0.2", LOG_FORMAT="json")
    fleet.until(partial(fleet.has_been_ready, worker), "the worker is ready", process=worker)
    jobs = [fleet.submit(num_inference_steps=12, prompt=prompt) for prompt in ("a red circle", "", "a red circle")]
    fleet.until(fleet.all_over, "all jobs are done", process=worker)

    results = [fleet.row(job)["result"] for job in jobs]

    version = results[0]["model_version"]
    assert version["profile"] == "fast"
    assert version["step_cache"] == "TaylorSeer, threshold 0.2, warm-up 4"
    assert "cache-dit" in version
    hashes = [result["outputs"][0]["sha256"] for result in results]
    assert hashes[0] == hashes[2] != hashes[1]
    (log,) = tmp_path.glob("worker-*.log")
    for line in log.read_text().splitlines():
        json.loads(line)


def test_a_worker_whose_profile_contradicts_itself_ends_before_it_loads_and_says_what_to_set(fleet: Fleet) -> None:
    worker = fleet.start("worker", FILL_QUANTIZATION="int8")
    fleet.until(lambda: worker.exit_code() is not None, "the worker has ended")

    assert worker.exit_code() != 0
    assert "profile_is_exact" in worker.output()
    assert "set FILL_PROFILE=fast, or leave FILL_QUANTIZATION out" in worker.output()
    assert "worker.ready" not in worker.output()
