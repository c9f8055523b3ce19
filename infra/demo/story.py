"""The demo from its first line to its last: start, submit, follow, save, check, write down, stop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from common.contract import Status
from infra.demo.batch import PAGE, TABLE, Batch, clear, collect, free_name, rows_of, saved_files, submit_batch
from infra.demo.calls import Submitted, follow, submit
from infra.demo.checks import judge
from infra.demo.client import Client
from infra.demo.command_line import CommandLine
from infra.demo.dataset import FOLDER, Inputs, site_files, write_dataset
from infra.demo.fleet import states_in_flower
from infra.demo.jobs import choose_jobs
from infra.demo.material import prepare
from infra.demo.model_card import BUNDLED, read_model_card
from infra.demo.outcome import Outcome
from infra.demo.photo_server import PhotoServer
from infra.demo.report import write_report
from infra.demo.run import Run, addresses_of
from infra.demo.sheet import draw_sheet
from infra.demo.system import System, SystemFolders
from infra.demo.terminal import (
    BatchProgress,
    batch_line,
    results_table,
    show_command,
    shown_path,
    waiting,
)
from infra.demo.trail import read_trails
from infra.embedded.ready_file import Ready

_BUNDLED_SECONDS: Final = 300.0
"""What all jobs together may take; on two idle cores it is a twentieth of that."""
_OTHER_SECONDS: Final = 3600.0
_FLOWER_SECONDS: Final = 5.0
"""Flower hears of a job's end through Redis, a moment after Postgres and the API."""


def run_demo(console: Console, folders: SystemFolders, output: Path, *, keep: bool) -> Run:
    """Run the whole demo; return what it found. With `keep` it returns only at Ctrl-C, after having said all.

    Raises FillfleetError (StartFailed and others), ApiError, requests.RequestException and OSError where it cannot go
    on, KeyboardInterrupt. The system is stopped in any case.
    """
    fill_model = os.environ.get("FILL_MODEL") or BUNDLED
    bundled = fill_model == BUNDLED
    inputs = [(job, prepare(job)) for job in choose_jobs(bundled_model=bundled)]
    output.mkdir(parents=True, exist_ok=True)
    with PhotoServer(site_files(job for job, _ in inputs)) as site:
        console.print("[bold]Starting:[/bold] PostgreSQL, Valkey, SeaweedFS, API, dispatcher, worker, Flower")
        began = time.monotonic()
        system = System(folders, _environment(folders, site), lambda said: _say(console, said), with_loras=bundled)
        try:
            with waiting(console, "starting"):
                system.start()
            start_seconds = time.monotonic() - began
            patience = _BUNDLED_SECONDS if bundled else _OTHER_SECONDS
            outcomes, batch, batch_seconds = _do_jobs(console, system.ready, inputs, site, output, patience)
            run = Run(
                judged=judge(outcomes),
                batch=batch,
                card=read_model_card(fill_model),
                at=datetime.now().astimezone(),
                start_seconds=start_seconds,
                batch_seconds=batch_seconds,
                addresses=addresses_of(system.ready),
                pids=system.ready.pids,
            )
            _write_down(console, run, output)
            if keep:
                _stay(console, system)
        finally:
            with waiting(console, "stopping"):
                system.stop()
    return run


def _environment(folders: SystemFolders, site: PhotoServer) -> dict[str, str]:
    allowed = [host for host in (os.environ.get("FETCH_ALLOW_HOSTS"), site.host) if host]
    return {"FETCH_ALLOW_HOSTS": ",".join(allowed), "LORA_FOLDER": str(folders.loras.resolve())}


def _say(console: Console, said: str) -> None:
    console.print(f"  [dim]{escape(said)}[/dim]", soft_wrap=True)


