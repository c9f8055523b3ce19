"""The recipes of docs/cookbook.md, run as they stand there against a fleet whose device only sleeps.

Here are only the datasets that they speak of, and what a user would look for afterwards.
"""

from __future__ import annotations

import csv
import io
import json
from collections import ChainMap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from common.database import make_engine
from common.objects import Objects
from common.settings import Settings
from infra.embedded.servers import EmbeddedServers
from tests.support.api import running_api
from tests.support.cookbook import Done, Kitchen, recipes
from tests.support.databases import fresh_database
from tests.support.environment import settings_for
from tests.support.fleet import running_fleet
from tests.support.lora_site import Site, running_site

BUCKET = "datasets"
READABLE = f"*=s3://{BUCKET}/"
RECIPES = recipes()
OBJECTS = "Remove objects from a folder of photographs"
CSV = "Outpaint product pictures from a CSV"
SHARDS = "A WebDataset on S3"
FAILURES = "Run only the failures again"
TABLES = "Read the results with pandas or DuckDB"
PHOTOS = ("harbour", "market square", "street")
PRODUCTS = {"mug-1": "a kitchen table", "mug-2": "a desk,\nin the morning", "lamp": ""}
SAMPLES = ("castle", "forest", "late", "panorama", "river")
LATE = "/pictures/late.png"
"""An image that its server does not have at first."""


