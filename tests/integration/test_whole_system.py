"""A job's whole way through the system that `fillfleet up` starts, with the bundled model on the CPU."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import wavespeed
from PIL import Image
from safetensors.torch import save_file

from infra.demo_model.files import LORAS
from tests.support.system import System, running_system


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def picture(width: int = 256, height: int = 256) -> Image.Image:
    """A picture in which no two neighbouring pixels are alike."""
    values = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def mask(width: int = 256, height: int = 256) -> Image.Image:
    """A white square in the middle."""
    image = Image.new("L", (width, height))
    image.paste(255, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    return image


class Photos:
    """A web server of users' pictures, with the troubles that such servers have."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        photos = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                photos.asked[self.path] += 1
                status, body = photos.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def answer(self, path: str) -> tuple[int, bytes]:
        whole = png(picture())
        match path:
            case "/photo.png":
                return 200, whole
            case "/mask.png":
                return 200, png(mask())
            case "/flaky.png" | "/flaky-too.png":
                return (200, whole) if self.asked[path] > 2 else (503, b"busy")
            case "/changing.png":
                return 200, whole + bytes([self.asked[path]])
            case "/page.png":
                return 200, b"<html>not found</html>"
            case "/truncated.png":
                return 200, whole[: len(whole) // 2]
            case "/huge.png":
                return 200, png(Image.new("1", (12000, 9000)))
            case "/forbidden.png":
                return 403, b"no"
            case _:
                return 404, b"none"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def photos() -> Iterator[Photos]:
    """The users' web server."""
    photos = Photos()
    yield photos
    photos.close()


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's LoRA folder: one that fits, one that is for another model."""
    folder = tmp_path_factory.mktemp("loras")
    for name in ("striped", "outlined"):
        shutil.copy(LORAS / f"{name}.safetensors", folder)
    wrong = {
        "transformer.x_embedder.lora_A.weight": torch.zeros(4, 1695),
        "transformer.x_embedder.lora_B.weight": torch.zeros(64, 4),
    }
    save_file(wrong, folder / "other-model.safetensors")
    return folder


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, photos: Photos, loras: Path) -> Iterator[System]:
    """The whole system, started once for this file."""
    with running_system(
        tmp_path_factory.mktemp("up"),
        FETCH_ALLOW_HOSTS=photos.host,
        LORA_FOLDER=str(loras),
        BACKOFF_SECONDS="0.2",
        DISPATCHER_POLL_SECONDS="0.3",
    ) as system:
        yield system


def test_the_unmodified_client_uploads_submits_waits_and_downloads(system: System, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png(picture()))
    (tmp_path / "mask.png").write_bytes(png(mask()))
    client = wavespeed.Client(api_key=system.ready["api_key"], base_url=system.ready["api_url"])
    answer = client.run(
        "wavespeed-ai/flux-dev-fill",
        {
            "image": client.upload(str(tmp_path / "photo.png")),
            "mask_image": client.upload(str(tmp_path / "mask.png")),
            "prompt": "a red circle",
            "size": "256*256",
            "num_inference_steps": 2,
        },
        timeout=90,
        poll_interval=0.2,
    )
    image = Image.open(io.BytesIO(httpx.get(answer["outputs"][0], timeout=30).content))
    assert image.size == (256, 256)


def test_the_unmodified_client_gets_its_result_in_sync_mode(system: System, photos: Photos) -> None:
    client = wavespeed.Client(api_key=system.ready["api_key"], base_url=system.ready["api_url"])
    body = {"image": photos.url("/photo.png"), "mask_image": photos.url("/mask.png"), "size": "256*256"}
    answer = client.run("wavespeed-ai/flux-dev-fill", body | {"num_inference_steps": 2}, enable_sync_mode=True)
    assert len(answer["outputs"]) == 1


