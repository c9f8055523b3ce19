"""Opens a manifest, whatever form it has: told by its name, else by its first bytes, unless the user says which.

The forms themselves are read elsewhere in this folder; nothing here looks at a row.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from common.contract import shorten
from common.errors import FillfleetError
from producer.manifest.delimited import DelimitedManifest
from producer.manifest.jsonl import JsonlManifest
from producer.manifest.local_paths import Places
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.row import BadRow, ManifestError, ManifestRow
from producer.manifest.row_builder import RowBuilder
from producer.manifest.text import ByteSource, FileSource, StdinSource, first_bytes

if TYPE_CHECKING:
    from common.objects import Objects

STDIN: Final = "-"
_S3: Final = "s3://"
_MAX_TABLE_BYTES: Final = 64 * 2**30  # ten million rows of 6 KB each; it has to fit on the disk for temporary files
_SUFFIXES: Final = {
    ".jsonl": Form.JSONL,
    ".ndjson": Form.JSONL,
    ".json": Form.JSONL,
    ".csv": Form.CSV,
    ".tsv": Form.TSV,
    ".tab": Form.TSV,
    ".parquet": Form.PARQUET,
    ".pq": Form.PARQUET,
    ".tar": Form.WEBDATASET,
    ".tgz": Form.WEBDATASET,
}
_TABLES: Final = frozenset({Form.JSONL, Form.CSV, Form.TSV, Form.PARQUET})
_METADATA: Final = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


class Manifest(Protocol):
    """A manifest that was opened: its columns are known to make sense, its rows are not read yet."""

    @property
    def form(self) -> Form:
        """What it is."""

    @property
    def name(self) -> str:
        """The name of its file or folder."""

    def rows(self) -> Iterator[ManifestRow | BadRow]:
        """Return a fresh pass over the rows (stdin has one only): numbers ascend, each comes exactly once.

        Raises ManifestError when it cannot go on.
        """


def open_manifest(source: str, options: ManifestOptions, *, objects: Objects | None = None) -> Manifest:
    """Return the manifest at `source`: a file, a folder, "-" (stdin) or, given `objects`, s3://bucket/key-or-prefix/.

    Raises ManifestError; of the store's trouble Unavailable and Transient.
    """
    if source == STDIN:
        return _open_stdin(options)
    if source.lower().startswith(_S3):
        return _open_object(source, options, objects)
    path = Path(source).expanduser()
    shards = source.endswith((".tar", ".tar.gz", ".tgz")) and "{" in source  # shard-{0000..0099}.tar names many
    try:
        is_folder = path.is_dir()
        if not shards and not is_folder and not path.is_file():
            raise ManifestError(_no_file(source, exists=path.exists()))
    except (OSError, ValueError):
        raise ManifestError(_no_file(source, exists=False)) from None
    form = options.form or (Form.WEBDATASET if shards else _form_of_folder(path) if is_folder else None)
    form = form or form_of_name(path.name) or form_of_content(first_bytes(FileSource(path)), path.name)
    if form not in _TABLES:
        return _open_files(form, source, options, objects)
    if is_folder:
        raise ManifestError(f"{source} is a folder, and {form} is a file; name the file")
    places = Places(options.root or path.parent, str(options.root or path.parent), options.local_files)
    return _open_table(form, FileSource(path), options, places)


def form_of_name(name: str) -> Form | None:
    """Return the form that a file's name says, or None."""
    stem = name.lower().removesuffix(".gz")
    return next((form for suffix, form in _SUFFIXES.items() if stem.endswith(suffix)), None)


def form_of_content(start: bytes, name: str) -> Form:
    """Return the form that begins with the (unzipped) bytes `start`. Raises ManifestError where it is none."""
    if start.startswith(b"PAR1"):
        return Form.PARQUET
    if start[257:262] == b"ustar":
        return Form.WEBDATASET
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise ManifestError(f"{name} holds no rows")
    if text.startswith((b"{", b"[")):
        return Form.JSONL
    line = text.splitlines()[0]
    return Form.TSV if line.count(b"\t") > line.count(b",") else Form.CSV


