"""GET /models: the names that can be submitted to, with the schema of a request, as the vendor's tools read it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from common.contract import MODELS, FillRequest
from producer.api import openapi
from producer.api.auth import CallerOf
from producer.api.envelope import success
from producer.api.links import ApiRoot, ApiRootOf
from producer.api.openapi import ModelInfo

router = APIRouter(tags=["models"])


@router.get("/models", summary="List models", responses=openapi.responses(openapi.ModelsEnvelope, 401, 503))
async def list_models(_caller: CallerOf, root: ApiRootOf) -> Response:
    """List the names of the one model that is served here."""
    return success([_describe(model, root).model_dump(mode="json") for model in MODELS])


def _describe(model: str, root: ApiRoot) -> ModelInfo:
    schema = {
        "type": "model_run",
        "method": "POST",
        "server": root.base,
        "api_path": f"/api/{root.version}/{model}",
        "request_schema": FillRequest.model_json_schema(),
    }
    return ModelInfo(
        model_id=model,
        name=model,
        base_price=0.0,  # whoever runs the GPUs pays for them
        description="Fill, outpaint or remove: FLUX.1 [dev] Fill with LoRAs.",
        type="image-to-image",
        api_schema={"api_schemas": [schema]},
    )