def test_unmasked_pixels_come_back_bit_for_bit_and_masked_ones_are_filled(system: System, photos: Photos) -> None:
    done = system.run(image=photos.url("/photo.png"), mask_image=photos.url("/mask.png"))
    assert done["status"] == "completed", done["error"]
    assert done["has_nsfw_contents"] == [False]
    assert done["timings"]["inference"] > 0
    output = np.asarray(Image.open(io.BytesIO(system.outputs(done)[0])))
    original, masked = np.asarray(picture()), np.asarray(mask()) > 0
    assert np.array_equal(output[~masked], original[~masked])
    assert not np.array_equal(output[masked], original[masked])


def test_the_same_seed_gives_the_same_bytes_and_image_i_equals_the_solo_run_with_seed_plus_i(
    system: System, photos: Photos
) -> None:
    source = {"image": photos.url("/photo.png"), "mask_image": photos.url("/mask.png"), "prompt": "a blue square"}
    three = system.outputs(system.run(**source, seed=41, num_images=3))
    again = system.outputs(system.run(**source, seed=42))
    assert len(set(three)) == 3
    assert three[1] == again[0]


def test_a_lora_changes_the_image_and_leaves_none_of_it_behind(system: System, photos: Photos) -> None:
    source = {"image": photos.url("/photo.png"), "mask_image": photos.url("/mask.png"), "seed": 5}
    before = system.outputs(system.run(**source))
    styled = system.outputs(system.run(**source, loras=[{"path": "striped", "scale": 1.0}]))
    after = system.outputs(system.run(**source))
    assert styled != before
    assert after == before


def test_outpainting_without_a_mask_keeps_the_whole_image(system: System, photos: Photos) -> None:
    done = system.run(image=photos.url("/photo.png"), size="512*256")
    output = np.asarray(Image.open(io.BytesIO(system.outputs(done)[0])))
    assert output.shape == (256, 512, 3)
    assert np.array_equal(output[:, 128:384], np.asarray(picture()))


def test_base64_output_is_the_image_itself(system: System, photos: Photos) -> None:
    source = {"image": photos.url("/photo.png"), "mask_image": photos.url("/mask.png")}
    done = system.run(**source, enable_base64_output=True, output_format="webp")
    assert Image.open(io.BytesIO(base64.b64decode(done["outputs"][0], validate=True))).format == "WEBP"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image": "/missing.png"}, "404"),
        ({"image": "/forbidden.png"}, "403"),
        ({"image": "/page.png"}, "not an image"),
        ({"image": "/truncated.png"}, "truncated"),
        ({"image": "/huge.png"}, "pixel"),
        ({"mask_image": "/missing.png"}, "mask_image"),
        ({"loras": [{"path": "no-such-lora", "scale": 1.0}]}, "no-such-lora"),
        ({"loras": [{"path": "other-model", "scale": 1.0}]}, "another model"),
        ({"image": "http://169.254.169.254/latest/meta-data"}, "not allowed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_input_that_can_never_work_fails_the_job_at_once_with_words(
    system: System, photos: Photos, fields: dict[str, Any], says: str
) -> None:
    source = {"image": "/photo.png", "mask_image": "/mask.png"} | fields
    urls = {
        name: photos.url(value) if isinstance(value, str) and value.startswith("/") else value
        for name, value in source.items()
    }
    before = photos.asked.copy()
    done = system.run(**urls)
    assert done["status"] == "failed"
    assert says in done["error"], done["error"]
    assert done["outputs"] == []
    path = source["image"]
    if path in {"/missing.png", "/page.png"}:
        assert photos.asked[path] - before[path] == 1, "what can never work is not tried again"


def test_an_empty_mask_fails_the_job_and_says_so(system: System, photos: Photos) -> None:
    black = system.upload(png(Image.new("L", (256, 256))), "mask.png")
    done = system.run(image=photos.url("/photo.png"), mask_image=black)
    assert done["status"] == "failed"
    assert "mask" in done["error"]


def test_a_passing_trouble_is_retried_and_the_job_completes(system: System, photos: Photos) -> None:
    done = system.run(image=photos.url("/flaky.png"), mask_image=photos.url("/mask.png"))
    assert done["status"] == "completed", done["error"]
    assert photos.asked["/flaky.png"] == 3


