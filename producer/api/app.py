"""Puts the API together: routes under /api/v2 and /api/v3, errors as envelopes, limits and logs around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from common.contract import FillRequest
from common.settings import Settings
from producer.api import batch_inputs, batch_results, batch_rows, batches, health, media, models, predictions
from producer.api.access_log import AccessLog
from producer.api.batch_inputs import InputWish
from producer.api.batch_wish import BatchWish, OptionsWish
from producer.api.body_limit import BodyLimit
from producer.api.errors import add_error_handlers
from producer.api.health import Readiness
from producer.api.lines_body import is_lines
from producer.api.links import VERSIONS
from producer.api.media import FILE_FIELD, MULTIPART_OVERHEAD_BYTES, UploadWish
from producer.api.openapi import document
from producer.api.predictions import DeleteWish, ListWish
from producer.api.services import make_services
from producer.api.submit import submit_router
from producer.batch_wire import PREFIX


def create_app(settings: Settings) -> FastAPI:
    """Return the app. It connects to the servers only when asked, so it starts, and says so, while they are away."""
    services = make_services(settings)
    readiness = Readiness(settings, services.engine, services.objects)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        readiness.close()
        services.close()

    app = FastAPI(
        title="Fillfleet",
        version=version("fillfleet"),
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect is no envelope, and clients repeat a POST as a GET
        redoc_url=None,
    )
    app.state.services = services
    app.state.readiness = readiness
    for api_version in VERSIONS:
        for router in (submit_router(), predictions.router, media.router, models.router):
            app.include_router(router, prefix=f"/api/{api_version}")
    # Our own, of no other version. The fixed names come before those of batches.
    for router in (batch_inputs.router, batch_rows.router, batch_results.router, batches.router):
        app.include_router(router, prefix="/api/v3")
    app.include_router(health.router)
    add_error_handlers(app)
    document(app, [FillRequest, ListWish, DeleteWish, UploadWish, BatchWish, OptionsWish, InputWish])

    def limit_of(path: str, content_type: str) -> tuple[str, int]:
        if path.endswith("/media/upload/binary"):
            return FILE_FIELD, settings.upload_max_bytes + MULTIPART_OVERHEAD_BYTES
        if path.startswith(f"{PREFIX}/") and path.endswith(("/rows", "/check")):
            return "body", settings.batch_chunk_max_bytes
        if path == PREFIX and is_lines(content_type):
            return "body", settings.batch_body_max_bytes
        return "body", settings.api_max_body_bytes

    app.add_middleware(BodyLimit, limit_of=limit_of)
    app.add_middleware(AccessLog)  # added last, so it is the outermost
    return app
