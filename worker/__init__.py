"""Everything that needs the GPU: the Celery worker, the fill of one job, the device, adapters, canvas and safety."""

import logging
import os

# Before the libraries are imported: their warnings quote prompts, and their progress bars fill the log.
for _name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "CACHE_DIT_LOG_LEVEL"):
    os.environ.setdefault(_name, "error")
for _name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")
# torchao tells of kernels for other GPUs, and torch of torchao, wherever it is installed and whether or not it is used.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
