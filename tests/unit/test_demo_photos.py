"""The demo's photographs come with installed packages, and are named with the licences that these state."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from infra.demo.photos import PHOTOS, Photo, as_png, open_photo

each_photo = pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
STATEMENTS = {"skimage": "data/_fetchers.py", "sklearn": "datasets/images/README.txt"}


def statement_of(photo: Photo) -> str:
    """What the package says of its photographs."""
    spec = importlib.util.find_spec(photo.package)
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / STATEMENTS[photo.package]).read_text(encoding="utf-8")


@each_photo
def test_a_photograph_is_in_its_package_and_opens_without_a_network(photo: Photo) -> None:
    picture = open_photo(photo)
    assert (picture.mode, picture.size) == ("RGB", (photo.width, photo.height))
    assert len(picture.resize((64, 64)).getcolors(64 * 64) or ()) > 500, "a photograph, not a drawing"


@each_photo
def test_a_photograph_names_the_source_and_author_that_its_package_names(photo: Photo) -> None:
    said = statement_of(photo)
    assert photo.author in said
    assert photo.source_url is None or photo.source_url in said


@each_photo
def test_a_photograph_has_a_licence_and_one_that_asks_for_it_a_link_to_its_text(photo: Photo) -> None:
    assert photo.licence
    if photo.licence.startswith("CC"):
        assert photo.licence_url is not None
    if photo.licence.startswith("CC BY"):
        assert photo.source_url is not None


def test_a_package_that_is_missing_is_said_with_the_way_to_get_it() -> None:
    lost = Photo("x", "no_such_package", "x.png", 1, 1, "x", "x", "x", None, None)
    with pytest.raises(FileNotFoundError, match="pip install"):
        open_photo(lost)


def test_what_is_uploaded_carries_no_metadata_and_the_very_pixels() -> None:
    import io

    from PIL import Image

    picture = open_photo(PHOTOS[0])
    with Image.open(io.BytesIO(as_png(picture))) as sent:
        assert (sent.format, sent.info) == ("PNG", {})
        assert sent.tobytes() == picture.tobytes()
