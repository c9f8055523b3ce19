"""Opens a manifest, whatever form it has: told by its name, else by its first bytes, unless the user says which.

The forms themselves are read elsewhere in this folder; nothing here looks at a row.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from common.contract import shorten
from common.errors import Rejected
from producer.manifest.delimited import DelimitedManifest
from producer.manifest.jsonl import JsonlManifest
from producer.manifest.local_paths import Places
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.parts import PartsManifest
from producer.manifest.row import BadRow, ManifestError, ManifestRow
from producer.manifest.row_builder import RowBuilder
from producer.manifest.s3_location import as_prefix, below, is_s3, location_of
from producer.manifest.text import ByteSource, FileSource, StdinSource, first_bytes
from producer.manifest.trees import IMAGE_EXTENSIONS

if TYPE_CHECKING:
    from common.sources import ObjectSource
    from producer.manifest.owner_objects import OwnerObjects
    from producer.manifest.parquet import ParquetManifest

    Table = JsonlManifest | DelimitedManifest | ParquetManifest

STDIN: Final = "-"
_MAX_TABLE_BYTES: Final = 64 * 2**30  # ten million rows of 6 KB each; it has to fit on the disk for temporary files
_MAX_NAMES: Final = 100_000  # enough to tell a folder's form, and for the parts of any table
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


def open_manifest(source: str, options: ManifestOptions, *, objects: OwnerObjects | None = None) -> Manifest:
    """Return the manifest at `source`: a file, a folder, "-" (stdin) or, given `objects`, s3://bucket/key-or-prefix/.

    In buckets it looks at nothing but what the owner of `objects` may read. Raises ManifestError; of the store's
    trouble Unavailable and Transient.
    """
    if source == STDIN:
        return _open_stdin(options)
    if is_s3(source):
        try:
            return _open_object(source, options, objects)
        except Rejected as error:
            raise ManifestError(f"{shorten(source)}: {error.message}") from None
    path = Path(source).expanduser()
    shards = source.endswith((".tar", ".tar.gz", ".tgz")) and "{" in source  # shard-{0000..0099}.tar names many
    try:
        is_folder = path.is_dir()
        if not shards and not is_folder and not path.is_file():
            raise ManifestError(_no_file(source, exists=path.exists()))
        if shards or is_folder:
            return _open_folder(path, source, Form.WEBDATASET if shards else None, options, objects)
    except (OSError, ValueError):
        raise ManifestError(_no_file(source, exists=False)) from None
    if options.form is None and path.suffix.lower() in IMAGE_EXTENSIONS:
        raise ManifestError(f"{source} is one image; name the folder that it lies in, or a CSV that lists images")
    form = options.form or form_of_name(path.name) or form_of_content(first_bytes(FileSource(path)), path.name)
    if form not in _TABLES:
        return _open_files(form, source, options, objects)
    return _open_table(form, FileSource(path), options, _places(options, path.parent))


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


def form_of_names(names: Sequence[str]) -> Form:
    """Return the form of a folder or prefix by what lies in it (the names may have folders before them).

    Raises ManifestError where it holds tables of several forms.
    """
    files = [name.rpartition("/")[2] for name in names]
    if any(name in _METADATA for name in files):
        return Form.IMAGEFOLDER
    forms = {form_of_name(name) for name in files if not _is_hidden(name)}
    if Form.WEBDATASET in forms:
        return Form.WEBDATASET
    if not forms or not forms <= _TABLES:
        return Form.FOLDER  # there is something else: images
    if len(forms) > 1:
        listed = ", ".join(sorted(str(form) for form in forms))
        raise ManifestError(f"the folder holds tables of several forms ({listed}); say which: --form FORM")
    return next(form for form in forms if form is not None)


def _open_folder(
    path: Path, source: str, form: Form | None, options: ManifestOptions, objects: OwnerObjects | None
) -> Manifest:
    form = form or options.form
    names: list[str] = []
    if form is None or form in _TABLES:
        with os.scandir(path) as entries:
            names = sorted(
                entry.name for entry in islice(entries, _MAX_NAMES) if not entry.is_dir(follow_symlinks=False)
            )
        metadata = any((path / name).is_file() for name in _METADATA) or any(path.glob("*/metadata.*"))  # train/, test/
        form = form or (Form.IMAGEFOLDER if metadata else form_of_names(names))
    if form not in _TABLES:
        return _open_files(form, source, options, objects)
    places = _places(options, path)
    parts = [name for name in names if form_of_name(name) is form and not _is_hidden(name)]
    if not parts:
        raise ManifestError(f"{source} is a folder that holds no {form} file; name the file")
    openers = [partial(_open_table, form, FileSource(path / name), options, places) for name in parts]
    openers[0]()  # its columns are judged now
    return PartsManifest(path.name or source, form, openers)


def _places(options: ManifestOptions, folder: Path) -> Places:
    root = options.root or folder
    return Places(root, str(root), options.local_files)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))  # _SUCCESS, .DS_Store, ._part-0.csv: not rows


def _open_stdin(options: ManifestOptions) -> Manifest:
    source = StdinSource(sys.stdin.buffer)
    form = options.form or form_of_content(first_bytes(source), source.name)
    if form not in _TABLES or form is Form.PARQUET:
        raise ManifestError(f"{form} cannot be read from stdin; write it to a file or folder and name that")
    return _open_table(form, source, options, _places(options, Path()))


def _open_object(source: str, options: ManifestOptions, objects: OwnerObjects | None) -> Manifest:
    objects, at = location_of(source, objects)
    names: list[str] = []
    form = options.form or form_of_name(at.key)
    is_prefix = not at.key or at.key.endswith("/") or (form is None and objects.size(at) is None)
    if is_prefix and (form is None or form in _TABLES):
        at = as_prefix(at)
        names = [key[len(at.key) :] for key, _ in islice(objects.list_keys(at), _MAX_NAMES)]
        form = form or form_of_names(names)
    if form is None:
        raise ManifestError(f"{shorten(source)}: its name does not tell its form; say it, such as --form csv")
    if form not in _TABLES:
        return _open_files(form, source, options, objects)
    if not is_prefix:
        return _open_downloaded(form, at, options, objects)
    parts = [name for name in names if form_of_name(name) is form and not _is_hidden(name) and "/" not in name]
    if not parts:
        raise ManifestError(f"{shorten(source)} holds no {form} file; check the prefix")
    openers = [partial(_open_downloaded, form, below(at, name), options, objects) for name in parts]
    return PartsManifest(at.key.rstrip("/").rpartition("/")[2] or at.bucket, form, openers)


def _open_downloaded(form: Form, at: ObjectSource, options: ManifestOptions, objects: OwnerObjects) -> Table:
    """Return the table there, from a copy that lives as long as it: reading may take hours, with long pauses."""
    folder = tempfile.mkdtemp(prefix="fillfleet-manifest-")
    try:
        copy = Path(folder) / "table"
        objects.download(at, copy, max_bytes=_MAX_TABLE_BYTES)
        above = at.uri.rpartition("/")[0]
        places = _places(options, copy.parent) if options.root else Places(copy.parent, above, False, above)
        manifest = _open_table(form, FileSource(copy, at.key.rpartition("/")[2]), options, places)
    except Rejected as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ManifestError(f"{shorten(at.uri)}: {error.message}") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(manifest, shutil.rmtree, folder, ignore_errors=True)
    return manifest


def _open_table(form: Form, source: ByteSource, options: ManifestOptions, places: Places) -> Table:
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


def _open_files(form: Form, source: str, options: ManifestOptions, objects: OwnerObjects | None) -> Manifest:
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
