"""The settings of a test, and the same as an environment for child processes."""

from __future__ import annotations

import itertools
import os
from enum import Enum
from typing import Final

from pydantic import SecretStr
from redis import Redis

from common.settings import Environment, Settings
from infra.embedded.servers import EmbeddedServers
from infra.embedded.valkey import DATABASES

_numbers = itertools.count()

# A lease must outlast a machine on which any process may stand still for seconds: what loses it is tried twice, and
# that may count. Tests of what happens when one ends let the time pass: see Fleet.expire.
FAST: Final = {
    "lease_seconds": 10.0,
    "heartbeat_seconds": 0.5,
    "publish_lost_seconds": 1.0,
    "dispatcher_poll_seconds": 0.3,
    "backoff_seconds": 0.2,
    "backoff_max_seconds": 1.0,
}


def settings_for(servers: EmbeddedServers, database_url: str, **overrides: object) -> Settings:
    """Return settings for these servers, with a database of Redis that is empty and not the last test's."""
    servers.redis.start()  # a test may have left it killed
    servers.s3.start()
    number = 1 + next(_numbers) % (DATABASES - 1)
    redis_url = f"{servers.redis_url.rpartition('/')[0]}/{number}"
    with Redis.from_url(redis_url) as client:
        client.flushdb()
    values: dict[str, object] = {
        **FAST,
        "fillfleet_env": Environment.TEST,
        "database_url": SecretStr(database_url),
        "redis_url": SecretStr(redis_url),
        "s3_endpoint": servers.s3_endpoint,
        "s3_public_endpoint": None,
        "s3_bucket": servers.s3_bucket,
        "s3_access_key": SecretStr(servers.s3_access_key),
        "s3_secret_key": SecretStr(servers.s3_secret_key),
        "api_key_secret": SecretStr(servers.home.identity.api_key_secret),
        "webhook_secret": SecretStr(servers.home.identity.webhook_secret),
        **overrides,
    }
    return Settings.model_validate(values)


def environment_of(settings: Settings) -> dict[str, str]:
    """Return this process's environment with the settings in it, for a child process that shall have the same ones."""
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value is not None:
            environment[name.upper()] = _as_text(value)
    return environment


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return ",".join("*".join(map(str, one)) if type(one) is tuple else str(one) for one in value)  # sizes: 1024*768
    return str(value)
