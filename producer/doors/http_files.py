"""Inputs and outputs by way of the API: it signs a link for each, and the bytes go straight from or to the bucket."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import BinaryIO, Final

import requests

from common.errors import Rejected, Transient
from producer.batch_wire import PREFIX, InputsWire, InputWire, OutputWire
from producer.doors.http_calls import TROUBLE, Calls, in_words

_BLOCK_BYTES: Final = 256 * 1024
_STORE: Final = "the object store"


class HttpInputs:
    """Where files that rows bring along go: see InputStore."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._lock = threading.Lock()
        self._known: InputsWire | None = None

    @property
    def name(self) -> str:
        """The API's address, and what of the bucket is this owner's."""
        return f"{self._calls.url} {self._prefix}"

    @property
    def max_bytes(self) -> int:
        """The largest file that is taken."""
        return self._place().max_bytes

    def key(self, sha256: str, extension: str) -> str:
        """Return the key of this content under the owner."""
        return f"{self._prefix.split('/', 3)[3]}{sha256}.{extension}"

    def uri(self, key: str) -> str:
        """Return the s3:// URI of `key`."""
        return "/".join([*self._prefix.split("/", 3)[:3], key])

    def has(self, key: str) -> bool:  # noqa: ARG002
        """Return False: `put` asks before it sends."""
        return False

    def put(self, key: str, data: Callable[[], BinaryIO], size: int, content_type: str, sha256: str) -> None:
        """Store the bytes, unless they are there. Raises Rejected, InvalidRequest, Transient; may be repeated."""
        wish = {
            "sha256": sha256,
            "extension": key.rpartition(".")[2],
            "size": size,
            "content_type": content_type,
        }
        patience = self._calls.patience()
        while True:
            found = self._calls.json(InputWire, "POST", f"{PREFIX}/inputs", json=wish)
            if found.exists or found.upload is None:
                return
            try:
                with (
                    data() as file,
                    closing(self._calls.put_file(found.upload.url, file, found.upload.headers)) as answer,
                ):
                    status = answer.status_code
            except TROUBLE as error:
                patience.wait(f"{_STORE} {in_words(error)}", None)
                continue
            if 200 <= status < 300:
                return
            if status in {400, 411, 413}:
                raise Transient("storage_refused", f"{_STORE} refused the file (HTTP {status}); did it just change?")
            patience.wait(f"{_STORE} answered HTTP {status}", None)  # 403: the link has run out

    @property
    def _prefix(self) -> str:
        return self._place().prefix

    def _place(self) -> InputsWire:
        with self._lock:
            if self._known is None:
                self._known = self._calls.json(InputsWire, "GET", f"{PREFIX}/inputs")
            return self._known


class HttpOutputs:
    """Where the outputs are read from: see OutputStore."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def fetch(self, uri: str, *, max_bytes: int) -> bytes:
        """Return the content. Raises Rejected where it is not there, Transient where another try may help."""
        link = self._calls.json(OutputWire, "GET", f"{PREFIX}/outputs", params={"uri": uri})
        try:
            with closing(self._calls.get_file(link.url)) as answer:
                if answer.status_code == 404:
                    raise Rejected("object_not_found", "the object does not exist; it may have been deleted")
                if answer.status_code != 200:
                    raise Transient("storage_refused", f"{_STORE} answered HTTP {answer.status_code}")
                return _bounded(answer, max_bytes)
        except TROUBLE as error:
            raise Transient("storage_unreachable", f"{_STORE} {in_words(error)}") from None


def _bounded(answer: requests.Response, max_bytes: int) -> bytes:
    data = bytearray()
    for block in answer.iter_content(_BLOCK_BYTES):
        data += block
        if len(data) > max_bytes:
            raise Rejected("object_too_large", f"the object is larger than the {max_bytes} bytes allowed")
    return bytes(data)
