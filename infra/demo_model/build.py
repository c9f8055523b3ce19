"""Makes the demo model's folder, all at once or not at all, and leaves a complete one alone.

It never removes a folder that it did not make itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "weights"
MARKER = "recipe.json"
CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: image-to-image
tags: [flux, fill, inpainting, demo]
---
# The demo model of Fillfleet

A FluxFillPipeline with the architecture of FLUX.1 [dev] Fill at about a two-thousandth of its size, for trying the
system out on a CPU. **It is untrained.** Its weights were set by a program: the surroundings' colours flow into the
mask, and colour words of the prompt tint them. It contains nothing of any released model.

Licence: Apache-2.0, like the program that makes it.
"""


class NotOurFolderError(Exception):
    """The folder holds something else, and is left as it is."""


def build(folder: Path = FOLDER) -> bool:
    """Make the model in `folder` unless it is there already; return whether it was made.

    Raises NotOurFolderError where the folder holds anything that is not a demo model, OSError where
    it can't be written.
    """
    if is_complete(folder):
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise NotOurFolderError(f"{folder} is not empty and holds no demo model; name an empty or a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-model-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        _save(made)
        _put_in_place(made, folder, aside=Path(scratch) / "replaced")
    return True


def is_complete(folder: Path) -> bool:
    """Say whether `folder` holds every file of a model made by this very recipe. Reads no weights."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        return bool(marker["recipe"] == recipe_hash()) and all(
            (folder / name).stat().st_size == size for name, size in marker["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def recipe_hash() -> str:
    """Return the sha256 of the sources that decide what is made."""
    digest = hashlib.sha256()
    for name in ("build.py", "recipe.py", "weights.py"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def _put_in_place(made: Path, folder: Path, *, aside: Path) -> None:
    if folder.exists():
        os.rename(folder, aside)
    try:
        os.rename(made, folder)
    except OSError:
        if not is_complete(folder):  # else somebody else was faster, and theirs is as good
            raise


def _save(folder: Path) -> None:
    """Write the pipeline, its card and the marker into the new `folder`."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that are not used here
    import diffusers
    import torch
    import transformers

    from infra.demo_model import recipe, weights

    transformers.utils.logging.disable_progress_bar()
    clip_tokenizer, t5_tokenizer = recipe.tokenizers()
    clip_config, t5_config = recipe.text_configs(clip_tokenizer, t5_tokenizer)
    with torch.random.fork_rng(devices=[]):  # the constructors draw numbers that are overwritten below
        vae = diffusers.AutoencoderTiny(**recipe.VAE)
        transformer = diffusers.FluxTransformer2DModel(**recipe.TRANSFORMER)
        clip, t5 = transformers.CLIPTextModel(clip_config), transformers.T5EncoderModel(t5_config)
    weights.set_vae(vae)
    weights.set_text_encoders(clip, t5)
    weights.set_transformer(transformer)
    pipeline = diffusers.FluxFillPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**recipe.SCHEDULER),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").write_text(CARD)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o644)  # the libraries leave weights unreadable for other users, such as a container's
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    (folder / MARKER).write_text(json.dumps({"recipe": recipe_hash(), "files": sizes}, indent=2) + "\n")
