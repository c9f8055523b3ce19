"""The API's own address as the caller knows it: links in answers stay in the caller's version of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import Depends
from starlette.requests import Request

from common.contract import Problem, shorten
from common.urls import BadUrl, split_http_url
from producer.api.envelope import invalid
from producer.api.services import ServicesOf
from producer.uploads import Upload

VERSIONS: Final = ("v2", "v3")


@dataclass(frozen=True)
class ApiRoot:
    """Where the API is, without a slash at the end: `base` such as https://host, `version` v2 or v3."""

    base: str
    version: str

    @property
    def url(self) -> str:
        """The absolute address below which the version's routes lie."""
        return f"{self.base}/api/{self.version}"

    def prediction(self, job: UUID) -> str:
        """Return where the result of a job is."""
        return f"{self.url}/predictions/{job.hex}/result"

    def upload(self, upload: Upload) -> str:
        """Return the link by which the owner names an upload in a request."""
        return f"{self.url}/media/files/{upload.id.hex}/{quote(upload.safe_name)}"


def _api_root(request: Request, services: ServicesOf) -> ApiRoot:
    base = services.settings.public_url or str(request.base_url)
    try:
        split_http_url(base)
    except BadUrl as error:
        host = shorten(request.headers.get("host", ""))
        raise invalid([Problem("Host", host, str(error), "the host name of this API")]) from None
    version = request.scope["path"].removeprefix("/api/").partition("/")[0]
    return ApiRoot(base.rstrip("/"), version if version in VERSIONS else VERSIONS[-1])


ApiRootOf = Annotated[ApiRoot, Depends(_api_root)]
