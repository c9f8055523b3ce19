"""What a request for a new batch says: checked here, and made into what the intake takes."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from common.contract import InvalidRequest, Problem, Text
from common.lifecycle import NewBatch
from common.settings import Settings
from producer.api.idempotency import OnceKey
from producer.api.own_fields import own_body
from producer.inputs import Ask, InputResolver
from producer.intake import MAX_NAME_CHARS
from producer.manifest.options import Form, ManifestOptions, options_to_json
from producer.webhooks import check_webhook_url

SOURCE: Final = "an https URL, an s3:// URI that you may read, or the link of an upload"
_NAME: Final = f"a text of 1 to {MAX_NAME_CHARS} printable characters"
_PRIORITY: Final = "an integer from 0 to 9, the higher goes first"
# The intake judges name, priority and defaults for all ways to a batch; here they are only told of.
_TO_9: Final[JsonDict] = {"minimum": 0, "maximum": 9}
_Column = Annotated[Text, Field(max_length=1000)]
_Name = Annotated[Text, Field(json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_CHARS})]
_Url = Annotated[Text, Field(max_length=8192)]


class OptionsWish(BaseModel):
    """How to read the manifest."""

    model_config = ConfigDict(strict=True)

    form: Annotated[Form, Field(strict=False)] | None = Field(default=None, description=f"one of {', '.join(Form)}")
    columns: dict[str, _Column] = Field(
        default={},
        max_length=100,
        description='an object of field (or custom_id) and column, such as {"image": "picture_url"}',
    )
    constants: dict[str, Any] = Field(default={}, description="an object of fields for rows that say nothing of them")
    keep: list[_Column] = Field(
        default=[], max_length=1000, description="a list of columns to pass through although they look like a field"
    )
    mask: _Url | None = Field(default=None, description=f"one mask for all rows without one: {SOURCE}")
    mask_suffix: Annotated[Text, Field(min_length=1, max_length=100)] = Field(
        default="_mask", description="a text: x.png and x_mask.png are a pair"
    )


class BatchWish(BaseModel):
    """A new batch. Sent again with the same name and defaults, it names the same batch."""

    model_config = ConfigDict(strict=True)

    name: _Name | None = Field(default=None, description=f"{_NAME}; left out: a new one is made up")
    manifest: _Url | None = Field(
        default=None, description=f"{SOURCE}; left out: rows are sent to …/rows, and then …/open"
    )
    options: dict[str, Any] | None = Field(default=None, description="an object that says how to read the manifest")
    defaults: dict[str, Any] = Field(default={}, description="an object of fields for rows that say nothing of them")
    strict: bool = Field(default=False, description="true or false; true: any bad row stops the batch")
    priority: int = Field(default=5, description=_PRIORITY, json_schema_extra=_TO_9)
    webhook_url: Text | None = Field(default=None, description="a URL that is told when the batch ends")


class BodyWish(BaseModel):
    """The parameters of a batch whose manifest is the body itself."""

    name: _Name | None = Field(default=None, description=f"{_NAME}; left out: a new one is made up")
    strict: bool = Field(default=False, description="true or false; true: any bad row stops the batch")
    priority: int = Field(default=5, description=_PRIORITY, json_schema_extra=_TO_9)
    webhook_url: Text | None = Field(default=None, description="a URL that is told when the batch ends")
    open: bool = Field(default=True, description="true or false; false: rows wait until …/open")


def new_batch(
    wish: BatchWish, settings: Settings, resolver: InputResolver, ask: Ask, once: OnceKey | None = None
) -> NewBatch:
    """Return the batch to start; without a name, `once` is what it is known by when the request comes again.

    Raises InvalidRequest, Rejected; the latter of its webhook.
    """
    _check_webhook(wish.webhook_url, settings)
    if wish.options is not None and wish.manifest is None:
        raise InvalidRequest((Problem("options", "an object", "goes with a manifest", "left out, or with a manifest"),))
    manifest = None
    if wish.manifest is not None:
        said = own_body(OptionsWish, wish.options or {}, prefix="options.")
        source = resolver.source("manifest", wish.manifest.strip(), ask, allowed=SOURCE, folders=True)
        mask = None if said.mask is None else resolver.source("options.mask", said.mask, ask, allowed=SOURCE)
        options = ManifestOptions(
            form=said.form,
            columns=said.columns,
            constants=said.constants,
            keep=tuple(said.keep),
            mask=mask,
            mask_suffix=said.mask_suffix,
            local_files=False,
        )
        manifest = {"source": source, "options": options_to_json(options)}
    return NewBatch(
        name=wish.name or _made_up_name(manifest, once),
        defaults=wish.defaults,
        strict=wish.strict,
        priority=wish.priority,
        webhook_url=wish.webhook_url,
        manifest=manifest,
    )


def new_batch_of_body(wish: BodyWish, settings: Settings, once: OnceKey | None = None) -> NewBatch:
    """Return the same for rows that came as the body. Raises Rejected of its webhook."""
    _check_webhook(wish.webhook_url, settings)
    return NewBatch(
        name=wish.name or _made_up_name(None, once),
        strict=wish.strict,
        priority=wish.priority,
        webhook_url=wish.webhook_url,
    )


def _check_webhook(url: str | None, settings: Settings) -> None:
    if url is not None:
        check_webhook_url(url, settings)


def _made_up_name(manifest: dict[str, Any] | None, once: OnceKey | None) -> str:
    """Return a name that tells what and when, and that no other batch has; of an Idempotency-Key the same each time."""
    what = "batch"
    if manifest is not None:
        last = PurePosixPath(unquote(urlsplit(manifest["source"]).path, errors="replace")).name
        what = "".join(char if char.isprintable() else "_" for char in last)[:100].strip() or what
    if once is not None:
        return f"{what} {hashlib.sha256(once.key.encode()).hexdigest()[:16]}"
    return f"{what} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {secrets.token_hex(3)}"
