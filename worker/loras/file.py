"""Checks an adapter's file before anything of it touches the model, and brings it to diffusers' own names.

diffusers drops what it does not know without a word, and replaces layers that an adapter is too wide for. Here each
of these is a Rejected that says why: a file that passes changes just what its author meant it to change.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import FluxFillPipeline
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from safetensors import SafetensorError
from torch import Tensor

from common.errors import Rejected
from common.settings import Settings
from worker.loras.base_shapes import BaseShapes, Shape
from worker.loras.header import Header, header_of, too_large
from worker.loras.metadata import alphas_of_metadata

PARTS = ("transformer", "text_encoder")
_PAIR = re.compile(r"(.+)\.lora_([AB])\.weight")

UNSUPPORTED: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("a LoKr", lambda key: ".lokr_" in key),
    ("a LoHa", lambda key: ".hada_" in key),
    ("a DoRA", lambda key: "dora_scale" in key or "lora_magnitude_vector" in key),
    ("an OFT or BOFT", lambda key: ".oft_" in key or "oft_blocks" in key or ".boft_" in key),
    ("a LoCon with a middle layer", lambda key: ".lora_mid." in key),
    ("a GLoRA", lambda key: re.search(r"\.[ab][12]\.weight$", key) is not None),
    ("a control LoRA, which replaces layers of the model", lambda key: "query_norm.scale" in key or ".norm_q." in key),
    ("a LoRA for Stable Diffusion", lambda key: key.startswith(("unet.", "lora_unet_input_blocks", "lora_unet_down_"))),
)
"""Formats that diffusers would load in part or not at all, without an error."""
UNCONVERTED: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("with ComfyUI's names", re.compile(r"diffusion_model\..+\.lora_[AB]\.")),
    ("with the original FLUX names", re.compile(r"(double_blocks|single_blocks|img_in|final_layer)\b.*\.lora_[AB]\.")),
    ("whose names lack the prefix transformer.", re.compile(r"(single_)?transformer_blocks\.")),
    ("for the T5 text encoder", re.compile(r"(text_encoder_2|text_encoders\.t5xxl|lora_te2|lora_te3|t5)")),
)
"""Ways to name a LoRA's tensors that diffusers does not know; looked at only where something would be ignored."""


@dataclass(frozen=True)
class Layer:
    """What an adapter does to one linear layer. It adds B·A times alpha / rank; without alpha, just B·A."""

    rank: int
    alpha: float | None


@dataclass(frozen=True)
class VerifiedLora:
    """An adapter that fits. `state` is what FluxFillPipeline.load_lora_weights takes; `layers` is per part and name.

    `sha256` is that of the very bytes that were checked and that `state` holds. Nobody may change its tensors: on a CPU
    the model computes with them as they are.
    """

    state: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, Layer]]
    file_bytes: int
    sha256: str

    @property
    def rank(self) -> int:
        """The highest rank of its layers."""
        return max(layer.rank for part in self.layers.values() for layer in part.values())

    @property
    def numbers(self) -> int:
        """How many numbers its tensors hold."""
        return sum(value.numel() for value in self.state.values() if isinstance(value, Tensor))

    @property
    def bytes(self) -> int:
        """What its tensors take in the host's memory."""
        return sum(value.nbytes for value in self.state.values() if isinstance(value, Tensor))


def verify_lora(
    path: Path, base: BaseShapes, settings: Settings, *, what: str = "the LoRA", sha256: str | None = None
) -> VerifiedLora:
    """Return the adapter in the file at `path`, checked against the model's shapes. `what` begins the messages.

    The file is read once: what was hashed and checked is what is returned, whatever becomes of the file meanwhile.
    Raises Rejected: lora_changed (it is not the file with this `sha256`), lora_not_safetensors, lora_too_large,
    lora_rank_too_large, lora_not_finite, lora_unsupported, lora_does_not_fit. Raises OSError where it cannot be read.
    """
    try:
        return _verify(_read(path, settings.lora_max_bytes), base, settings, sha256)
    except Rejected as error:
        raise Rejected(error.code, f"{what} {error.message}") from None


