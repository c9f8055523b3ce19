"""Which image of a folder goes with which mask: by name alone, never by the order of a listing.

Two conventions: x.png + x_mask.png side by side, or the same stems in two folders. The two files of a pair may have
different extensions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from producer.manifest.trees import IMAGE_EXTENSIONS, Listing


@dataclass(frozen=True)
class Pair:
    """One image of a folder with what belongs to it, or what is wrong with it. Names are within the folder."""

    name: str
    """The image's; of a mask without an image the mask's."""
    id: str
    """Unique within the folder: the stem, or the whole name where another image has the same stem."""
    mask: str | None = None
    field: str = ""
    """Where something is wrong: image or mask_image."""
    reason: str = ""

    is_mask: bool = False
    """Whether this is a mask without an image."""


@dataclass(frozen=True)
class Pairing:
    """How masks are found."""

    suffix: str
    """x.png + x{suffix}.png; "" for none."""
    masks: str | None
    """How messages call the folder of masks with the same stems; None: they lie beside the images."""
    needed: bool
    """Whether an image without a mask is wrong."""

    def pairs(self, images: Listing, masks: Listing | None) -> Iterator[Pair]:
        """Yield the pairs of one folder, sorted by name. `masks` is the same folder of the other tree."""
        if self.masks is None:
            beside = {name for name in images.images if self.is_mask(name)}
            known = {name: images.images[name] for name in beside}
        else:
            beside = set()
            known = masks.images if masks is not None else {}
        stems = _by_stem(name for name in images.images if name not in beside)
        candidates = _by_stem(known)
        orphans = set(known)
        found: list[Pair] = []
        for stem, names in stems.items():
            mine = self._masks_of(stem, candidates)
            orphans.difference_update(mine)
            alone = len(names) == 1 and stem not in images.images
            found.extend(self._pair(images, name, stem if alone else name, mine, known) for name in names)
        found.extend(self._orphan(images.path, name) for name in orphans)
        # By bytes, as a bucket sorts its keys.
        yield from sorted(found, key=lambda pair: (os.fsencode(pair.name), pair.is_mask))

    def is_mask(self, name: str) -> bool:
        """Whether an image's name says that it is the mask of another one beside it."""
        return self.masks is None and bool(self.suffix) and _stem(name).endswith(self.suffix)

    def _masks_of(self, stem: str, candidates: Mapping[str, list[str]]) -> list[str]:
        named = candidates.get(stem + self.suffix, []) if self.suffix else []
        return named if self.masks is None else candidates.get(stem, []) or named

    def _pair(
        self, images: Listing, name: str, identity: str, masks: list[str], known: Mapping[str, str | None]
    ) -> Pair:
        if (wrong := images.images[name]) is not None:
            return Pair(name, identity, field="image", reason=wrong)
        if len(masks) > 1:
            reason = f"has {len(masks)} masks, {', '.join(masks)}; keep one of them"
            return Pair(name, identity, field="mask_image", reason=reason)
        if masks:
            wrong = known[masks[0]]
            if wrong is None:
                return Pair(name, identity, masks[0])
            return Pair(name, identity, field="mask_image", reason=f"its mask {masks[0]} {wrong}")
        if self.needed:
            return Pair(name, identity, field="mask_image", reason=self._missing(images.path, _stem(name)))
        return Pair(name, identity)

    def _missing(self, path: str, stem: str) -> str:
        where = f"{self.masks}/{path}{stem}" if self.masks is not None else f"{path}{stem}{self.suffix}"
        endings = f"{', '.join(IMAGE_EXTENSIONS[1:-1])} or {IMAGE_EXTENSIONS[-1]}"
        return f"has no mask: looked for {where}{IMAGE_EXTENSIONS[0]} (or {endings}); add it, or give one mask for all"

    def _orphan(self, path: str, name: str) -> Pair:
        stem = _stem(name)
        if self.masks is None:
            image = f"{path}{stem.removesuffix(self.suffix)}{IMAGE_EXTENSIONS[0]}"
            hint = f"or name the masks' ending (--mask-suffix) if {self.suffix!r} means something else here"
        else:
            image = f"{path}{stem}{IMAGE_EXTENSIONS[0]}"
            hint = "or remove the mask"
        reason = f"is a mask without an image: there is no {image} or the like; add it, {hint}"
        return Pair(name, name, field="image", reason=reason, is_mask=True)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for name in sorted(names):
        stems.setdefault(_stem(name), []).append(name)
    return stems
