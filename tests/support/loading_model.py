"""A model that is never loaded: its thread stays in torch, at work, as it is for a while with every real one."""

from __future__ import annotations

import torch

from common.settings import Settings
from common.telemetry import get_logger
from tests.support.sleeping_model import SleepingModel

log = get_logger(__name__)


class LoadingModel(SleepingModel):
    """Loads for ever. TEST_MODEL_CLASS=tests.support.loading_model:LoadingModel"""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        values = torch.zeros(100_000)
        log.info("loading_model.is_in_torch")
        while True:
            values = values.cos()
