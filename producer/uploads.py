"""Uploads: which file of which owner lies under which key of the bucket. The bytes themselves go to S3.

An upload is only ever found by its id together with its owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, insert, select

from common.ids import new_id
from common.objects import upload_key
from common.tables import uploads


@dataclass(frozen=True)
class Upload:
    """One file that its owner uploads or has uploaded."""

    id: UUID
    owner: UUID
    filename: str
    """As the user named it; only `key` is safe to use in a path."""
    content_type: str
    key: str

    @property
    def safe_name(self) -> str:
        """The file's name as it stands at the end of the key: plain characters only."""
        return self.key.rsplit("/", 1)[-1]


def new_upload(owner: UUID, filename: str, content_type: str) -> Upload:
    """Return an upload with a new id; `add_upload` makes it known."""
    upload = new_id()
    return Upload(upload, owner, filename, content_type, upload_key(owner, upload, filename))


def add_upload(connection: Connection, upload: Upload) -> None:
    """Remember the upload, so that its owner can name it."""
    connection.execute(
        insert(uploads).values(
            id=upload.id,
            owner_id=upload.owner,
            filename=upload.filename,
            content_type=upload.content_type,
            object_key=upload.key,
        )
    )


def find_upload(connection: Connection, owner: UUID, upload: UUID) -> Upload | None:
    """Return the upload if it is this owner's."""
    row = connection.execute(
        select(
            uploads.c.id, uploads.c.owner_id, uploads.c.filename, uploads.c.content_type, uploads.c.object_key
        ).where(uploads.c.id == upload, uploads.c.owner_id == owner)
    ).one_or_none()
    return None if row is None else Upload(*row)
