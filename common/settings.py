"""Every setting of the system, read from the environment once and checked as a whole.

The names are the environment variables in lower case. A value that would let the fleet start in a dangerous or
contradictory state is refused here, at start, with a message that says what to set.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from common.contract import RegionMode
from common.errors import Rejected
from common.fill_profile import Attention, FillProfile, Offload, Quantization, VaeTiling, parse_sizes
from common.read_prefixes import ReadPrefix, parse_read_prefixes
from common.safety_policy import SafetyPolicy
from common.webhook_signature import WebhookSignature, check_secret

OWNED_FOLDERS: Final = ("inputs", "uploads", "outputs")
"""The top folders of our bucket; below each is one of every owner."""
DEVELOPMENT_SECRET = "fillfleet-development-only"  # noqa: S105 - production refuses to start on it
MIB = 1024 * 1024
_DATABASE_SCHEMES: Final = frozenset({"postgres", "postgresql", "postgresql+psycopg"})
_REDIS_SCHEMES: Final = frozenset({"redis", "rediss"})


class Environment(StrEnum):
    """Where this process runs."""

    DEVELOPMENT = "development"
    """A laptop: default secrets are accepted."""
    TEST = "test"
    """The test suite: the device's time may be faked, too."""
    PRODUCTION = "production"
    """Anything else: default secrets are refused."""


