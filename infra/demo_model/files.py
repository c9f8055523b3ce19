"""Where the demo model and its LoRAs lie in this repository. They were trained once; `make model` does it again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE / "weights"
"""The pipeline, as diffusers saves it."""
LORAS: Final = HERE / "loras"
"""One .safetensors a style: FILL_MODEL=bundled fits them, and no other model does."""
LOGS: Final = HERE / "logs"
"""What each training said while it ran, a JSON line every 50 steps."""
