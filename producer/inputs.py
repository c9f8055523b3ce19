"""What a request names (image, mask, LoRAs), checked before anything is queued: a URL, and this owner's to read?

Uploads and our own links become s3:// URIs here, so they never travel over HTTP. Nothing is fetched: the worker does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from common.contract import ALLOWED, FillRequest, InvalidRequest, Problem
from common.errors import Rejected
from common.ids import parse_id
from common.objects import Objects
from common.owners import owner_name
from common.settings import OWNED_FOLDERS, Settings
from common.sources import HttpSource, ObjectSource, check_source_owner, parse_source
from common.urls import origin, shown, split_http_url
from producer.uploads import find_upload

Ask = Callable[[Callable[[Connection], Any]], Any]
"""Runs a function on a connection and returns what it returned: few sources need the database to be judged."""

_UPLOAD_PATH: Final = re.compile(r"/api/v[23]/media/files/([^/]*)(/.*)?")


class NoSuchUpload(InvalidRequest):
    """A request names an upload that its owner does not have."""


class InputResolver:
    """Resolves what requests of one owner name. `base` is the API's own address as the caller knows it."""

    def __init__(self, settings: Settings, objects: Objects, owner: UUID, base: str | None) -> None:
        self._settings = settings
        self._objects = objects
        self._owner = owner
        # Most sources of a large batch, and taken as they are: judging a million by the long way takes half a minute.
        self._plainly_own = re.compile(
            rf"s3://{re.escape(settings.s3_bucket)}/(?:{'|'.join(OWNED_FOLDERS)})/{owner.hex}"
            r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._-]{1,255}){1,3}"
        )
        self._base = None if base is None else split_http_url(base)
        self._name: str | None = None

    def resolve(self, request: FillRequest, ask: Ask) -> FillRequest:
        """Return the request with every source that is ours as an s3:// URI; `ask` runs a look at the database.

        Raises InvalidRequest naming the field where a source can never be read, NoSuchUpload.
        """
        mask = request.mask_image
        found = {
            "image": self._source(ask, "image", request.image),
            "mask_image": None if mask is None else self._source(ask, "mask_image", mask),
            "loras": tuple(
                lora.model_copy(update={"path": self._lora(ask, f"loras[{number}].path", lora.path)})
                for number, lora in enumerate(request.loras)
            ),
        }
        same = found["image"] == request.image and found["mask_image"] == mask and not request.loras
        return request if same else request.model_copy(update=found)

    def source(self, field: str, text: str, ask: Ask, *, allowed: str, folders: bool = False) -> str:
        """Return what `text` names, as an s3:// URI where it is ours. Raises as `resolve`, with `allowed` in words.

        With `folders` it may also be the s3:// URI of a whole folder, with / at its end, or of a bucket.
        """
        return self._source(ask, field, text, allowed, folders)

    def _lora(self, ask: Ask, field: str, path: str) -> str:
        # Without a scheme it is a hub id or a name in the LoRA folder, which the worker looks up.
        return self._source(ask, field, path) if "://" in path else path

    def _source(self, ask: Ask, field: str, text: str, allowed: str | None = None, folders: bool = False) -> str:
        if self._plainly_own.fullmatch(text):
            return text
        try:
            source = parse_source(text, self._settings, what=field, folders=folders)
            if isinstance(source, HttpSource):
                source = self._upload(ask, field, source)
            check_source_owner(
                source,
                self._owner,
                self._settings,
                name_of=lambda _owner: self._name_of_owner(ask),
                what=field,
                folders=folders,
            )
        except Rejected as error:
            raise InvalidRequest((_problem(field, text, error.message, allowed),)) from None
        return source.url if isinstance(source, HttpSource) else source.uri

    def _name_of_owner(self, ask: Ask) -> str | None:
        if self._name is None:  # names never change, and a batch may need this one for each of a million rows
            self._name = ask(lambda connection: owner_name(connection, self._owner))
        return self._name

    def _upload(self, ask: Ask, field: str, source: HttpSource) -> HttpSource | ObjectSource:
        """Return the object that a link to an upload names. Any name of this API's host will do: ids are unique."""
        parts = split_http_url(source.url)
        prefix = "" if self._base is None else self._base.path.rstrip("/")
        ours = self._base is not None and origin(parts) == origin(self._base) and parts.path.startswith(prefix)
        found = _UPLOAD_PATH.fullmatch(parts.path.removeprefix(prefix) if ours else parts.path)
        if found is None:
            return source
        upload_id = parse_id(found[1])
        upload = ask(lambda connection: find_upload(connection, self._owner, upload_id)) if upload_id else None
        if upload is not None:
            return ObjectSource(self._objects.bucket, upload.key)
        if ours:
            problem = Problem(field, shown(source.url), "is no upload of yours", "an upload made with a key of yours")
            raise NoSuchUpload((problem,))
        return source


def _problem(field: str, text: str, message: str, allowed: str | None) -> Problem:
    """Take a source's error apart: it says `field: "value" reason`, and `value` alone may be shown."""
    value = shown(text)
    reason = message.removeprefix(f"{field}: ").removeprefix(value).strip(" :")
    return Problem(field, value, reason, allowed or ALLOWED[re.sub(r"\[\d+\]", "", field)])