def picture(width: int, height: int) -> Image.Image:
    """A picture in which no two neighbouring pixels are alike."""
    values = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def mask(width: int, height: int) -> Image.Image:
    """A white rectangle in the middle."""
    image = Image.new("L", (width, height))
    image.paste(255, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    return image


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A web server of pictures."""
    with running_site() as site:
        yield site


@pytest.fixture(scope="module")
def settings(servers: EmbeddedServers, migrated_template: str, site: Site) -> Iterator[Settings]:
    """Settings of a fleet that may read the bucket of datasets, and fetch from the site."""
    with fresh_database(servers, migrated_template) as url:
        yield settings_for(servers, url, fetch_allow_hosts=(site.host,), s3_read_prefixes=READABLE)


@pytest.fixture(scope="module")
def kitchen(
    servers: EmbeddedServers, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kitchen]:
    """An empty folder, and the environment of a user of the fleet."""
    engine = make_engine(settings)
    with (
        running_fleet(servers.guardian, settings, engine, tmp_path_factory.mktemp("logs")) as fleet,
        running_api(settings) as api,
    ):
        fleet.start("dispatcher", S3_READ_PREFIXES=READABLE)
        fleet.start_sleeping_worker(step_seconds=0.001, S3_READ_PREFIXES=READABLE)
        environment = {"FILLFLEET_URL": api.url, "FILLFLEET_API_KEY": api.account().key}
        yield Kitchen(tmp_path_factory.mktemp("kitchen"), environment)
    engine.dispose()


@pytest.fixture(scope="module")
def cooked(kitchen: Kitchen, settings: Settings, site: Site) -> dict[str, list[Done]]:
    """What the steps of each recipe have left. Independent ones are cooked at the same time."""
    take_photos(kitchen.folder / "photos")
    list_products(kitchen.folder, site)
    put_shards(kitchen.folder, settings, site)

    def cook(*titles: str) -> dict[str, list[Done]]:
        done = {}
        for title in titles:
            if title == FAILURES:
                site.files[LATE] = png(picture(320, 256))
            done[title] = kitchen.cook(RECIPES[title])
        return done

    with ThreadPoolExecutor() as cooks:
        return dict(
            ChainMap(*cooks.map(lambda titles: cook(*titles), [(SHARDS, TABLES, FAILURES), (OBJECTS,), (CSV,)]))
        )


def take_photos(folder: Path) -> None:
    folder.mkdir()
    for name in PHOTOS:
        picture(320, 256).save(folder / f"{name}.jpg", quality=90)
        mask(320, 256).save(folder / f"{name}_mask.png")


def list_products(folder: Path, site: Site) -> None:
    site.files["/pictures/lamp.png"] = png(picture(320, 320))
    picture(320, 320).save(folder / "mug.jpg")
    with (folder / "products.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sku", "picture", "scene", "price"])
        for sku, scene in PRODUCTS.items():
            image = f"{site.url}/pictures/lamp.png" if sku == "lamp" else "mug.jpg"
            table.writerow([sku, image, scene, f"{sku} €"])


def put_shards(folder: Path, settings: Settings, site: Site) -> None:
    """Put tars into the bucket of datasets; two of their samples will fail."""
    with webdataset.ShardWriter(str(folder / "shard-%03d.tar"), maxcount=3, verbose=0) as writer:
        for number, key in enumerate(SAMPLES):
            # Nine times as wide as high: no size of the model has this shape.
            size = (2304, 256) if key == "panorama" else (320, 256)
            said: dict[str, object] = {"prompt": f"a {key}", "place": number}
            sample = {"__key__": key, "mask.png": png(mask(*size)), "json": said}
            if key == "late":
                said["image"] = site.url + LATE
            else:
                sample["image.png"] = png(picture(*size))
            writer.write(sample)
    bucket = Objects(settings.model_copy(update={"s3_bucket": BUCKET}))
    bucket.ensure_bucket()
    for tar in folder.glob("shard-*.tar"):
        bucket.put(f"shards/{tar.name}", tar.read_bytes(), "application/x-tar")
        tar.unlink()  # from here on it is the fleet that has them
    bucket.close()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_objects_are_removed_from_a_folder_of_photographs(kitchen: Kitchen, cooked: dict[str, list[Done]]) -> None:
    check, submit, results, report = cooked[OBJECTS]
    assert [check.code, submit.code, results.code, report.code] == [0] * 4, cooked[OBJECTS]
    assert "3 rows: 3 good, 0 bad" in check.out
    assert "(12 s on one GPU)" in check.out
    assert "photos is done: 3 completed, 0 failed" in submit.out
    cleaned = kitchen.folder / "cleaned"
    assert sorted(path.stem for path in cleaned.glob("*.png")) == list(PHOTOS)
    black = np.asarray(mask(320, 256)) == 0
    for name in PHOTOS:
        before, after = (
            np.asarray(Image.open(path)) for path in (kitchen.folder / f"photos/{name}.jpg", cleaned / f"{name}.png")
        )
        assert np.array_equal(before[black], after[black])
        assert not np.array_equal(before, after)
    assert [row["custom_id"] for row in lines_of(cleaned / "results.jsonl")] == list(PHOTOS)
    assert pq.read_table(cleaned / "results.parquet")["status"].to_pylist() == ["completed"] * 3
    page = (kitchen.folder / "photos.html").read_text()
    assert page.startswith("<!doctype html>")
    assert all(name in page for name in PHOTOS)


def test_product_pictures_are_outpainted_from_a_csv(kitchen: Kitchen, cooked: dict[str, list[Done]]) -> None:
    assert [done.code for done in cooked[CSV]] == [0, 0, 0], cooked[CSV]
    with (kitchen.folder / "banners.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["custom_id"] for row in rows] == list(PRODUCTS)
    assert [row["prompt"] for row in rows] == list(PRODUCTS.values())
    assert [row["price"] for row in rows] == [f"{sku} €" for sku in PRODUCTS]
    assert not {"sku", "picture", "scene"} & rows[0].keys()
    assert {(row["status"], row["output_width"], row["output_height"]) for row in rows} == {
        ("completed", "1280", "720")
    }


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
def test_a_webdataset_on_s3_becomes_a_webdataset(kitchen: Kitchen, cooked: dict[str, list[Done]]) -> None:
    submit, results = cooked[SHARDS]
    assert (submit.code, results.code) == (3, 0), cooked[SHARDS]
    assert "shards is done: 3 completed, 2 failed" in submit.out
    tar = kitchen.folder / "filled.tar"
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == ["castle", "forest", "river"]
    assert {sample["image.png"].size for sample in samples} == {(320, 256)}
    assert [sample["json"]["prompt"] for sample in samples] == ["a castle", "a forest", "a river"]
    beside = pq.read_table(kitchen.folder / "filled.results.parquet").to_pylist()
    assert [(row["custom_id"], row["place"]) for row in beside] == [(key, f"{n}") for n, key in enumerate(SAMPLES)]


def test_results_are_read_with_pandas_and_duckdb(kitchen: Kitchen, cooked: dict[str, list[Done]]) -> None:
    results, with_pandas, with_duckdb = cooked[TABLES]
    assert results.code == with_pandas.code == with_duckdb.code == 0, cooked[TABLES]
    assert pq.read_table(kitchen.folder / "shards.parquet")["custom_id"].to_pylist() == list(SAMPLES)
    assert "panorama" in with_pandas.out
    assert "image_too_narrow" in with_pandas.out
    assert "images" in with_duckdb.out


def test_only_the_failures_are_run_again(kitchen: Kitchen, cooked: dict[str, list[Done]]) -> None:
    status, retry, results, submit = cooked[FAILURES]
    assert [status.code, retry.code, results.code, submit.code] == [0, 3, 0, 0], cooked[FAILURES]
    assert "image_too_narrow" in status.out
    assert "404" in status.out
    assert "shards: 2 rows put back" in retry.out
    assert "shards is done: 4 completed, 1 failed" in retry.out
    (again,) = lines_of(kitchen.folder / "again.jsonl")
    assert (again["custom_id"], again["place"]) == ("panorama", 3)
    assert "shards-again is done: 1 completed, 0 failed" in submit.out


def test_what_the_fleet_has_read_is_not_read_again(kitchen: Kitchen, cooked: dict[str, list[Done]]) -> None:
    again = kitchen.cook(RECIPES[SHARDS][:1])[0]
    assert "the fleet has read its manifest already: 5 rows" in again.out, cooked[SHARDS]


def test_every_recipe_has_a_test() -> None:
    assert set(RECIPES) == {OBJECTS, CSV, SHARDS, FAILURES, TABLES}