def _do_jobs(
    console: Console, ready: Ready, inputs: Inputs, site: PhotoServer, output: Path, patience: float
) -> tuple[list[Outcome], Batch, float]:
    """Return what became of each job, in order, and of the batch, and how many seconds that took to the last end."""
    images = sum(job.images for job, _ in inputs if job.expected is Status.COMPLETED)
    terminal = CommandLine(ready, output)
    with Client(ready.api_url, ready.api_key) as client:
        name = free_name(client)
        clear(output, name)
        dataset = write_dataset(inputs, output / FOLDER, site)
        began = time.monotonic()
        with BatchProgress(console, jobs=len(inputs), images=images) as progress:
            calls = [(job, job.call, material) for job, material in inputs if job.call is not None]
            console.print(f"[bold]Single calls:[/bold] {len(calls)} jobs, each a request to the HTTP API")
            taken = [submit(client, job, call, material, site) for job, call, material in calls]
            console.print(
                f"[bold]A batch:[/bold] {len(dataset.rows)} jobs, the rows of a manifest; one more row is bad"
            )
            where = f"in {escape(shown_path(output))}, with FILLFLEET_URL and FILLFLEET_API_KEY set"
            console.print(f"  [dim]{where}:[/dim]", soft_wrap=True)
            first = submit_batch(terminal, name)
            show_command(console, first)
            taken += rows_of(client, name, inputs)
            ended = follow(client, name, taken, progress.ended, seconds=patience)
        seconds = time.monotonic() - began
        with waiting(console, "saving the results"):
            batch = collect(terminal, client, name, dataset, output, first)
        for said in batch.said[1:]:
            show_command(console, said)
        by_name = {one.job.name: one for one in ended}
        in_order = [by_name[job.name] for job, _ in inputs]
        return _outcomes(client, ready, in_order, batch, saved_files(output)), batch, seconds


def _outcomes(
    client: Client, ready: Ready, ended: Sequence[Submitted], batch: Batch, saved: Mapping[str, tuple[bytes, ...]]
) -> list[Outcome]:
    ids = [one.prediction.id for one in ended]
    trails = read_trails(ready.database_url, ids)
    states = states_in_flower(ready, ids, seconds=_FLOWER_SECONDS)
    rows = {row["custom_id"]: row for row in batch.table}
    return [
        Outcome(
            job=one.job,
            material=one.material,
            prediction=one.prediction,
            files=saved.get(one.job.name, ())
            if one.job.call is None
            else tuple(client.download(url) for url in one.prediction.outputs),
            trail=trails.get(one.prediction.id),
            in_flower=states.get(one.prediction.id, ""),
            row=rows.get(one.job.name) if one.job.call is None else None,
        )
        for one in ended
    ]


def _write_down(console: Console, run: Run, output: Path) -> None:
    with waiting(console, "writing the report"):
        write_report(run, output / "report.html")
        draw_sheet(run).save(output / "sheet.png", optimize=True)
    console.print()
    console.print(results_table(run.judged))
    console.print()
    console.print(batch_line(run))
    made = {"Report": "report.html", "Sheet": "sheet.png", "Batch": PAGE, "Table": TABLE}
    for name, file in made.items():
        console.print(f"{name + ':':<7} {escape(str((output / file).resolve()))}", soft_wrap=True)


def _stay(console: Console, system: System) -> None:
    ready = system.ready
    console.print("\n[bold]The system stays up until Ctrl-C.[/bold]")
    rows = {
        "API": f"{ready.api_url}  (how to use it: {ready.api_url}/docs)",
        "API key": ready.api_key,
        "Flower": f"{ready.flower_url}  user {ready.flower_user}, password {ready.flower_password}",
        "Results": f"s3://{ready.s3_bucket} at {ready.s3_endpoint}",
    }
    for name, value in rows.items():
        console.print(f"  [bold]{name:<8}[/bold] {escape(value)}", soft_wrap=True)
    try:
        system.wait_for_its_end()
    except KeyboardInterrupt:
        console.print("Stopping.")
