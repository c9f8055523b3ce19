"""The bucket: puts, gets and deletes objects, and signs links to them.

Keys lie under an owner's prefix. Links are signed for the public endpoint, on read and short-lived; no message here
names an endpoint or a secret. Trouble of the store is Unavailable: it counts against no job.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit
from uuid import UUID

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from common.atomic_file import atomic_file
from common.errors import FillfleetError, Rejected, Transient, Unavailable
from common.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

BLOCK_BYTES = 256 * 1024
DELETE_BATCH = 1000  # what DeleteObjects takes at most
BUSY = frozenset({408, 425, 429})
NO_SUCH_KEY = frozenset({"NoSuchKey", "404", "NotFound"})
SHUT = frozenset({"NoSuchBucket", "AccessDenied", "403", "Forbidden", "PermanentRedirect", "301"})
"""The bucket is not there, or not for us."""
BUCKET_EXISTS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
_NOT_FOUND = "object_not_found"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_EXTENSION = re.compile(r"[a-z0-9]{1,10}")


class Objects:
    """One bucket. Threads may share one: botocore's clients are thread-safe, and nothing else is kept here."""

    def __init__(self, settings: Settings) -> None:
        session = boto3.session.Session(
            aws_access_key_id=settings.s3_access_key.get_secret_value(),
            aws_secret_access_key=settings.secret("s3_secret_key"),
            region_name=settings.s3_region,
        )
        self.bucket = settings.s3_bucket
        self.endpoint = settings.s3_endpoint.rstrip("/")
        self._readable = {settings.s3_bucket, *(prefix.bucket for prefix in settings.s3_read_prefixes)}
        self._region = settings.s3_region
        self._link_seconds = settings.presigned_url_seconds
        self._client = _connect(session, settings.s3_endpoint)
        # A client takes a quarter of a second to make, which is most of what a short command does.
        same = settings.s3_link_endpoint == settings.s3_endpoint.rstrip("/")
        self._signer = self._client if same else _connect(session, settings.s3_link_endpoint)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._client.close()
        self._signer.close()

    def uri(self, key: str) -> str:
        """Return the s3:// URI of `key`: what tables and exports store."""
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        """Store `data` (of a file: from where it stands, read in pieces) under `key`, over what was there.

        Raises Unavailable, Transient.
        """
        with _errors_in_words():
            self._client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type)

    def get(self, key: str, *, max_bytes: int, bucket: str | None = None) -> bytes:
        """Return the content of `key`, of another bucket if it is named.

        Raises Rejected: object_not_found, object_too_large, and bucket_not_readable of another bucket; Unavailable,
        Transient.
        """
        data = io.BytesIO()
        self._read(key, max_bytes, data.write, bucket)
        return data.getvalue()

    def download(self, key: str, target: Path, *, max_bytes: int, bucket: str | None = None) -> str:
        """Write the content of `key` to `target`, wholly or not at all, and return its sha256 in hex.

        Raises as `get` does, and OSError where the folder cannot be written to.
        """
        with atomic_file(target) as file:
            return self._read(key, max_bytes, file.write, bucket)

    def size(self, key: str, *, bucket: str | None = None) -> int | None:
        """Return the bytes of `key`, or None where there is no such object. Raises Unavailable, Transient.

        Of another bucket, Rejected (bucket_not_readable), too.
        """
        try:
            with self._reading(bucket) as name:
                return self._client.head_object(Bucket=name, Key=key)["ContentLength"]
        except Rejected as error:
            if error.code != _NOT_FOUND:
                raise
            return None

    def list_keys(self, prefix: str, *, bucket: str | None = None) -> Iterator[tuple[str, int]]:
        """Yield (key, bytes) of all objects whose key begins with `prefix`, a page at a time.

        Stores differ in the order: S3 has it by bytes, SeaweedFS folder by folder. Raises Unavailable, Transient; of
        another bucket, Rejected (bucket_not_readable), too.
        """
        for page in self._pages(prefix, "", bucket):
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["Size"]

    def list_folder(self, prefix: str, *, bucket: str | None = None) -> Iterator[tuple[str, int | None]]:
        """Yield (key, bytes) of the objects right below `prefix`, which ends with /, and (prefix, None) of its folders.

        Raises as `list_keys` does.
        """
        for page in self._pages(prefix, "/", bucket):
            for folder in page.get("CommonPrefixes", []):
                yield folder["Prefix"], None
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["Size"]

    def _pages(self, prefix: str, delimiter: str, bucket: str | None) -> Iterator[ListObjectsV2OutputTypeDef]:
        paginator = self._client.get_paginator("list_objects_v2")
        with self._reading(bucket) as name:
            pages = iter(paginator.paginate(Bucket=name, Prefix=prefix, Delimiter=delimiter))
        while True:
            with self._reading(bucket):
                page = next(pages, None)
            if page is None:
                return
            yield page

    @contextmanager
    def stream(self, key: str, *, start: int = 0, bucket: str | None = None) -> Iterator[Callable[[int], bytes]]:
        """Yield a function that returns the next bytes of `key`, at most as many as asked for; b"" at the end.

        The first is byte `start`, counted from 0. Raises as `get` does, without its limit.
        """
        with self._reading(bucket) as name:
            if start:
                answer = self._client.get_object(Bucket=name, Key=key, Range=f"bytes={start}-")
            else:
                answer = self._client.get_object(Bucket=name, Key=key)
        body = answer["Body"]
        with body:

            def read(size: int) -> bytes:
                with _errors_in_words():
                    return body.read(size)

            yield read

    def presigned_get(self, key: str) -> str:
        """Return a short-lived link that reads `key`. Never log or store it."""
        return self._signer.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=self._link_seconds
        )

    def presigned_put(self, key: str, content_type: str, size: int | None, *, sha256: str | None = None) -> str:
        """Return a short-lived link that takes one PUT to `key` with just this Content-Type and, if given, size.

        With a sha256 (base64) the PUT has to carry it as x-amz-checksum-sha256, and the store checks the bytes by it.
        """
        wish: dict[str, str | int] = {"Bucket": self.bucket, "Key": key, "ContentType": content_type}
        if size is not None:
            wish["ContentLength"] = size  # becomes a signed header, so the store refuses any other length
        if sha256 is not None:
            wish["ChecksumSHA256"] = sha256  # a signed header, too
        return self._signer.generate_presigned_url("put_object", Params=wish, ExpiresIn=self._link_seconds)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; those that do not exist are fine. Raises Unavailable, Transient; may be repeated."""
        names = list(keys)
        for start in range(0, len(names), DELETE_BATCH):
            batch = names[start : start + DELETE_BATCH]
            with _errors_in_words():
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            if any(error.get("Code") not in NO_SUCH_KEY for error in answer.get("Errors", [])):
                raise _unavailable()

    def has_bucket(self) -> bool:
        """Return whether the bucket exists. Raises Unavailable."""
        try:
            self._client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if _status(error) != 404:
                raise _in_words(error) from None
            return False
        except BotoCoreError:
            raise _unavailable() from None
        return True

    def ensure_bucket(self) -> None:
        """Create the bucket unless it exists; any number of processes may do so at once. Raises Unavailable."""
        if self.has_bucket():
            return
        try:
            with _errors_in_words(but=BUCKET_EXISTS):
                if self._region == "us-east-1":  # AWS refuses this one as a location constraint
                    self._client.create_bucket(Bucket=self.bucket)
                else:
                    self._client.create_bucket(
                        Bucket=self.bucket,
                        CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]
                    )
        except ClientError:  # another process was first
            return

    @contextmanager
    def _reading(self, bucket: str | None) -> Iterator[str]:
        """Yield the bucket to read from: ours unless another is named."""
        if bucket is None or bucket == self.bucket:
            with _errors_in_words():
                yield self.bucket
            return
        if bucket not in self._readable:  # whoever forgot to check it before gets nothing by that
            raise _not_readable()
        try:
            # That our own bucket is shut or missing is an outage of ours; of another it is no reason to stop all jobs.
            with _errors_in_words(but=SHUT):
                yield bucket
        except ClientError:
            raise _not_readable() from None

    def _read(self, key: str, max_bytes: int, write: Callable[[bytes], object], bucket: str | None) -> str:
        digest = hashlib.sha256()
        size = 0
        with self._reading(bucket) as name:
            body = self._client.get_object(Bucket=name, Key=key)["Body"]
        with body:
            while True:
                with _errors_in_words():
                    block = body.read(BLOCK_BYTES)
                if not block:
                    return digest.hexdigest()
                size += len(block)
                if size > max_bytes:
                    raise Rejected("object_too_large", f"the object is larger than the {max_bytes} bytes allowed")
                digest.update(block)
                write(block)


def output_key(owner: UUID, job: UUID, attempt: int, n: int, extension: str, batch: UUID | None = None) -> str:
    """Return the key of a job's output `n`. The attempt is in it, so that two attempts never write one object."""
    folder = batch.hex if batch else "single"
    return f"outputs/{owner.hex}/{folder}/{job.hex}/{attempt}-{n}.{_checked(extension)}"


