"""The wire contract: what one fill request may say, with every range and default of the documented endpoint.

Everything that accepts a request goes through FillRequest, so the API, manifests and nodes cannot drift apart. Where
the endpoint's two published versions differ, the wider range is accepted everywhere. Nothing here does I/O.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

MIN_SIDE: Final = 256
MAX_SIDE: Final = 1536
MAX_IMAGES: Final = 4
MAX_LORAS: Final = 5
MAX_SEED: Final = 9_999_999_999
MAX_PROMPT_CHARS: Final = 10_000
"""Far more than the 512 tokens that the model reads, and far less than what could hurt the database."""
MAX_SOURCE_CHARS: Final = 8192

MODEL: Final = "wavespeed-ai/flux-dev-fill"
MODELS: Final = (MODEL, "wavespeed-ai/flux-fill-dev")
"""Both word orders are in use by public clients; they name the same model."""


class Status(StrEnum):
    """The four states of a job, in the table and on the wire."""

    CREATED = "created"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this state is over (only a user's wish to retry leaves it)."""
        return self in {Status.COMPLETED, Status.FAILED}


class BatchState(StrEnum):
    """Where a batch is. Its rows run only while it is open."""

    RECEIVING = "receiving"
    """Its manifest is still being read; nothing runs yet."""
    OPEN = "open"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"
    """Every row has ended. A retry, or more rows, open it again."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens unless its owner asks for it."""
        return self in {BatchState.CANCELLED, BatchState.DONE}


class Queue(StrEnum):
    """The two lines in front of the workers; interactive goes first."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True)
class Size:
    """An output size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}*{self.height}"


_SIZE = re.compile(r"([0-9]{1,5})[*x]([0-9]{1,5})")
_DEFAULT_SIZE: Final = "1024*1024"
MATCH: Final = "match"
"""The size that means: the image's own, within the bounds."""


def parse_size(text: str) -> Size | None:
    """Return the size that `W*H` names, or None for `match`. Raises ValueError in words for the user."""
    if text == MATCH:
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"must look like {_DEFAULT_SIZE}, or be '{MATCH}'")
    size = Size(int(found[1]), int(found[2]))
    if not (MIN_SIDE <= size.width <= MAX_SIDE and MIN_SIDE <= size.height <= MAX_SIDE):
        raise ValueError(f"each side must be {MIN_SIDE} to {MAX_SIDE} pixels")
    return size


_UNSTORABLE_CHARACTER: Final = re.compile("[\x00\ud800-\udfff]")
_UNSTORABLE: Final = "holds a NUL character or half of a surrogate pair"


def is_storable(text: str) -> bool:
    """Whether Postgres takes it: neither NUL nor half a surrogate pair, both of which JSON can carry."""
    if text.isascii():  # as most are; the search takes nine times as long
        return "\x00" not in text
    return not _UNSTORABLE_CHARACTER.search(text)


def _storable(text: str) -> str:
    if not is_storable(text):
        raise PydanticCustomError("unstorable_text", _UNSTORABLE)
    return text


def _size(text: str) -> str:
    try:
        parse_size(text)
    except ValueError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": str(error)}) from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be empty")
    return text.strip()


def _few(value: object) -> object:
    # Counted first: half a million wrong ones would each be complained about.
    if isinstance(value, list | tuple) and len(value) > MAX_LORAS:
        raise PydanticCustomError("too_long", "is too long")
    return value


def _is_none(value: object) -> bool:
    return value is None


def _none_when_blank(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


RegionMode = Literal["full", "auto"]
"""How much of the canvas the model makes: all of it, or, where that is much cheaper, only crops around the mask."""
Text = Annotated[str, AfterValidator(_storable)]
SourceText = Annotated[Text, Field(max_length=MAX_SOURCE_CHARS), AfterValidator(_not_blank)]


class LoraRef(BaseModel):
    """One LoRA of a request: where it lies and how strongly it acts."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")

    path: SourceText = Field(description="A hub id, an https or s3 URL, or a name in the operator's LoRA folder.")
    scale: float = Field(ge=0, le=4, description="Strength of the LoRA, 0 to 4.")


class FillRequest(BaseModel):
    """One request to fill: the documented fields, strict types, wider ranges where the two versions differ."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")

    image: SourceText = Field(description="URL of the image.", examples=["https://example.com/knight.jpg"])
    mask_image: Annotated[SourceText | None, BeforeValidator(_none_when_blank)] = Field(
        default=None,
        description="URL of the mask; white is filled. Without one, the image's transparent pixels are the mask, "
        "else the bars that another aspect ratio of size leaves.",
        examples=["https://example.com/knight-mask.png"],
    )
    prompt: Text = Field(
        default="",
        max_length=MAX_PROMPT_CHARS,
        description="What to put there; empty continues the surroundings.",
        examples=["a knight holding a greatshield"],
    )
    size: Annotated[Text, AfterValidator(_size)] = Field(
        default=_DEFAULT_SIZE, description=f"Output size W*H, each side {MIN_SIDE} to {MAX_SIDE}, or '{MATCH}'."
    )
    num_inference_steps: int = Field(default=28, ge=1, le=50)
    seed: int = Field(default=-1, ge=-1, le=MAX_SEED, description="-1 draws one; the result names it.")
    guidance_scale: float = Field(default=30.0, ge=28, le=35)
    num_images: int = Field(default=1, ge=1, le=MAX_IMAGES)
    loras: Annotated[tuple[LoraRef, ...], BeforeValidator(_few)] = Field(default=(), max_length=MAX_LORAS, strict=False)
    enable_safety_checker: bool = True
    enable_sync_mode: bool = Field(default=False, description="Answer only when the job has ended.")
    enable_base64_output: bool = Field(default=False, description="Outputs as bare base64 instead of URLs.")
    output_format: Literal["png", "jpeg", "webp"] = "png"
    # Left out where nobody said it, and not null: what is stored and told of a job is what it was before this field.
    region: RegionMode | None = Field(
        default=None,
        exclude_if=_is_none,
        description="What the model makes: the full canvas, or (auto) only crops around the mask at the image's own "
        "resolution, where that is much cheaper; it then sees less of the picture. Default: the fleet's, which is "
        "full unless its operator says otherwise.",
    )

    def with_seed(self) -> Self:
        """Return this request with a drawn seed where it asked for a random one."""
        if self.seed >= 0:
            return self
        return self.model_copy(update={"seed": draw_seed()})

    @property
    def output_size(self) -> Size | None:
        """The size asked for, or None for the image's own."""
        return parse_size(self.size)