class Settings(BaseSettings):
    """The typed settings. Units are in the names; a comment gives the reason of an odd default."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    # --- which kind of place this is
    fillfleet_env: Environment = Environment.PRODUCTION
    log_format: str = Field(default="json", pattern="^(json|console)$")
    log_level: str = Field(default="INFO", pattern="^(?i)(debug|info|warning|error|critical)$")

    # --- servers
    database_url: SecretStr = SecretStr("postgresql://app@127.0.0.1:5432/fillfleet")
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    s3_endpoint: str = "http://127.0.0.1:8333"
    s3_public_endpoint: str | None = None
    """What clients outside know the S3 server as; presigned links are signed for it. Default: s3_endpoint."""
    s3_region: str = "us-east-1"
    s3_bucket: str = "fillfleet"
    s3_access_key: SecretStr = SecretStr("fillfleet")
    s3_secret_key: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    s3_read_prefixes: Annotated[tuple[ReadPrefix, ...], NoDecode] = ()
    """OWNERNAME=s3://bucket/prefix/ or *=s3://bucket/prefix/ entries, comma separated: what owners may name as inputs
    beside their own objects. Read with the same endpoint and credentials as s3_bucket."""
    presigned_url_seconds: int = Field(default=3600, ge=60, le=7 * 86400)

    # --- the HTTP API
    public_url: str | None = None
    """The API's own address for absolute links behind a proxy. Default: what the request was sent to."""
    api_key_secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Keys are stored only as HMAC-SHA256 under this secret."""
    api_max_body_bytes: int = Field(default=1 * MIB, ge=16 * 1024)
    upload_max_bytes: int = Field(default=50 * MIB, ge=1024)
    batch_body_max_bytes: int = Field(default=2048 * MIB, ge=1024)
    """A manifest that is sent as the body of one request; it lies on the API's disk while its rows are taken in."""
    batch_chunk_max_bytes: int = Field(default=32 * MIB, ge=64 * 1024)
    """One chunk of a batch's rows; it lies in the API's memory while it is its turn, and on the disk before."""
    sync_mode_seconds: float = Field(default=120.0, gt=0, le=600)
    """How long a submit with enable_sync_mode may wait for its result."""

    # --- the life of a job
    lease_seconds: float = Field(default=20.0, gt=0)
    """A killed worker's jobs are reclaimed after this long at most, so well under the 30 s that we promise."""
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    max_failures: int = Field(default=3, ge=1, le=20)
    max_uncounted_attempts: int = Field(default=10, ge=1)
    """From this attempt on a lost worker counts wherever the job was, and so does an object that alone is out of reach
    while our servers answer: a job that kills decoders must end, too."""
    backoff_seconds: float = Field(default=2.0, gt=0)
    backoff_max_seconds: float = Field(default=120.0, gt=0)

    # --- the dispatcher
    dispatcher_poll_seconds: float = Field(default=2.0, gt=0)
    """How often to look without having been notified; also bounds how late a rescue or a due retry is noticed."""
    publish_window_floor: int = Field(default=32, ge=1)
    publish_lost_seconds: float = Field(default=15.0, gt=0)
    source_host_max_jobs: int = Field(default=256, ge=0)
    """Jobs of batches, published or running, whose images come from one host; 0: no bound. Hosts that ask for rest
    (429, Retry-After) get it in any case."""
    broker_visibility_seconds: int = Field(default=6 * 3600, ge=60)
    """Many times the worst job: our leases, not Redis, decide when a job is given to somebody else."""

    # --- webhooks
    webhook_secret: SecretStr | None = None
    """Signs webhooks; without it there are none. Receivers hold it, too, so it is no other secret's double."""
    webhook_signature: WebhookSignature = WebhookSignature.STANDARD
    webhook_seconds: float = Field(default=10.0, gt=0, le=60)
    """How long one delivery may take in all."""
    webhook_max_attempts: int = Field(default=8, ge=1, le=100)
    webhook_backoff_seconds: float = Field(default=5.0, gt=0)
    """The pause after the first failed try; it doubles with each, up to the longest."""
    webhook_backoff_max_seconds: float = Field(default=3600.0, gt=0)

    # --- manifests that users name by URL
    manifest_max_bytes: int = Field(default=8 * 1024 * MIB, ge=1024)
    manifest_fetch_seconds: float = Field(default=3600.0, gt=0)
    manifest_memory_bytes: int = Field(default=2048 * MIB, ge=512 * MIB)
    """What the process that reads one may take; at most four run at once beside each dispatcher."""

    # --- fetching what users name
    fetch_max_bytes: int = Field(default=50 * MIB, ge=1024)
    fetch_seconds: float = Field(default=60.0, gt=0)
    fetch_max_redirects: int = Field(default=3, ge=0, le=10)
    fetch_allow_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """host or host:port entries, comma separated, that may be fetched although they are private."""
    image_max_pixels: int = Field(default=64_000_000, ge=512 * 512)
    image_decode_seconds: float = Field(default=30.0, gt=0)

    # --- the worker
    fill_model: str = "bundled"
    """`bundled` (the tiny CPU model), a folder, or a hub id such as black-forest-labs/FLUX.1-Fill-dev."""
    fill_revision: str | None = None
    fill_device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    fill_dtype: str = Field(default="auto", pattern="^(auto|float32|bfloat16|float16)$")
    hf_token: SecretStr | None = None
    worker_slots: int = Field(default=4, ge=1, le=64)
    """Jobs a worker holds at once: one computes while the others fetch, decode, encode and upload."""
    worker_threads: int | None = Field(default=None, ge=1)
    """torch's thread count on CPU; part of the model version, since it changes the last bits of a result."""
    worker_health_port: int | None = Field(default=None, ge=1, le=65535)
    model_load_seconds: float = Field(default=1800.0, gt=0)
    fill_region: RegionMode = "full"
    """`auto` generates only crops around the mask where that is much cheaper, of requests and batches that say nothing
    of `region`. Not the default, since a crop sees less of the picture."""
    step_seconds: float = Field(default=120.0, gt=0)
    """A device that does not finish a step within this is wedged: its worker gives up its leases and exits."""
    device_wait_seconds: float = Field(default=3600.0, gt=0)
    upload_seconds: float = Field(default=120.0, gt=0)
    drain_seconds: float = Field(default=600.0, gt=0)
    """How long jobs may go on after SIGTERM; then they are given back, free of charge. Supervisors wait 30 s longer."""
    device_max_overtakes: int = Field(default=8, ge=0)
    """How many jobs whose adapters are in place may overtake one whose adapters are not."""
    device_overtake_seconds: float = Field(default=60.0, ge=0)
    """For how long: a swap costs less than a step, and eight jobs of four images each may take minutes."""
    prompt_cache_bytes: int = Field(default=1024 * MIB, ge=0)
    """What encoded prompts may take of the host's memory: 4 MiB each with FLUX.1; 0 encodes each job's anew."""
    test_model_class: str | None = None
    """`module:Class` of a stand-in for the GPU's time; accepted only under FILLFLEET_ENV=test."""

    # --- how the model computes: what goes together is checked at start, in worker/profile.py
    fill_profile: FillProfile = FillProfile.EXACT
    """`exact` (bit-identical to stock diffusers) or `fast`, which alone takes what is below, but for FILL_OFFLOAD."""
    fill_step_cache: bool | None = None
    """Whether a step that hardly differs from an earlier one takes over most of its work. Default: under `fast`."""
    fill_step_cache_threshold: float = Field(default=0.08, gt=0, le=1)
    """By how much the first blocks' result may differ from that of the last whole step, relative to its size."""
    fill_step_cache_warmup_steps: int = Field(default=4, ge=1, le=50)
    """So many first steps are always whole: they decide what the picture shows."""
    fill_compile: bool = False
    """Whether the transformer's blocks are compiled, which takes minutes at the first start on a host."""
    fill_compile_cache: Path = Path("~/.cache/fillfleet/compile")
    """Where compiled code stays for the next start; code is run from here, so nobody else may write to it."""
    fill_compile_sizes: Annotated[tuple[tuple[int, int], ...], NoDecode] = ((1024, 1024), (768, 768), (512, 512))
    """Sizes such as 1024*1024, comma separated, that are filled once before the worker says that it is ready."""
    fill_quantization: Quantization = Quantization.NONE
    """`int8` (half the memory) or `fp8` (that, and faster; with FILL_COMPILE, on Ada, Hopper and newer)."""
    fill_attention: Attention = Attention.NATIVE
    """`cudnn`, or what has to be installed for it: `flash`, `flash3`, `sage`, `xformers`."""
    fill_vae_tiling: VaeTiling = VaeTiling.AUTO
    """`auto` (the second try of a job that did not fit into memory), `on` or `off`."""
    fill_offload: Offload = Offload.NONE
    """`text` or `model`, for small cards: results stay the same, so it is allowed under both profiles."""

    # --- adapters
    lora_folder: Path | None = None
    lora_max_bytes: int = Field(default=2048 * MIB, ge=1024)
    lora_max_rank: int = Field(default=512, ge=1)
    lora_cache_folder: Path = Path("~/.cache/fillfleet/lora")
    lora_cache_max_bytes: int = Field(default=50 * 1024 * MIB, ge=0)
    """What downloaded LoRAs may take on this host's disk; those not used for longest are removed first."""
    lora_resident_bytes: int = Field(default=4096 * MIB, ge=0)
    """What all resident adapters together may take of the device's memory; the least recently used go first."""
    lora_prepared_bytes: int = Field(default=1024 * MIB, ge=0)
    """What LoRAs that are read and verified, but not on the device yet, may take of the host's memory."""
    lora_slot_rank: int = Field(default=128, ge=1)
    """Under FILL_COMPILE: what the ranks of one job's LoRAs may add up to. Every step pays for all of it, used or not,
    and it takes memory beside LORA_RESIDENT_BYTES: with FLUX.1, 1.4 GB at 128."""
    lora_fetch_seconds: float = Field(default=600.0, gt=0)

    # --- safety
    allow_safety_checker_off: bool = False
    """Whether `enable_safety_checker: false` of a request is honoured."""
    safety_classifier: str = "opennsfw"
    """`opennsfw` (its weights come with it), a folder, or a hub id such as Falconsai/nsfw_image_detection."""
    safety_revision: str | None = None
    """The hub's commit of that classifier; without it, its newest."""
    safety_threshold: float | None = Field(default=None, gt=0, le=1)
    """Scores from here on are flagged. Default: the classifier's own, 0.8 or 0.85; docs/safety.md has the reasons."""
    safety_policy: SafetyPolicy = SafetyPolicy.BLANK
    """What is stored of a flagged output: blank, blur, drop (nothing) or allow (itself)."""
    safety_check_inputs: bool = False
    """Whether the classifier looks at each job's image, too, and fails the job where it flags it."""
    prompt_deny_file: Path | None = None
    """Which prompts are refused; read by API, dispatcher, worker and `submit`, and again when it changes."""

    @field_validator("fetch_allow_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value

    @field_validator("fill_compile_sizes", mode="before")
    @classmethod
    def _split_sizes(cls, value: object) -> object:
        return parse_sizes(value) if isinstance(value, str) else value

    @field_validator("s3_read_prefixes", mode="before")
    @classmethod
    def _split_prefixes(cls, value: object) -> object:
        return parse_read_prefixes(value) if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        try:
            good = make_url(value.get_secret_value()).drivername in _DATABASE_SCHEMES
        except (ArgumentError, ValueError):
            good = False
        if not good:
            raise ValueError("must look like postgresql://user:password@host:5432/database")
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        if not _is_url(value.get_secret_value(), _REDIS_SCHEMES):
            raise ValueError("must look like redis://:password@host:6379/0; what is not plain in it percent-encoded")
        return value

    @field_validator("s3_endpoint", "s3_public_endpoint", "public_url")
    @classmethod
    def _check_http_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_url(value, frozenset({"http", "https"})):
            raise ValueError("must look like http://host:8333")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_secret(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_read_prefixes(self) -> Self:
        for prefix in self.s3_read_prefixes:
            whole = not prefix.parts or (len(prefix.parts) == 1 and prefix.parts[0] in OWNED_FOLDERS)
            if prefix.bucket == self.s3_bucket and whole:
                raise ValueError(
                    f"S3_READ_PREFIXES: s3://{prefix.bucket}/{'/'.join(prefix.parts)} holds what belongs to every "
                    "owner; name a folder that holds nothing but what is to be read"
                )
        return self

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                "LEASE_SECONDS must be at least 3 x HEARTBEAT_SECONDS, or one late heartbeat loses the job"
            )
        if self.backoff_max_seconds < self.backoff_seconds:
            raise ValueError("BACKOFF_MAX_SECONDS must not be below BACKOFF_SECONDS")
        if self.webhook_backoff_max_seconds < self.webhook_backoff_seconds:
            raise ValueError("WEBHOOK_BACKOFF_MAX_SECONDS must not be below WEBHOOK_BACKOFF_SECONDS")
        if self.test_model_class and self.fillfleet_env is not Environment.TEST:
            raise ValueError("TEST_MODEL_CLASS is accepted only under FILLFLEET_ENV=test")
        return self

    def secret(self, name: Literal["api_key_secret", "s3_secret_key"]) -> str:
        """Return a secret for use; each process asks at its start for those that it needs, and for no other.

        Raises Rejected (default_secret) where production has not set it: everybody knows the default.
        """
        value: SecretStr = getattr(self, name)
        text = value.get_secret_value()
        if self.fillfleet_env is Environment.PRODUCTION and text == DEVELOPMENT_SECRET:
            raise Rejected(
                "default_secret",
                f"{name.upper()} must be set in production; for a laptop set FILLFLEET_ENV=development instead",
            )
        return text

    @property
    def decode_seconds(self) -> float:
        """How long one picture may take by the clock: its computing time is bounded, but all slots compute at once."""
        return 2 * self.worker_slots * self.image_decode_seconds

    @property
    def s3_link_endpoint(self) -> str:
        """The endpoint that presigned links are signed for."""
        return (self.s3_public_endpoint or self.s3_endpoint).rstrip("/")

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with the psycopg driver named, whichever form the operator wrote."""
        url = self.database_url.get_secret_value()
        scheme, sep, rest = url.partition("://")
        return f"postgresql+psycopg://{rest}" if sep and scheme in {"postgres", "postgresql"} else url


def _is_url(text: str, schemes: frozenset[str]) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # read only when asked for
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname)


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process. Raises pydantic.ValidationError where they contradict each other."""
    return Settings()