def _form_of_folder(path: Path) -> Form:
    if any((path / name).is_file() for name in _METADATA):
        return Form.IMAGEFOLDER
    for entry in path.iterdir():
        if form_of_name(entry.name) is Form.WEBDATASET:
            return Form.WEBDATASET
    if any(path.glob("*/metadata.*")):  # train/, test/ … each with its own
        return Form.IMAGEFOLDER
    return Form.FOLDER


def _open_stdin(options: ManifestOptions) -> Manifest:
    source = StdinSource(sys.stdin.buffer)
    form = options.form or form_of_content(first_bytes(source), source.name)
    if form not in _TABLES or form is Form.PARQUET:
        raise ManifestError(f"{form} cannot be read from stdin; write it to a file or folder and name that")
    root = options.root or Path.cwd()
    return _open_table(form, source, options, Places(root, str(options.root or "."), options.local_files))


def _open_object(source: str, options: ManifestOptions, objects: Objects | None) -> Manifest:
    if objects is None:
        raise ManifestError(f"{shorten(source)}: manifests in a bucket cannot be read here; name a file or a folder")
    bucket, _, key = source[len(_S3) :].partition("/")
    if bucket != objects.bucket:
        raise ManifestError(f"{shorten(source)} lies in a bucket that may not be read here; copy it to a file first")
    form = options.form or (form_of_name(key) if key and not key.endswith("/") else _form_of_prefix(key, objects))
    if form is None:
        raise ManifestError(f"{shorten(source)}: its name does not tell its form; say it, such as --form csv")
    if form not in _TABLES:
        return _open_files(form, source, options, objects)
    name = key.rpartition("/")[2]
    folder = tempfile.mkdtemp(prefix="fillfleet-manifest-")
    try:
        objects.download(key, Path(folder) / "table", max_bytes=_MAX_TABLE_BYTES)
        if options.root is not None:
            places = Places(options.root, str(options.root), options.local_files)
        else:
            above = source.rpartition("/")[0]
            places = Places(Path(folder), above, local_files=False, base_uri=above)
        manifest = _open_table(form, FileSource(Path(folder) / "table", name), options, places)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, FillfleetError) and error.code in {"object_not_found", "object_too_large"}:
            raise ManifestError(f"{shorten(source)}: {error.message}") from None
        raise
    weakref.finalize(manifest, shutil.rmtree, folder, ignore_errors=True)
    return manifest


def _form_of_prefix(prefix: str, objects: Objects) -> Form:
    """Return the form of what lies below `prefix`, told by its first thousand names."""
    names = [key.removeprefix(prefix) for (key, _), _ in zip(objects.list_keys(prefix), range(1000), strict=False)]
    if any(name.rpartition("/")[2] in _METADATA for name in names):
        return Form.IMAGEFOLDER
    if any(form_of_name(name) is Form.WEBDATASET for name in names):
        return Form.WEBDATASET
    return Form.FOLDER


def _open_table(form: Form, source: ByteSource, options: ManifestOptions, places: Places) -> Manifest:
    if options.masks is not None:
        raise ManifestError(
            f"{source.name}: a folder of masks goes with a folder of images; name each row's mask in a column instead"
        )
    builder = RowBuilder(options, places)
    if form is Form.JSONL:
        return JsonlManifest(source, options, builder)
    if form is not Form.PARQUET:
        return DelimitedManifest(source, form, options, builder)
    from producer.manifest.parquet import ParquetManifest  # takes a while to import, and few commands need it

    assert isinstance(source, FileSource)  # noqa: S101 - stdin was refused
    return ParquetManifest(source.path, source.name, options, builder)


def _open_files(form: Form, source: str, options: ManifestOptions, objects: Objects | None) -> Manifest:
    # Each brings along more than most commands need.
    if form is Form.WEBDATASET:
        from producer.manifest.webdataset import open_webdataset

        return open_webdataset(source, options, objects)
    if form is Form.IMAGEFOLDER:
        from producer.manifest.imagefolder import open_imagefolder

        return open_imagefolder(source, options, objects)
    from producer.manifest.folders import open_folder

    return open_folder(source, options, objects)


def _no_file(source: str, *, exists: bool) -> str:
    if exists:
        return f"{shorten(source)} is neither a file nor a folder; write it to a file first, or pipe it in as -"
    return f"there is no file or folder {shorten(source)}; check the path"
