"""`fillfleet lora add | list | verify`: the operator's LoRA folder, and whether a file fits the model."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import click

from common.atomic_file import atomic_file
from common.errors import FillfleetError, Rejected
from common.settings import Settings, get_settings

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Report:
    """What is known of one file. Where it is no LoRA for this model, `code` and `reason` say why, the rest is None."""

    name: str
    bytes: int | None = None
    rank: int | None = None
    layers: int | None = None
    sha256: str | None = None
    code: str | None = None
    reason: str | None = None


@click.group()
def lora() -> None:
    """Keep LoRAs under short names, and check whether files fit the model."""


@lora.command()
@click.argument("source")
@click.option("--name", help="What jobs will call it; by default the file's name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(source: str, name: str | None, as_json: bool) -> None:
    """Check SOURCE (a file, an https URL or a hub id) and copy it into LORA_FOLDER."""
    settings = get_settings()
    folder = _folder(settings)
    name = name or _default_name(source)
    _check_name(name)
    with TemporaryDirectory(prefix="fillfleet-lora-") as scratch:
        path = _obtain(source, settings, Path(scratch))
        report = _verify(path, settings, name)
        if report.code is not None:
            raise click.ClickException(f"{source}: this file {report.reason}")
        target = folder / (name + SUFFIX)
        if target.exists() and _sha256(target) != report.sha256:
            raise click.ClickException(f"there is another LoRA named {name} already; give this one a --name")
        with path.open("rb") as original, atomic_file(target) as copy:
            shutil.copyfileobj(original, copy)
        target.chmod(0o644)  # the worker may run as another user
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        click.echo(f'added {name} (rank {report.rank}, {report.layers} layers); use it as {{"path": "{name}"}}')


@lora.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_loras(as_json: bool) -> None:
    """List the LoRAs of LORA_FOLDER by the names that jobs use."""
    settings = get_settings()
    folder = _folder(settings)
    reports = [_glance(path, settings) for path in sorted(folder.glob(f"*{SUFFIX}")) if path.is_file()]
    if not reports and not as_json:
        click.echo(f"no LoRAs in {folder}; add one with: fillfleet lora add FILE")
        return
    _print(reports, as_json)


@lora.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(files: tuple[Path, ...], as_json: bool) -> None:
    """Check whether FILES are LoRAs that fit the model of FILL_MODEL; the exit code is 1 where one does not."""
    settings = get_settings()
    reports = [_verify(path, settings, str(path)) for path in files]
    _print(reports, as_json)
    if any(report.code is not None for report in reports):
        sys.exit(1)


def _folder(settings: Settings) -> Path:
    if settings.lora_folder is None:
        raise click.ClickException("LORA_FOLDER is not set; set it to the folder in which the worker looks for LoRAs")
    return settings.lora_folder.expanduser()


def _default_name(source: str) -> str:
    """Return the last part of a path, URL or hub id, without its suffix and with plain characters only."""
    path = unquote(urlsplit(source).path) if "://" in source else source
    last = re.split(r"[/\\:]", path.rstrip("/"))[-1].removesuffix(SUFFIX)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "lora"


def _check_name(name: str) -> None:
    from worker.loras.source import NAME

    if not NAME.fullmatch(name):
        raise click.ClickException(f"--name {name!r}: letters, digits, spaces, . _ and - only, at most 128 characters")


def _obtain(source: str, settings: Settings, scratch: Path) -> Path:
    """Return the file that `source` names, downloaded into `scratch` where it is not a local one."""
    if Path(source).expanduser().is_file():
        return Path(source).expanduser()
    if "/" not in source or source.startswith((".", "/", "~")):
        raise click.ClickException(f"{source}: there is no such file; give a file, an https URL or a hub id (org/name)")
    from common.fetch import Fetcher
    from worker.loras.source import LoraSource

    elsewhere = settings.model_copy(update={"lora_cache_folder": scratch, "lora_folder": None})
    try:
        return LoraSource(elsewhere, Fetcher(settings), None).resolve(source, owner=None, what="SOURCE").path
    except FillfleetError as error:
        raise click.ClickException(error.message) from error


def _verify(path: Path, settings: Settings, name: str) -> Report:
    """Return the report of a full check against the model's shapes. Raises ClickException where there is no model."""
    from worker.loras.file import verify_lora
    from worker.model_folder import find_shapes

    try:
        shapes = find_shapes(settings)
    except FillfleetError as error:
        raise click.ClickException(error.message) from error
    try:
        verified = verify_lora(path, shapes, settings, what="")
    except Rejected as error:
        return Report(name, code=error.code, reason=error.message.strip())
    except OSError as error:
        return Report(name, code="lora_not_found", reason=f"cannot be read: {error.strerror}")
    layers = sum(len(part) for part in verified.layers.values())
    return Report(name, verified.file_bytes, verified.rank, layers, _sha256(path))


def _glance(path: Path, settings: Settings) -> Report:
    """Return what the header tells, without reading the weights or the model."""
    from worker.loras.header import read_header

    name = path.name.removesuffix(SUFFIX)
    try:
        header = read_header(path, max_bytes=settings.lora_max_bytes, max_rank=settings.lora_max_rank)
    except Rejected as error:
        return Report(name, code=error.code, reason=error.message)
    return Report(name, header.file_bytes, header.rank)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print(reports: list[Report], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(report) for report in reports]))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("LoRA", "usable", "rank", "MiB", "why not", box=None)
    for one in reports:
        size = f"{one.bytes / 2**20:.1f}" if one.bytes is not None else ""
        usable = "no" if one.code else "yes"
        table.add_row(escape(one.name), usable, str(one.rank or ""), size, escape(one.reason or ""))
    Console().print(table)
