"""Where a LoRA may come from, that it is fetched once, and what a name may not reach."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import FillfleetError, Rejected, Transient
from common.fetch import Fetcher
from common.ids import new_id
from common.settings import Settings
from tests.support.fills import FillSettings
from tests.support.lora_site import COMMIT, Site, running_site, sha256_of
from worker.loras.cache import LoraCache
from worker.loras.hub import LoraHub, parse_hub_id
from worker.loras.source import LocalLora, LoraSource

OWNER = new_id()


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as started:
        yield started


@pytest.fixture
def lora_settings(site: Site, tmp_path: Path) -> Settings:
    (tmp_path / "loras").mkdir()
    return FillSettings(
        lora_folder=tmp_path / "loras", lora_cache_folder=tmp_path / "cache", fetch_allow_hosts=(site.host,)
    )


Resolve = Callable[..., LocalLora]


@pytest.fixture
def resolve(site: Site, lora_settings: Settings) -> Resolve:
    """A source's resolve with owner and field filled in; `fresh` makes one that remembers nothing."""

    def make() -> LoraSource:
        return LoraSource(lora_settings, Fetcher(lora_settings), None, hub=LoraHub(lora_settings, endpoint=site.url))

    kept = make()

    def resolved(
        path: str, *, fresh: bool = False, pinned: str | None = None, revision: str | None = None
    ) -> LocalLora:
        source = make() if fresh else kept
        return source.resolve(path, owner=OWNER, what="loras[0].path", pinned=pinned, revision=revision)

    return resolved


def _cached(settings: Settings) -> list[str]:
    folder = settings.lora_cache_folder
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- names in the LoRA folder


@pytest.mark.parametrize("name", ["style", "style.safetensors"])
def test_a_name_means_the_file_in_the_folder(name: str, resolve: Resolve, lora_settings: Settings) -> None:
    assert lora_settings.lora_folder is not None
    path = lora_settings.lora_folder / "style.safetensors"
    path.write_bytes(b"one")

    assert resolve(name) == LocalLora(path.resolve(), sha256_of(b"one"), 3, None)


def test_a_replaced_file_is_seen_and_a_pinned_one_refused(resolve: Resolve, lora_settings: Settings) -> None:
    assert lora_settings.lora_folder is not None
    path = lora_settings.lora_folder / "style.safetensors"
    path.write_bytes(b"one")
    pinned = resolve("style").sha256
    assert resolve("style", pinned=pinned).sha256 == pinned
    path.write_bytes(b"another")

    assert resolve("style").sha256 == sha256_of(b"another")
    with pytest.raises(Rejected, match=r"^loras\[0\]\.path: \"style\" is another file") as caught:
        resolve("style", pinned=pinned)
    assert caught.value.code == "lora_changed"


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "",
        ".",
        "..",
        "..\\style",
        ".hidden",
        "style\0",
        "style\n",
        "%2e%2e",
        "a" * 300,
        "secret",
        "folder",
        "~root",
    ],
)
def test_a_name_reaches_nothing_but_files_of_the_folder(
    name: str, resolve: Resolve, lora_settings: Settings, tmp_path: Path
) -> None:
    assert lora_settings.lora_folder is not None
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    (lora_settings.lora_folder / "secret.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (lora_settings.lora_folder / ".hidden.safetensors").write_bytes(b"hidden")
    (lora_settings.lora_folder / "folder.safetensors").mkdir()

    with pytest.raises(Rejected, match="there is no LoRA named") as caught:
        resolve(name)

    assert caught.value.code == "lora_not_found"
    assert str(tmp_path) not in caught.value.message


def test_without_a_folder_no_name_is_found(site: Site, tmp_path: Path) -> None:
    settings = FillSettings(lora_folder=None, lora_cache_folder=tmp_path)

    with pytest.raises(Rejected, match="there is no LoRA named"):
        LoraSource(settings, Fetcher(settings), None).resolve("style", owner=OWNER, what="loras[0].path")


# --- URLs


def test_a_url_is_fetched_once_and_kept_by_itssha256_of(resolve: Resolve, site: Site, lora_settings: Settings) -> None:
    site.files["/a.safetensors"] = b"weights"

    first = resolve(f"{site.url}/a.safetensors")
    again = resolve(f"{site.url}/a.safetensors")
    pinned = resolve(f"{site.url}/a.safetensors", fresh=True, pinned=first.sha256)

    assert first == again == pinned
    assert first.path.read_bytes() == b"weights"
    assert (first.sha256, first.bytes, first.revision) == (sha256_of(b"weights"), 7, None)
    assert site.count("/a.safetensors") == 1
    assert _cached(lora_settings) == [f"{first.sha256}.safetensors"]


def test_other_bytes_than_the_pinned_ones_are_refused(resolve: Resolve, site: Site) -> None:
    site.files["/a"] = b"new"

    with pytest.raises(Rejected, match="is another file than when the job began") as caught:
        resolve(f"{site.url}/a", pinned=sha256_of(b"old"))

    assert caught.value.code == "lora_changed"


def test_many_jobs_at_once_fetch_it_once(resolve: Resolve, site: Site) -> None:
    site.files["/a"], site.pause = b"weights", 0.2

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: resolve(f"{site.url}/a"), range(8)))

    assert len(found) == 1
    assert site.count("/a") == 1


