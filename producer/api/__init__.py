"""The HTTP API: the hosted endpoint's wire format over our jobs. `create_app` makes it, `server` runs it.

One file a noun: submit, predictions, media, models and health are the routes; wire is a job's form in an answer.
"""

from producer.api.app import create_app

__all__ = ["create_app"]
