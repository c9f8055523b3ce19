"""The embedded servers' promises: real, with passwords, on loopback only, several at once, and never an orphan."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import boto3
import psycopg
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.embedded import ports, postgres, unprivileged
from infra.embedded.errors import StartFailed
from infra.embedded.servers import EmbeddedServers
from tests.support.processes import all_gone, listening_addresses, needs_proc, processes_in, wait_until

ROOT: Final = Path(__file__).parents[2]
LOOPBACK_IN_PROC: Final = "0100007F"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may walk through, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="fillfleet-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextmanager
def holder(
    *arguments: str, python: str = sys.executable, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run servers under a parent process that a test may kill; yield it, and what it said."""
    command = [python, "-m", "tests.support.hold_servers", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)
    with process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "the servers did not start"
            yield process, json.loads(line)
        finally:
            process.kill()


def s3_client(endpoint: str, access_key: str, secret_key: str) -> Any:
    config = Config(signature_version="s3v4", retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )


def write(servers: EmbeddedServers, text: str) -> None:
    """Leave a word in each server."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("word", text)
    with psycopg.connect(servers.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("DELETE FROM words")
        connection.execute("INSERT INTO words VALUES (%s)", (text,))
    s3 = s3_client(servers.s3_endpoint, servers.s3_access_key, servers.s3_secret_key)
    s3.put_object(Bucket=servers.s3_bucket, Key="word", Body=text.encode())


def read(servers: EmbeddedServers) -> tuple[str, str, str]:
    """Return the word that each server keeps."""
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        from_redis = str(client.get("word"))
    with psycopg.connect(servers.database_url) as connection:
        row = connection.execute("SELECT word FROM words").fetchone()
    s3 = s3_client(servers.s3_endpoint, servers.s3_access_key, servers.s3_secret_key)
    body = s3.get_object(Bucket=servers.s3_bucket, Key="word")["Body"].read()
    return from_redis, str(row[0] if row else None), body.decode()


def grpc_sockets(ports: dict[str, int]) -> list[Path]:
    """Those of this SeaweedFS: another one, killed long ago with its guardian, may have left one of the same port."""
    parts = [(name.removesuffix(".grpc"), port) for name, port in ports.items() if name.endswith(".grpc")]
    return [path for part, port in parts if (path := Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock")).exists()]  # noqa: S108


def status_of(port: int, path: str, method: str = "GET") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_each_server_keeps_what_it_is_given(servers: EmbeddedServers) -> None:
    write(servers, "kept")
    assert read(servers) == ("kept", "kept", "kept")


@pytest.mark.parametrize("password", ["", ":wrong@"])
def test_valkey_refuses_who_has_no_or_a_wrong_password(servers: EmbeddedServers, password: str) -> None:
    address = servers.redis_url.rpartition("@")[2]
    with redis.Redis.from_url(f"redis://{password}{address}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.parametrize("login", ["app", "app:wrong", "postgres", "nobody"])
def test_postgresql_refuses_who_has_no_or_a_wrong_password(servers: EmbeddedServers, login: str) -> None:
    address = servers.database_url.rpartition("@")[2]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://{login}@{address}")


def test_the_s3_server_refuses_wrong_secrets_unknown_keys_and_the_nameless(servers: EmbeddedServers) -> None:
    for key, secret in ((servers.s3_access_key, "wrong"), ("unknown", servers.s3_secret_key)):
        with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
            s3_client(servers.s3_endpoint, key, secret).list_buckets()
    assert status_of(servers.s3.ports["s3"], f"/{servers.s3_bucket}/word") == 403
    assert status_of(servers.s3.ports["s3"], f"/{servers.s3_bucket}/new", "PUT") == 403


def test_the_doors_behind_the_s3_server_are_shut(servers: EmbeddedServers) -> None:
    write(servers, "safe")
    bucket, at = servers.s3_bucket, servers.s3.ports
    assert status_of(at["filer"], f"/buckets/{bucket}/word") >= 400
    assert status_of(at["filer"], f"/buckets/{bucket}/word", "DELETE") >= 400
    assert status_of(at["master"], f"/col/delete?collection={bucket}") >= 400
    assert read(servers)[2] == "safe"


def test_a_put_to_a_bucket_that_does_not_exist_is_refused(servers: EmbeddedServers) -> None:
    s3 = s3_client(servers.s3_endpoint, servers.s3_access_key, servers.s3_secret_key)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.put_object(Bucket="no-such-bucket", Key="word", Body=b"lost")


@needs_proc
def test_the_servers_listen_on_loopback_only(servers: EmbeddedServers) -> None:
    for name, pid in servers.pids().items():
        assert listening_addresses(pid) == {LOOPBACK_IN_PROC}, name


@needs_proc
def test_no_password_stands_on_a_command_line(servers: EmbeddedServers) -> None:
    identity = servers.home.identity
    for name, pid in servers.pids().items():
        words = Path(f"/proc/{pid}/cmdline").read_text()
        for secret in (identity.redis_password, identity.postgres_password, identity.s3_secret_key):
            assert secret not in words, name


def test_nothing_in_the_folder_can_be_read_by_others(servers: EmbeddedServers) -> None:
    for path in servers.home.directory.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("name", ["redis", "postgres", "s3"])
def test_a_killed_server_comes_back_on_its_port_with_its_data(servers: EmbeddedServers, name: str) -> None:
    write(servers, "survives")
    before = servers.pids(), servers.redis_url, servers.database_url, servers.s3_endpoint
    server = getattr(servers, name)
    server.kill()
    assert server.exit_code() == -signal.SIGKILL
    server.start()
    after = servers.pids(), servers.redis_url, servers.database_url, servers.s3_endpoint
    assert after[1:] == before[1:]
    assert {key for key in after[0] if after[0][key] != before[0][key]} == {server.name}
    assert read(servers) == ("survives", "survives", "survives")


@needs_proc
def test_a_pid_file_whose_number_now_belongs_to_another_program_keeps_nothing_from_starting(
    servers: EmbeddedServers,
) -> None:
    user = unprivileged.unprivileged_user()
    identity: dict[str, Any] = {"user": user.ids[0], "group": user.ids[1], "extra_groups": []} if user else {}
    data = servers.home.directory / "postgres" / "data"
    servers.postgres.kill()
    with subprocess.Popen(["sleep", "60"], cwd="/", **identity) as other:
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
            (data / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
            servers.postgres.start()
        finally:
            other.kill()
    with psycopg.connect(servers.database_url) as connection:
        connection.execute("SELECT 1")


@needs_proc
def test_a_second_system_runs_beside_the_first_and_leaves_no_process_no_folder_and_no_socket(
    servers: EmbeddedServers,
) -> None:
    write(servers, "first")
    with EmbeddedServers(durable=False) as second:
        write(second, "second")
        assert read(servers) == ("first", "first", "first")
        assert read(second) == ("second", "second", "second")
        own = {port for server in second.servers() for port in server.ports.values()}
        assert not own & {port for server in servers.servers() for port in server.ports.values()}
        pids = [*second.pids().values(), second.guardian.pid]
        place = second.home.directory
        assert set(second.pids().values()) <= set(processes_in(place))
        ports = dict(second.s3.ports)
        assert grpc_sockets(ports)
    assert all_gone(pids)
    assert processes_in(place) == []
    assert not place.exists()
    assert grpc_sockets(ports) == []


def test_a_folder_keeps_its_data_passwords_and_ports_and_takes_other_ports_where_those_are_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServers().start(folder / "data") as first:
        write(first, "kept")
        address = first.environment()
        before = dict(first.home.identity.ports)
        with pytest.raises(StartFailed, match="another fillfleet"):
            EmbeddedServers().start(folder / "data")
        assert read(first) == ("kept", "kept", "kept")
    with EmbeddedServers().start(folder / "data") as second:
        assert second.environment() == address
        assert read(second) == ("kept", "kept", "kept")
        assert_that_writes_reach_the_disk(second)
    taken = [socket.create_server(("127.0.0.1", before[name])) for name in ("valkey", "postgres", "volume")]
    # As if somebody took them between our look and the server's bind.
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    try:
        with EmbeddedServers().start(folder / "data") as third:
            after = third.home.identity.ports
            assert all(after[name] != before[name] for name in ("valkey", "postgres", "volume"))
            assert read(third) == ("kept", "kept", "kept")
    finally:
        for listener in taken:
            listener.close()


def assert_that_writes_reach_the_disk(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        settings = client.config_get("*")
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
    assert settings["maxmemory-policy"] == "noeviction"
    with psycopg.connect(servers.database_url) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == ("on",)


@needs_proc
def test_no_orphan_outlives_a_parent_that_dies_without_a_word() -> None:
    with holder() as (killed, said_by_killed), holder() as (terminated, said_by_terminated):
        killed.kill()
        terminated.terminate()
        for said in (said_by_killed, said_by_terminated):
            assert wait_until(lambda: all_gone([*said["pids"].values(), said["guardian"]]), 60)  # noqa: B023
            assert processes_in(Path(said["folder"])) == []
            assert not Path(said["folder"]).exists()
            assert grpc_sockets(said["ports"]) == []


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing looks after the guardian itself")
def test_no_orphan_outlives_the_guardian(folder: Path) -> None:
    with holder(str(folder)) as (_parent, said):
        os.kill(said["guardian"], signal.SIGKILL)
        try:
            assert wait_until(lambda: processes_in(folder) == [] and all_gone(said["pids"].values()), 60)
        finally:
            for left in grpc_sockets(said["ports"]):  # nobody is there to remove them
                left.unlink()


@needs_proc
def test_ctrl_c_on_the_terminal_stops_the_servers_in_an_orderly_way(folder: Path) -> None:
    with holder(str(folder), stderr=subprocess.DEVNULL) as (parent, said):
        env = said["environment"]
        bucket = env["S3_BUCKET"]
        s3 = s3_client(env["S3_ENDPOINT"], env["S3_ACCESS_KEY"], env["S3_SECRET_KEY"])
        s3.put_object(Bucket=bucket, Key="word", Body=b"kept")
        s3.close()
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to everyone in its foreground
        parent.wait(60)
    assert all_gone([*said["pids"].values(), said["guardian"]])
    assert "database system is shut down" in (folder / "logs" / "postgres.log").read_text()
    assert "Valkey is now ready to exit" in (folder / "logs" / "valkey.log").read_text()
    # SeaweedFS gets the same signal but often exits before it has written so: what counts is what it kept.
    with EmbeddedServers(durable=False).start(folder) as again:
        s3 = s3_client(again.s3_endpoint, again.s3_access_key, again.s3_secret_key)
        assert s3.get_object(Bucket=bucket, Key="word")["Body"].read() == b"kept"
        s3.close()


def test_a_folder_goes_on_after_a_crash_of_the_system_in_it(folder: Path) -> None:
    with holder(str(folder)) as (parent, said):
        with psycopg.connect(said["environment"]["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE words (word text)")
        parent.kill()
        parent.wait()
        # At once, while the guardian is still stopping what the crash left.
        with EmbeddedServers(durable=False).start(folder) as servers:
            assert servers.environment() == said["environment"]
            with psycopg.connect(servers.database_url) as connection:
                assert connection.execute("SELECT count(*) FROM words").fetchone() == (0,)


def python_for_all(folder: Path) -> Path:
    """Return this Python, or a copy of it in `folder` where not everybody may enter the place of ours."""
    if not unprivileged.reachable_by_all(Path(sys.executable).resolve().parent):
        stdlib, python = Path(sysconfig.get_path("stdlib")), folder / "python"
        unneeded = shutil.ignore_patterns(
            "site-packages", "test", "tests", "__pycache__", "config-*", "idlelib", "tkinter"
        )
        shutil.copytree(stdlib, python / "lib" / stdlib.name, ignore=unneeded)
        for library in stdlib.parent.glob("libpython*"):
            shutil.copy2(library, python / "lib")
        (python / "bin").mkdir()
        shutil.copy2(Path(sys.executable).resolve(), python / "bin" / "python")
        return python / "bin" / "python"
    return Path(sys.executable)


@needs_root
@pytest.mark.skipif(not unprivileged.reachable_by_all(ROOT), reason="nobody may not enter the folder of this checkout")
def test_a_plain_user_can_start_them(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    python = python_for_all(folder)
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    env = {
        "HOME": str(folder),
        "LD_LIBRARY_PATH": str(python.parents[1] / "lib"),
        "PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    who: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "env": env}
    with holder(str(folder / "data"), python=str(python), stderr=subprocess.DEVNULL, **who) as (parent, said):
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in said["pids"].values()}
        assert owners == {nobody.pw_uid}
        with psycopg.connect(said["environment"]["DATABASE_URL"]) as connection:
            connection.execute("SELECT 1")
        os.kill(parent.pid, signal.SIGINT)
        parent.wait(60)


@needs_root
def test_root_can_start_them_from_wheels_and_in_a_folder_that_nobody_else_may_enter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = postgres.wheel().parent
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), closed / name, symlinks=True)
    monkeypatch.setattr(postgres, "wheel", lambda: closed / package.name / "pginstall")
    monkeypatch.setattr(unprivileged, "SHARED", folder / "shared")
    with EmbeddedServers(durable=False).start(closed / "data") as servers:
        write(servers, "reached")
        assert read(servers) == ("reached", "reached", "reached")
        assert Path(f"/proc/{servers.postgres.pid}").stat().st_uid != 0


def test_another_users_folder_is_refused_in_words(folder: Path) -> None:
    if os.geteuid() == 0:
        (folder / "fillfleet.json").write_text("{}")
        os.chown(folder / "fillfleet.json", 12345, 12345)
        with pytest.raises(StartFailed, match="belongs to user id 12345"):
            EmbeddedServers().start(folder)
    else:
        with pytest.raises(StartFailed, match="name another one with --dir"):
            EmbeddedServers().start(Path("/"))


def test_a_start_that_fails_leaves_nothing_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "valkey").mkdir()
    (folder / "valkey" / "appendonlydir").write_text("not a folder")
    servers = EmbeddedServers(durable=False)
    with pytest.raises(StartFailed, match="valkey did not start"):
        servers.start(folder)
    assert processes_in(folder) == []
    with suppress(StartFailed):
        servers.stop()
