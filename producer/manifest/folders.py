"""Folders of images as manifests: pairs side by side, two folders with the same stems, one mask for all, or none.

Read a folder at a time, here and in the bucket, in the same order; nothing is opened but captions (x.txt beside x.png
is its prompt).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from common.contract import MAX_PROMPT_CHARS, shorten
from common.errors import Rejected
from producer.manifest.local_paths import Places
from producer.manifest.options import Form, ManifestOptions
from producer.manifest.owner_objects import OwnerObjects
from producer.manifest.pairs import Pair, Pairing
from producer.manifest.row import BadRow, Content, ManifestError, ManifestRow
from producer.manifest.row_builder import RowBuilder, bad_text
from producer.manifest.s3_location import S3Tree, below, has_keys, is_s3, prefix_of
from producer.manifest.trees import CAPTION, IMAGE_EXTENSIONS, Listing, LocalTree, Tree

IMAGES: Final = "images"
MASKS: Final = "masks"
_MAX_CAPTION_BYTES: Final = 4 * MAX_PROMPT_CHARS  # UTF-8 takes at most four bytes a character


class FolderManifest:
    """A folder or prefix of images, with its masks."""

    form = Form.FOLDER

    def __init__(self, name: str, images: Tree, masks: Tree | None, options: ManifestOptions, places: Places) -> None:
        """`masks` is another tree with the same stems; None: the masks lie beside the images, if there are any.

        Raises ManifestError where there is no image.
        """
        self.name = name
        self._images = images
        self._masks = masks
        self._builder = RowBuilder(options, places)
        mask_for_all = options.mask is not None or "mask_image" in options.constants
        self._pairing = Pairing(options.mask_suffix, None if masks is None else masks.name, needed=False)
        if self._survey() and not mask_for_all:
            self._pairing = replace(self._pairing, needed=True)

    def rows(self) -> Iterator[ManifestRow | BadRow]:
        """Yield the rows. Raises ManifestError where the folder is gone."""
        number = 0
        try:
            for images, masks in _together(self._images, self._masks):
                for pair in self._pairing.pairs(images, masks):
                    number += 1
                    yield self._row(number, images, pair)
                for listing, tree in ((images, self._images), (masks, self._masks)):
                    if listing is not None and tree is not None:
                        for name, reason in listing.broken:
                            number += 1
                            yield _bad(number, tree.name, f"{listing.path}{name}", "image", reason)
        except OSError:
            raise ManifestError(f"{self.name} cannot be read (any more); check the folder and its disk") from None

    def _row(self, number: int, listing: Listing, pair: Pair) -> ManifestRow | BadRow:
        path = f"{listing.path}{pair.name}"
        if pair.is_mask:
            name = self._images.name if self._masks is None else self._masks.name
            return _bad(number, name, path, pair.field, pair.reason)
        identity = f"{listing.path}{pair.id}"
        if pair.reason:
            return _bad(number, self._images.name, path, pair.field, pair.reason, identity)
        body: dict[str, Any] = {}
        caption = os.path.splitext(pair.name)[0] + CAPTION
        if caption in listing.captions:
            try:
                body["prompt"] = self._caption(f"{listing.path}{caption}")
            except ValueError as error:
                return _bad(number, self._images.name, f"{listing.path}{caption}", "prompt", str(error), identity)
        files: dict[str, Content] = {}
        _put(body, files, "image", self._images.content(path))
        if pair.mask is not None:
            _put(body, files, "mask_image", (self._masks or self._images).content(f"{listing.path}{pair.mask}"))
        return self._builder.build(number, f"{self._images.name}/{path}", body, identity, files=files)

    def _caption(self, path: str) -> str:
        """Return the prompt of a caption file. Raises ValueError in words for the user."""
        too_long = f"is longer than the {MAX_PROMPT_CHARS} characters that a prompt may have; shorten it"
        try:
            data = self._images.text(path, _MAX_CAPTION_BYTES)
        except OSError:
            raise ValueError("cannot be read; check the file") from None
        except Rejected as error:
            raise ValueError(too_long if error.code == "object_too_large" else error.message) from None
        except ManifestError as error:  # a name in the bucket that no URI can hold
            raise ValueError(error.message) from None
        if len(data) > _MAX_CAPTION_BYTES:
            raise ValueError(too_long)
        try:
            text = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
        if (flaw := bad_text(text)) is not None:
            raise ValueError(flaw)
        return text

    def _survey(self) -> bool:
        """Return whether any mask lies beside the images: then one without is a mistake.

        Raises ManifestError where there is nothing to make a row of.
        """
        some = False
        for images, masks in _together(self._images, self._masks):
            pairs = list(self._pairing.pairs(images, masks))
            some = some or bool(pairs or images.broken)
            if self._masks is not None and some:
                return True
            if any(pair.mask is not None or pair.is_mask or pair.field == "mask_image" for pair in pairs):
                return True
        if not some:
            raise ManifestError(
                f"{self.name} holds no images ({', '.join(IMAGE_EXTENSIONS)}); name the folder that holds them"
            )
        return False


def open_folder(source: str, options: ManifestOptions, objects: OwnerObjects | None) -> FolderManifest:
    """Return the manifest that a folder or an s3:// prefix of images is.

    Raises ManifestError; of the store's trouble Unavailable and Transient.
    """
    if is_s3(source):
        return _open_prefix(source, options, objects)
    if not options.local_files:
        raise ManifestError(f"{shorten(source)} is a path, and the server cannot read your files; name s3://bucket/…")
    folder = Path(source).expanduser()
    name = folder.name or os.path.basename(os.path.realpath(folder)) or source
    images_at, masks_at = folder, options.masks
    if masks_at is None and (folder / IMAGES).is_dir() and (folder / MASKS).is_dir():
        images_at, masks_at = folder / IMAGES, folder / MASKS
    try:
        images = LocalTree(images_at, images_at.relative_to(folder.parent).as_posix(), options.root, skip=masks_at)
        masks = None if masks_at is None else LocalTree(masks_at, _mask_name(masks_at, folder), options.root)
        return FolderManifest(name, images, masks, options, Places(options.root or folder, str(options.root or folder)))
    except OSError:
        for part in (folder, masks_at, options.root):
            if part is not None and not part.is_dir():
                raise ManifestError(f"there is no folder {shorten(str(part))}; check the path") from None
        raise ManifestError(f"{shorten(source)} cannot be read; give yourself the right to read it") from None


def _open_prefix(source: str, options: ManifestOptions, objects: OwnerObjects | None) -> FolderManifest:
    objects, prefix = prefix_of(source, objects)
    shown = prefix.uri.rstrip("/")
    masks: Tree | None = None
    images: Tree = S3Tree(objects, prefix, shown)
    if options.masks is not None:
        if not options.local_files:
            raise ManifestError("the folder of masks is a path, and the server cannot read your files")
        try:
            masks = LocalTree(options.masks, str(options.masks), options.root)
        except OSError:
            raise ManifestError(f"there is no folder {shorten(str(options.masks))}; check the path") from None
    else:
        images_at, masks_at = below(prefix, f"{IMAGES}/"), below(prefix, f"{MASKS}/")
        if has_keys(objects, images_at) and has_keys(objects, masks_at):
            images = S3Tree(objects, images_at, f"{shown}/{IMAGES}")
            masks = S3Tree(objects, masks_at, f"{shown}/{MASKS}")
    name = prefix.key.rstrip("/").rpartition("/")[2] or prefix.bucket
    return FolderManifest(name, images, masks, options, Places(Path.cwd(), shown, False, shown))


def _together(images: Tree, masks: Tree | None) -> Iterator[tuple[Listing, Listing | None]]:
    """Yield the folders of both trees side by side; a folder that only one has is empty in the other."""
    if masks is None:
        yield from ((listing, None) for listing in images.listings())
        return
    left, right = images.listings(), masks.listings()
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.order < other.order):
            assert one is not None  # noqa: S101 - the loop goes on while one of them is there
            yield one, None
            one = next(left, None)
        elif one is None or other.order < one.order:
            yield Listing(other.path), other
            other = next(right, None)
        else:
            yield one, other
            one, other = next(left, None), next(right, None)


def _put(body: dict[str, Any], files: dict[str, Content], field: str, content: Content | str) -> None:
    if isinstance(content, str):
        body[field] = content
    else:
        files[field] = content


def _bad(number: int, tree: str, path: str, field: str, reason: str, identity: str | None = None) -> BadRow:
    # A name that is no UTF-8 can be neither shown nor stored.
    shown = path.encode(errors="surrogateescape").decode(errors="replace")
    identity = identity if shown == path else None
    return BadRow(number, f"{tree}/{shown}", field, shorten(shown), reason, identity)


def _mask_name(masks: Path, folder: Path) -> str:
    return masks.relative_to(folder.parent).as_posix() if masks.is_relative_to(folder) else str(masks)
