"""The whole way from nothing to the demo model: VAE, fill, LoRAs, decoder. Each part goes on where it was killed."""

from __future__ import annotations

from pathlib import Path

from infra.demo_model.decoder_training import train_decoder
from infra.demo_model.files import FOLDER, LORAS
from infra.demo_model.fill_training import train_fill
from infra.demo_model.lora_formats import save_diffusers, save_kohya
from infra.demo_model.save import save_log, save_model
from infra.demo_model.style_training import train_styles
from infra.demo_model.styles import OUTLINED, STRIPED
from infra.demo_model.vae_training import train_vae


def train_all(work: Path) -> None:
    """Train everything with checkpoints in `work`, and put model, LoRAs and logs in their places."""
    vae = train_vae(work)
    parts = train_fill(work, vae)
    styles = train_styles(work, vae, parts)
    vae = train_decoder(work, vae)
    LORAS.mkdir(exist_ok=True)
    save_diffusers(styles[STRIPED], LORAS / f"{STRIPED}.safetensors")
    save_kohya(styles[OUTLINED], LORAS / f"{OUTLINED}.safetensors")
    parts.transformer.unload_lora()  # leaves the layers as they were
    save_model(vae, parts, FOLDER, work)
    for name in ("vae", "fill", STRIPED, OUTLINED, "decoder"):
        save_log(work, name)
