"""The demo's photographs: where each lies in an installed package, who made it, and under which licence.

They are read from the packages' own files, so nothing is downloaded and nothing is copied into this repository. Licence
and source are what the packages themselves say (scikit-image: the docstrings of skimage/data/_fetchers.py;
scikit-learn: sklearn/datasets/images/README.txt).
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageCms

CC0: Final = "https://creativecommons.org/publicdomain/zero/1.0/"
CC_BY: Final = "https://creativecommons.org/licenses/by/2.0/"
_SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_PNG_LEVEL: Final = 1
"""The demo has two cores for everything: level 6 would save a fifth of the bytes for four times the time."""


@dataclass(frozen=True)
class Photo:
    """One photograph and what must be said about it. `width` and `height` are pixels."""

    name: str
    package: str
    file: str
    """Path below the package's folder."""
    width: int
    height: int
    title: str
    author: str
    licence: str
    licence_url: str | None
    source_url: str | None

    @property
    def path(self) -> Path:
        """Where the file is. Raises FileNotFoundError where the package is not installed or came without it."""
        spec = importlib.util.find_spec(self.package)  # finds the folder without importing the package
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"the demo needs {self.package}: pip install 'fillfleet[embedded]'")
        path = Path(spec.origin).parent / self.file
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.package} is installed without {self.file}: install the demo's version of it"
            )
        return path


PHOTOS: Final = (
    Photo(
        name="coffee",
        package="skimage",
        file="data/coffee.png",
        width=600,
        height=400,
        title="Coffee cup, courtesy of Pikolo Espresso Bar",
        author="Rachel Michetti",
        licence="CC0",
        licence_url=CC0,
        source_url=None,
    ),
    Photo(
        name="rocket",
        package="skimage",
        file="data/rocket.jpg",
        width=640,
        height=427,
        title="Falcon 9 with DSCOVR before its launch (converted from Adobe RGB to sRGB here)",
        author="SpaceX",
        licence="Released in the public domain",
        licence_url=None,
        source_url="https://www.flickr.com/photos/spacexphotos/16511594820/in/photostream/",
    ),
    Photo(
        name="china",
        package="sklearn",
        file="datasets/images/china.jpg",
        width=640,
        height=427,
        title="china.jpg",
        author="danielbuechele",
        licence="CC BY 2.0",
        licence_url=CC_BY,
        source_url="https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/",
    ),
)

PHOTOS_BY_NAME: Final = {photo.name: photo for photo in PHOTOS}


def open_photo(photo: Photo) -> Image.Image:
    """Return the photograph as RGB in sRGB, at its own size. Raises FileNotFoundError."""
    with Image.open(photo.path) as opened:
        picture = opened.convert("RGB")
    profile = picture.info.get("icc_profile")
    picture.info = {}
    if not profile:
        return picture
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(own).lower():
        return picture
    converted = ImageCms.profileToProfile(picture, own, _SRGB, outputMode="RGB")
    if converted is None:
        raise ValueError(f"the colours of {photo.file} cannot be converted to sRGB")
    converted.info = {}
    return converted


def as_png(picture: Image.Image) -> bytes:
    """Return `picture` as a PNG file, without metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
