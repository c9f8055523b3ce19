"""Manifests: what a user's list of images may look like, read as a stream of rows that all look the same.

Nothing here talks to the database or to Redis, and no row is judged by the contract: that is the intake's.
"""

from producer.manifest.row import BadRow, Content, InlineContent, LocalFile, ManifestError, ManifestRow

__all__ = ["BadRow", "Content", "InlineContent", "LocalFile", "ManifestError", "ManifestRow"]