@pytest.mark.parametrize(
    ("path", "code", "kind"),
    [
        ("/nothing", "fetch_not_found", Rejected),
        ("/denied", "fetch_denied", Rejected),
        ("/broken", "fetch_failed", Transient),
        ("/large", "fetch_too_large", Rejected),
    ],
)
def test_what_cannot_be_fetched_says_why_and_leaves_nothing(
    path: str, code: str, kind: type[FillfleetError], site: Site, tmp_path: Path
) -> None:
    site.files["/large"] = b"x" * 2000
    site.statuses |= {"/denied": 403, "/broken": 503}
    settings = FillSettings(lora_cache_folder=tmp_path / "cache", fetch_allow_hosts=(site.host,), lora_max_bytes=1024)
    source = LoraSource(settings, Fetcher(settings), None)

    with pytest.raises(kind, match=r"^loras\[3\]\.path: ") as caught:
        source.resolve(site.url + path, owner=OWNER, what="loras[3].path")

    assert caught.value.code == code
    assert _cached(settings) == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/a.safetensors", "https://169.254.169.254/latest/meta-data", "file:///etc/passwd", "ftp://x/y"],
)
def test_private_addresses_and_other_schemes_are_refused(url: str, resolve: Resolve) -> None:
    with pytest.raises(Rejected) as caught:
        resolve(url)

    assert caught.value.code in {"fetch_refused", "source_invalid"}


def test_objects_of_others_are_refused_before_anything_is_asked(resolve: Resolve, lora_settings: Settings) -> None:
    theirs = f"s3://{lora_settings.s3_bucket}/uploads/{new_id().hex}/a.safetensors"
    source = LoraSource(lora_settings, Fetcher(lora_settings), object())  # type: ignore[arg-type] # never asked

    with pytest.raises(Rejected) as caught:
        source.resolve(theirs, owner=OWNER, what="loras[0].path", pinned="0" * 64)

    assert caught.value.code == "source_forbidden"


# --- the hub


@pytest.mark.parametrize("tells_sha256", [True, False])
def test_a_hub_id_means_its_only_file_at_the_newest_commit(tells_sha256: bool, resolve: Resolve, site: Site) -> None:
    site.repos["org/style"] = {"README.md": b"words", "my style.safetensors": b"weights"}
    site.tells_sha256 = tells_sha256

    found = resolve("org/style")

    assert found.path.read_bytes() == b"weights"
    assert (found.sha256, found.revision) == (sha256_of(b"weights"), COMMIT)
    assert resolve("org/style") == found
    assert site.count("/api/models/org/style") == 1
    assert site.tokens == {None}  # the operator's token is not shown