def test_flower_shows_the_worker_and_each_job_under_its_id_failed_ones_as_failed(
    system: System, photos: Photos
) -> None:
    good = system.submit(image=photos.url("/photo.png"), mask_image=photos.url("/mask.png"))
    bad = system.submit(image=photos.url("/missing.png"), mask_image=photos.url("/mask.png"))
    system.wait(good)
    system.wait(bad)
    ready = system.ready
    auth = (ready["flower_user"], ready["flower_password"])
    with httpx.Client(base_url=ready["flower_url"], auth=auth, timeout=30) as flower:
        deadline = time.monotonic() + 60
        states: dict[str, str] = {}
        # All of them, also those of other tests: see worker/task_events.py.
        while not ({good, bad} <= states.keys() and set(states.values()) <= {"SUCCESS", "FAILURE"}):
            assert time.monotonic() < deadline, states
            tasks = flower.get("/api/tasks").json()
            states = {name.partition(".")[0]: task["state"] for name, task in tasks.items()}
            time.sleep(0.3)
        assert states[good] == "SUCCESS"
        assert states[bad] == "FAILURE"
        (shown,) = flower.get("/workers", params={"json": "1"}).json()["data"]
        assert shown["status"] is True
        worker = shown["hostname"]
        assert flower.post(f"/api/worker/shutdown/{worker}").status_code in {401, 403, 404, 405}
    assert httpx.get(f"{ready['flower_url']}/api/tasks", timeout=30).status_code == 401


# --- last, since it kills the worker, and Flower goes on showing that


def test_the_same_seed_is_the_same_image_by_api_and_in_a_batch_after_a_retry_beside_loras_and_after_a_restart(
    system: System, photos: Photos
) -> None:
    photo, masked = photos.url("/photo.png"), photos.url("/mask.png")
    rest: dict[str, Any] = {"mask_image": masked, "prompt": "a green heart", "seed": 77}

    def sha256s(**fields: Any) -> list[str]:
        done = system.run(**({"image": photo} | rest | fields))
        assert done["status"] == "completed", done["error"]
        return [hashlib.sha256(output).hexdigest() for output in system.outputs(done)]

    by_api = sha256s()
    after_a_retry = sha256s(image=photos.url("/flaky-too.png"))
    assert photos.asked["/flaky-too.png"] == 3, "it was refused twice, and tried again"
    styles = [sha256s(loras=[{"path": name, "scale": 1.0}]) for name in ("striped", "outlined")]
    between_loras = sha256s()
    styles_again = [sha256s(loras=[{"path": name, "scale": 1.0}]) for name in ("striped", "outlined")]
    in_a_batch = _in_a_batch(system, {"image": photo, "size": "256*256", "num_inference_steps": 2, **rest})
    os.kill(_worker_pid(system), signal.SIGKILL)
    after_a_restart = sha256s()

    assert after_a_retry == between_loras == in_a_batch == after_a_restart == by_api
    assert styles_again == styles
    assert len({by_api[0], styles[0][0], styles[1][0]}) == 3


def _in_a_batch(system: System, body: dict[str, Any]) -> list[str]:
    """Fill `body` as a batch of one row; returns the sha256 of its outputs."""
    row = json.dumps({"custom_id": "one", "body": body})
    made = system.client.post("/api/v3/batches", content=row, headers={"Content-Type": "application/x-ndjson"})
    assert made.status_code == 200, made.text
    batch = f"/api/v3/batches/{made.json()['data']['id']}"
    deadline = time.monotonic() + 90
    while (shown := system.client.get(batch).json()["data"])["state"] != "done":
        assert time.monotonic() < deadline, shown
        time.sleep(0.2)
    (row,) = system.client.get(f"{batch}/results?format=ndjson").text.splitlines()
    sha256s: list[str] = json.loads(row)["output_sha256"]
    return sha256s


def _worker_pid(system: System) -> int:
    (pid,) = [pid for name, pid in system.ready["pids"].items() if name.startswith("worker")]
    return int(pid)
