"""Everything that needs the GPU: the Celery worker, the fill of one job, the device, adapters, canvas and safety."""

import os

# Before the libraries are imported: their warnings quote prompts, and their progress bars fill the log.
for _name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
    os.environ.setdefault(_name, "error")
for _name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")