def test_a_file_that_is_here_already_is_not_downloaded_again(resolve: Resolve, site: Site) -> None:
    site.repos["org/style"] = {"a.safetensors": b"weights"}
    found = resolve("org/style")
    before = len(site.requests)

    assert resolve("org/style", fresh=True) == found
    assert site.requests[before:] == ["/api/models/org/style"]


@pytest.mark.parametrize("wish", ["org/many/b.safetensors", "org/many:b.safetensors", "org/many/sub/c.safetensors"])
def test_one_of_several_files_may_be_named(wish: str, resolve: Resolve, site: Site) -> None:
    site.repos["org/many"] = {name: name.encode() for name in ("a.safetensors", "b.safetensors", "sub/c.safetensors")}

    assert resolve(wish).path.read_bytes() == wish.removeprefix("org/many")[1:].encode()


def test_of_several_files_the_one_with_a_trainers_name_is_taken(resolve: Resolve, site: Site) -> None:
    site.repos["org/many"] = {"a.safetensors": b"a", "pytorch_lora_weights.safetensors": b"it"}

    assert resolve("org/many").path.read_bytes() == b"it"


def test_several_files_are_listed_for_the_user_to_choose(resolve: Resolve, site: Site) -> None:
    site.repos["org/many"] = {"a.safetensors": b"a", "b.safetensors": b"b"}

    with pytest.raises(Rejected, match=r"a\.safetensors, b\.safetensors\); name one: org/many/a") as caught:
        resolve("org/many")

    assert caught.value.code == "lora_ambiguous"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("org/nothing", "hub_not_found"),
        ("org/style/other.safetensors", "lora_not_found"),
        ("org/empty", "lora_not_found"),
        ("org/huge", "lora_too_large"),
        ("org/../../etc/passwd", "lora_not_found"),
        ("org//style", "lora_not_found"),
        ("a/b/c", "lora_not_found"),
        ("/etc/passwd", "lora_not_found"),
        ("./style", "lora_not_found"),
        ("org/sty le", "lora_not_found"),
        ("org/style/x.bin", "lora_not_found"),
    ],
)
def test_what_the_hub_does_not_have_is_refused(path: str, code: str, resolve: Resolve, site: Site) -> None:
    site.repos |= {"org/style": {"a.safetensors": b"a"}, "org/empty": {"x.bin": b"pickle"}}
    site.repos["org/huge"] = {"a.safetensors": _Huge()}

    with pytest.raises(Rejected) as caught:
        resolve(path)

    assert caught.value.code == code
    assert caught.value.message.startswith("loras[0].path: ")


class _Huge(bytes):
    """A file of 3 GiB, as far as its length goes."""

    def __len__(self) -> int:
        return 3 * 2**30


def test_a_hub_that_fails_is_tried_again_later(resolve: Resolve, site: Site) -> None:
    site.statuses["/api/models/org/style"] = 500

    with pytest.raises(Transient, match="does not answer") as caught:
        resolve("org/style")

    assert caught.value.code == "hub_unavailable"
    assert site.host not in caught.value.message


def test_a_hub_that_asks_for_fewer_requests_is_named_as_a_host_to_leave_alone(resolve: Resolve, site: Site) -> None:
    site.statuses["/api/models/org/style"] = 429
    site.headers["Retry-After"] = "11"

    with pytest.raises(Transient, match="is busy") as caught:
        resolve("org/style")

    assert (caught.value.code, caught.value.host, caught.value.retry_after_seconds) == (
        "hub_unavailable",
        site.host,
        11.0,
    )
    assert site.host not in caught.value.message


def test_a_hub_that_is_not_there_is_tried_again_later(lora_settings: Settings) -> None:
    hub = LoraHub(lora_settings, endpoint="http://127.0.0.1:9")

    with pytest.raises(Transient) as caught:
        hub.find(parse_hub_id("org/style", what="x"), what="loras[0].path")

    assert caught.value.code == "hub_unavailable"


NEWER = "f" * 40