def input_key(owner: UUID, sha256: str, extension: str) -> str:
    """Return the key of an input known by its content (sha256 in hex)."""
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("sha256 must be 64 lower-case hex digits")
    return f"inputs/{owner.hex}/{sha256}.{_checked(extension)}"


def upload_key(owner: UUID, upload_id: UUID, filename: str) -> str:
    """Return the key of an upload. Of the user's file name only the last part and plain characters are kept."""
    name = re.split(r"[/\\]", filename)[-1]
    name = _UNSAFE.sub("_", name).lstrip(".")[-100:].lstrip(".") or "file"
    return f"uploads/{owner.hex}/{upload_id.hex}/{name}"


def _checked(extension: str) -> str:
    if not _EXTENSION.fullmatch(extension):
        raise ValueError(f"not a file extension: {extension!r}")
    return extension


def _connect(session: boto3.session.Session, endpoint: str) -> S3Client:
    local = urlsplit(endpoint).hostname in {"127.0.0.1", "::1", "localhost"}
    config = Config(
        signature_version="s3v4",  # presigned links default to version 2
        s3={"addressing_style": "path"},  # self-hosted stores have no wildcard host names
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
        proxies={} if local else None,  # a proxy from the environment cannot reach our own loopback
    )
    return session.client("s3", endpoint_url=endpoint, config=config)


@contextmanager
def _errors_in_words(but: frozenset[str] = frozenset()) -> Iterator[None]:
    """Turn botocore's errors into ours, except those with a code in `but`; their own texts name the endpoint."""
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in but:
            raise
        raise _in_words(error) from None
    except ParamValidationError:
        raise Transient("storage_refused", "the object store cannot take this name or content") from None
    except BotoCoreError:
        raise _unavailable() from None


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)


def _in_words(error: ClientError) -> FillfleetError:
    status = _status(error)
    if status == 404 and error.response.get("Error", {}).get("Code") in NO_SUCH_KEY:
        return Rejected(_NOT_FOUND, "the object does not exist; it may have been deleted")
    # 403 and a missing bucket are our own set-up gone wrong, which no job is to blame for.
    if status >= 500 or status in BUSY or status in {403, 404}:
        return _unavailable()
    return Transient("storage_refused", f"the object store refused the request (HTTP {status})")


def _unavailable() -> Unavailable:
    return Unavailable("storage_unavailable", "the object store is not available; try again later")


def _not_readable() -> Rejected:
    return Rejected(
        "bucket_not_readable",
        "this bucket cannot be read from here: it does not exist, or this server has no right to read it; check its "
        "name, or ask the operator",
    )
