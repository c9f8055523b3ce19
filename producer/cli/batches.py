"""`fillfleet status | pause | resume | cancel | retry`: looks at batches and changes how they go on."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from producer.batch_wire import BatchDetailWire, BatchPageWire, BatchWire
from producer.batches import Batch
from producer.cli.batch_picture import detail, state_of, state_text
from producer.cli.command import GO_ON, BatchCommand, json_option
from producer.cli.connection import Access, connected
from producer.cli.figures import count, when
from producer.doors.door import Door

_AGAIN = "The same command goes on where it was."


@click.command(cls=BatchCommand)
@click.argument("batch", required=False)
@click.option("--page", type=click.IntRange(1), default=1, help="Which page of the list; 1 has the newest.")
@click.option("--page-size", type=click.IntRange(1, 100), default=20, show_default=True, help="Batches on a page.")
@json_option
def status(access: Access, batch: str | None, page: int, page_size: int, as_json: bool) -> None:
    """List your batches, or show all about one, by name or id."""
    with connected(access) as fleet:
        if batch is not None:
            _show(fleet.door, fleet.door.find(batch), as_json=as_json)
            return
        found, total = fleet.door.list(page=page, page_size=page_size)
    if as_json:
        items = [BatchWire.of(one) for one in found]
        click.echo(BatchPageWire(page=page, page_size=page_size, total=total, items=items).model_dump_json())
    elif not total:
        click.echo("No batches yet; `fillfleet submit MANIFEST` makes one.")
    elif not found:
        click.echo(f"No batches on page {page}; there are {count(total)} in all.")
    else:
        Console(highlight=False).print(_table(found))
        if total > page * page_size:
            click.echo(f"{count(total)} in all; the older ones: --page {page + 1}")


@click.command(cls=BatchCommand)
@click.argument("batch")
@json_option
def pause(access: Access, batch: str, as_json: bool) -> None:
    """Let nothing more of a batch start; what runs is finished."""
    with connected(access) as fleet:
        done = fleet.door.pause(fleet.door.find(batch))
    _told(done, as_json, f"{done.name} is paused. Go on: fillfleet resume {shlex.quote(done.name)}{access.again}")


@click.command(cls=BatchCommand)
@click.argument("batch")
@json_option
def resume(access: Access, batch: str, as_json: bool) -> None:
    """Let a paused batch go on."""
    with connected(access) as fleet:
        done = fleet.door.resume(fleet.door.find(batch))
    _told(done, as_json, f"{done.name} goes on: {count(done.counts.left, 'row')} left.")


@click.command(cls=BatchCommand)
@click.argument("batch")
@json_option
def cancel(access: Access, batch: str, as_json: bool) -> None:
    """End a batch: what waits ends at once, what runs within a step. What is done stays."""
    with connected(access) as fleet:
        before = fleet.door.find(batch)
        done = fleet.door.cancel(before)
    again = f"fillfleet retry {shlex.quote(done.name)}{access.again}"
    if before.state.is_over:
        _told(done, as_json, f"{done.name} was over already ({state_of(before)}); nothing was changed.")
        return
    _told(
        done, as_json, f"{done.name} is cancelled; {count(done.counts.completed, 'row')} had completed. Undo: {again}"
    )


@click.command(cls=BatchCommand)
@click.argument("batch")
@click.option("--failed", is_flag=True, help="All failed rows, cancelled ones too; that is what happens in any case.")
@click.option("--watch", is_flag=True, help="Watch it to its end (exit code 3 if rows failed).")
@json_option
@click.pass_context
def retry(ctx: click.Context, access: Access, batch: str, failed: bool, watch: bool, as_json: bool) -> None:  # noqa: ARG001
    """Run the failed rows of a batch again, cancelled ones too."""
    ctx.meta[GO_ON] = _AGAIN
    with connected(access) as fleet:
        found = fleet.door.find(batch)
        number = fleet.door.retry(found)
        found = fleet.door.find(found.id.hex)
        if as_json:
            click.echo(json.dumps({"retried": number, "batch": BatchWire.of(found).model_dump(mode="json")}))
        elif number:
            click.echo(f"{found.name}: {count(number, 'row')} put back.")
        else:
            click.echo(f"{found.name}: no row had failed; nothing was changed.")
        if watch:
            from producer.cli.watch import follow

            ctx.meta[GO_ON] = "The batch goes on."
            sys.exit(follow(fleet.door, found, quiet=access.quiet, as_json=as_json))


def _show(door: Door, batch: Batch, *, as_json: bool) -> None:
    workers = list(door.workers(batch)) if batch.counts.processing else []
    causes = list(door.causes(batch)) if batch.counts.failed else []
    if as_json:
        click.echo(BatchDetailWire.detailed(batch, workers, causes).model_dump_json())
    else:
        Console(highlight=False).print(detail(batch, workers, causes))


def _table(found: Sequence[Batch]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("batch", overflow="fold")  # never cut off: it is what the other commands are given
    table.add_column("state", no_wrap=True)
    for name in ("rows", "done", "failed", "left", "bad"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    for batch in found:
        counts = batch.counts
        numbers = (counts.total, counts.completed, counts.failed, counts.left, batch.rejected)
        table.add_row(Text(batch.name), state_text(batch), *map(count, numbers), when(batch.created_at))
    return table


def _told(batch: Batch, as_json: bool, text: str) -> None:
    click.echo(BatchWire.of(batch).model_dump_json() if as_json else text)