@pytest.mark.parametrize("tells_sha256", [True, False])
def test_a_pinned_commit_is_fetched_although_there_is_a_newer_one(
    tells_sha256: bool, resolve: Resolve, site: Site
) -> None:
    site.repos["org/style"] = {"a.safetensors": b"old"}
    site.push("org/style", {"b.safetensors": b"new", "c.safetensors": b"another"}, NEWER)
    site.tells_sha256 = tells_sha256

    found = resolve("org/style", pinned=sha256_of(b"old"), revision=COMMIT)

    assert (found.path.read_bytes(), found.revision) == (b"old", COMMIT)


def test_who_names_no_commit_gets_the_newest_whatever_others_are_pinned_to(resolve: Resolve, site: Site) -> None:
    site.repos["org/style"] = {"a.safetensors": b"old"}
    site.push("org/style", {"a.safetensors": b"new"}, NEWER)
    resolve("org/style", pinned=sha256_of(b"old"), revision=COMMIT)

    found = resolve("org/style")

    assert (found.path.read_bytes(), found.revision) == (b"new", NEWER)
    assert resolve("org/style", pinned=sha256_of(b"old"), revision=COMMIT).path.read_bytes() == b"old"


def test_a_pinned_file_that_is_here_needs_no_network(resolve: Resolve, site: Site) -> None:
    site.repos["org/style"], site.files["/a"] = {"a.safetensors": b"weights"}, b"more weights"
    first, second = resolve("org/style"), resolve(f"{site.url}/a")
    before = len(site.requests)

    again = resolve("org/style", fresh=True, pinned=first.sha256, revision=COMMIT)

    assert again == first
    assert resolve(f"{site.url}/a", fresh=True, pinned=second.sha256) == second
    assert len(site.requests) == before


def test_a_pinned_commit_that_is_gone_is_said_in_words(resolve: Resolve, site: Site) -> None:
    site.repos["org/style"] = {"a.safetensors": b"new"}

    with pytest.raises(Rejected, match=r'^loras\[0\]\.path: "org/style" has no such file or revision') as caught:
        resolve("org/style", pinned=sha256_of(b"old"), revision=NEWER)

    assert caught.value.code == "hub_not_found"


# --- the cache


def _add(cache: LoraCache, data: bytes, *, age_seconds: float = 0.0) -> Path:
    path = cache.add(lambda target: target.write_bytes(data))
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def test_the_least_recently_used_files_make_room(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, max_bytes=250)
    oldest, old = _add(cache, b"a" * 100, age_seconds=9000), _add(cache, b"b" * 100, age_seconds=8000)
    assert cache.get(oldest.stem) == oldest  # used now

    new = _add(cache, b"c" * 100)

    assert (oldest.exists(), old.exists(), new.exists()) == (True, False, True)


def test_files_in_use_stay_even_beyond_the_bound(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, max_bytes=0)

    paths = [_add(cache, bytes([n]) * 100) for n in range(3)]

    assert all(path.exists() for path in paths)


def test_being_used_does_not_make_a_file_another_version(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, max_bytes=10**6)
    path = _add(cache, b"a", age_seconds=500)
    before = path.stat().st_mtime_ns

    cache.get(path.stem)
    cache.add(lambda target: target.write_bytes(b"a"))

    assert path.stat().st_mtime_ns == before


def test_what_a_killed_download_left_is_removed(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, max_bytes=10**6)
    dead = tmp_path / ".part-dead"
    dead.mkdir()
    (dead / "file").write_bytes(b"half")
    os.utime(dead, (0, 0))

    _add(cache, b"a")

    assert not dead.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "0" * 63, "G" * 64])
def test_only_hashes_are_looked_up(name: str, tmp_path: Path) -> None:
    assert LoraCache(tmp_path, max_bytes=1).get(name) is None


def test_a_disk_that_cannot_be_written_to_is_tried_again_later(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")

    with pytest.raises(Transient) as caught:
        LoraCache(tmp_path / "cache", max_bytes=1).add(lambda target: target.write_bytes(b"a"))

    assert caught.value.code == "lora_not_stored"
    assert str(tmp_path) not in caught.value.message