def draw_seed() -> int:
    """Return a random seed that leaves room for the seeds of the job's other images (seed + i)."""
    # As even as it matters, and in a third of randbelow's time: a batch draws one for each of a million rows.
    return int.from_bytes(secrets.token_bytes(8), "big") % (MAX_SEED - MAX_IMAGES)


ALLOWED: Final[Mapping[str, str]] = {
    "image": f"a URL of at most {MAX_SOURCE_CHARS} characters",
    "mask_image": f"a URL of at most {MAX_SOURCE_CHARS} characters, or left out",
    "prompt": f"a text of at most {MAX_PROMPT_CHARS} characters",
    "size": f"W*H with each side {MIN_SIDE} to {MAX_SIDE}, such as {_DEFAULT_SIZE}, or '{MATCH}'",
    "num_inference_steps": "an integer from 1 to 50",
    "seed": f"an integer from -1 (random) to {MAX_SEED}",
    "guidance_scale": "a number from 28 to 35",
    "num_images": f"an integer from 1 to {MAX_IMAGES}",
    "loras": f"a list of at most {MAX_LORAS} objects {{path, scale}}",
    "loras.path": f"a hub id, an https or s3 URL, or a LoRA's name, at most {MAX_SOURCE_CHARS} characters",
    "loras.scale": "a number from 0 to 4",
    "enable_safety_checker": "true or false",
    "enable_sync_mode": "true or false",
    "enable_base64_output": "true or false",
    "output_format": "png, jpeg or webp",
    "region": "full or auto",
}
"""What each field may hold, in words: the last part of every complaint."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a request: the field, what it held (shortened), what is wrong, and what is allowed."""

    field: str
    value: str
    reason: str
    allowed: str

    def __str__(self) -> str:
        found = f"{self.value} {self.reason}" if self.value else self.reason
        return f"{self.field}: {found}; allowed: {self.allowed}"


class InvalidRequest(ValueError):
    """A request that breaks the contract. `problems` has at least one entry."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


def parse_request(body: object) -> FillRequest:
    """Return the validated request that a JSON value holds. A null counts as left out. Raises InvalidRequest."""
    if not isinstance(body, Mapping):
        example = 'a JSON object such as {"image": "https://…"}'
        raise InvalidRequest((Problem("body", shorten(body), "is not an object", example),))
    try:
        return FillRequest.model_validate({key: value for key, value in body.items() if value is not None})
    except ValidationError as error:
        raise InvalidRequest(tuple(_problem(detail) for detail in error.errors(include_url=False))) from None


def unknown_fields(body: Mapping[str, Any]) -> list[str]:
    """Return the names in `body` that the contract does not know, sorted."""
    return sorted(set(body) - set(FillRequest.model_fields))


def shorten(value: object, limit: int = 100) -> str:
    """Return `value` as the user would write it in JSON, cut so that a message never carries a 20 MB prompt."""
    if isinstance(value, str):
        return repr(value) if len(value) <= limit else f"{value[:limit]!r}… ({len(value)} characters)"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge integer"
    return text if len(text) <= limit else text[:limit] + "…"


_REASONS: Final[Mapping[str, str]] = {
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "string_too_long": "is too long",
    "string_unicode": _UNSTORABLE,
    "too_long": "is too long",
    "finite_number": "is not a finite number",
    "missing": "is missing",
    "literal_error": "is not one of the choices",
}


def _problem(detail: Mapping[str, Any]) -> Problem:
    location = tuple(detail["loc"])
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    name = ".".join(part for part in location if isinstance(part, str))
    missing = detail["type"] == "missing"
    custom = detail["type"] in {"size", "blank", "unstorable_text"}
    reason = _REASONS.get(detail["type"]) or (detail["msg"] if custom else "has the wrong type")
    return Problem(
        field=field or "body",
        value="" if missing else shorten(detail["input"]),
        reason=reason,
        allowed=ALLOWED.get(name, "see the documentation"),
    )