def _read(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > max_bytes:
            raise too_large(size, max_bytes)
        file.seek(0)
        return file.read(size)


def _verify(data: bytes, base: BaseShapes, settings: Settings, wanted: str | None) -> VerifiedLora:
    sha256 = hashlib.sha256(data).hexdigest()
    if wanted not in {None, sha256}:
        raise Rejected("lora_changed", "was replaced by another file meanwhile; submit the job again")
    header = header_of(io.BytesIO(data), max_bytes=settings.lora_max_bytes, max_rank=settings.lora_max_rank)
    _refuse_unsupported(header)
    tensors = _load(data)
    state = _convert(tensors)
    _refuse_ignored(header, tensors)
    layers = _layers(state, base)
    if not layers:
        raise Rejected("lora_unsupported", "holds nothing that FLUX.1 Fill can use; use a LoRA made for FLUX.1")
    state |= alphas_of_metadata(header.metadata, layers, given={key for key in state if key.endswith(".alpha")})
    verified = VerifiedLora(state, _with_alphas(layers, state), header.file_bytes, sha256)
    if verified.rank > settings.lora_max_rank:
        raise Rejected("lora_rank_too_large", f"has rank {verified.rank}; at most {settings.lora_max_rank} is allowed")
    return verified


def _refuse_unsupported(header: Header) -> None:
    for kind, belongs in UNSUPPORTED:
        example = next((key for key in header.tensors if belongs(key)), None)
        if example is not None:
            raise Rejected(
                "lora_unsupported", f"is {kind} ({example}), which cannot be used here; use a plain LoRA for FLUX.1"
            )
    for key, entry in header.tensors.items():
        if key.endswith(".alpha") and entry.shape not in {(), (1,)}:
            raise Rejected("lora_unsupported", f"has an alpha that is not a single number ({key})")


def _load(data: bytes) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError:
        raise Rejected("lora_not_safetensors", "is damaged; an adapter must be a whole .safetensors file") from None
    for key, tensor in tensors.items():
        # The extremes carry NaN and infinity, and need no copies: 4 times as fast as isfinite on a large file.
        if tensor.numel() and not all(math.isfinite(extreme) for extreme in torch.aminmax(tensor)):
            raise Rejected("lora_not_finite", f"holds values that are not finite numbers ({key}); its training failed")
    return tensors


def _convert(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the tensors under diffusers' names, alphas among them. Raises Rejected where its converters give up."""
    try:
        state, alphas = FluxFillPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    except Exception as error:  # the converters assert, look keys up and split: whatever it is, the file is foreign
        raise Rejected(
            "lora_unsupported",
            f"has tensors named in a way that is not known ({_example(tensors)}); use a plain LoRA for FLUX.1",
        ) from error
    return {**state, **(alphas or {})}


def _refuse_ignored(header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Raise Rejected where the conversion drops a tensor that is not all zero.

    The conversion is repeated on stand-ins of rank 1, each filled with its own number: what comes out shows which
    tensors went in. It costs next to nothing, and it needs no list of what the converters know.
    """
    names = [key for key in tensors if not key.endswith(".alpha")]
    stand_ins = {key: torch.ones(()) for key in tensors if key.endswith(".alpha")}
    for number, key in enumerate(names, start=1):
        shape = header.tensors[key].shape
        down = re.search(r"(lora_A|down)\.weight$", key) is not None
        small = (1, 1) if down else (*shape[:1], *(1 for _ in shape[1:]))
        stand_ins[key] = torch.full(small, float(number))
    converted = _convert(stand_ins)
    wanted = {key for key in converted if key.startswith(tuple(f"{part}." for part in PARTS))}
    used = {round(float(converted[key].reshape(-1)[0])) for key in wanted if not key.endswith(".alpha")}
    ignored = [key for n, key in enumerate(names, start=1) if n not in used and bool(tensors[key].any())]
    if ignored:
        kind = next((kind for kind, pattern in UNCONVERTED if pattern.match(ignored[0])), "of another model or format")
        raise Rejected(
            "lora_unsupported",
            f"has {len(ignored)} of {len(names)} tensors {kind} ({ignored[0]}), which would have no effect; "
            "convert it to diffusers' format first",
        )


def _layers(state: Mapping[str, Any], base: BaseShapes) -> dict[str, dict[str, Layer]]:
    """Return what the adapter changes. Raises Rejected unless each pair has just the shape of a layer of the model."""
    layers: dict[str, dict[str, Layer]] = {}
    for part, shapes in zip(PARTS, (base.transformer, base.text_encoder), strict=True):
        pairs: dict[str, dict[str, Shape]] = {}
        for key, tensor in _peft_names(state, part, shapes).items():
            match = _PAIR.fullmatch(key)
            if match is None or tensor.ndim != 2:
                raise Rejected("lora_unsupported", f"has a tensor that is no part of a plain LoRA ({part}.{key})")
            pairs.setdefault(match[1], {})[match[2]] = (tensor.shape[0], tensor.shape[1])
        for name, pair in pairs.items():
            layers.setdefault(part, {})[name] = _layer(f"{part}.{name}", pair, shapes.get(name), base)
    return layers


def _peft_names(state: Mapping[str, Any], part: str, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Return the part's tensors without its prefix, under the names that peft will see."""
    own = {
        key.removeprefix(f"{part}."): tensor
        for key, tensor in state.items()
        if key.startswith(f"{part}.") and not key.endswith(".alpha")
    }
    if part == "transformer" or not own:
        return own
    try:
        own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
    except ValueError:
        raise Rejected("lora_unsupported", f"changes the text encoder in an unknown way ({_example(own)})") from None
    old_names = any(name.startswith("text_model.") for name in shapes)
    return own if old_names else {key.removeprefix("text_model."): tensor for key, tensor in own.items()}


def _layer(name: str, pair: Mapping[str, Shape], shape: Shape | None, base: BaseShapes) -> Layer:
    if shape is None:
        raise Rejected("lora_does_not_fit", f"changes {name}, which this model does not have; it is for another model")
    if pair.keys() != {"A", "B"}:
        raise Rejected("lora_unsupported", f"has only one half of the pair for {name}")
    (rank, inputs), (outputs, rank_again) = pair["A"], pair["B"]
    fits = inputs == shape[1] or (name == "transformer.x_embedder" and inputs == base.noise_width)
    if not fits or outputs != shape[0] or rank != rank_again or rank < 1:
        raise Rejected(
            "lora_does_not_fit",
            f"changes {name} from {inputs} inputs to {outputs} outputs (rank {rank} and {rank_again}), "
            f"but this model's has {shape[1]} inputs and {shape[0]} outputs; it is for another model",
        )
    return Layer(rank, None)


def _with_alphas(layers: Mapping[str, Mapping[str, Layer]], state: Mapping[str, Any]) -> dict[str, dict[str, Layer]]:
    """Return the layers with the alphas that `state` has for them."""
    alphas = {key.removesuffix(".alpha"): float(value) for key, value in state.items() if key.endswith(".alpha")}
    alphas = {key.replace("text_encoder.text_model.", "text_encoder."): value for key, value in alphas.items()}
    return {
        part: {name: Layer(layer.rank, alphas.get(f"{part}.{name}")) for name, layer in own.items()}
        for part, own in layers.items()
    }


def _example(tensors: Mapping[str, Any]) -> str:
    return next(iter(tensors), "none")
