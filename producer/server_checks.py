"""What `fillfleet doctor` asks of Redis, the bucket, the file of refused prompts, and the fleet. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Final

from redis.exceptions import AuthenticationError
from sqlalchemy.exc import ProgrammingError

from common.broker import QueueLengths
from common.checkup import Check, Finding, Verdict
from common.database import make_engine, transaction
from common.errors import Rejected, Transient, Unavailable
from common.objects import Objects
from common.prompt_deny_file import PromptDenyFile
from common.settings import Settings
from common.urls import place_of
from common.workers import live_versions

_MAY_DIFFER: Final = frozenset({"device", "threads"})
"""What of a model version comes with the machine, and nobody chose."""


def check_redis(settings: Settings) -> Sequence[Finding]:
    """Ask how many messages wait."""
    name, place = "redis", place_of(settings.redis_url.get_secret_value())
    with closing(QueueLengths(settings)) as lengths:
        try:
            waiting = sum(lengths.read().values())
        except Transient as error:
            refused = isinstance(error.__cause__, AuthenticationError)
            found = f"{'refuses the password' if refused else 'does not answer'} at {place}"
            return [Finding(name, Verdict.MISSING, found, "start Redis or Valkey, or correct REDIS_URL")]
    return [Finding(name, Verdict.OK, f"answers at {place}; messages that wait in it: {waiting}")]


def check_bucket(settings: Settings) -> Sequence[Finding]:
    """Ask whether the bucket is there."""
    name, place = "s3", place_of(settings.s3_endpoint)
    try:
        with closing(Objects(settings)) as objects:
            there = objects.has_bucket()
    except Rejected as error:  # a default secret in production
        return [Finding(name, Verdict.MISSING, "was not asked", error.message)]
    except Unavailable:
        found = f"does not answer at {place}, or refuses the keys"
        return [Finding(name, Verdict.MISSING, found, "check S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY and S3_REGION")]
    if not there:
        found = f"answers at {place}, without a bucket {settings.s3_bucket}"
        return [Finding(name, Verdict.MISSING, found, "run: fillfleet migrate (it makes the bucket), or set S3_BUCKET")]
    return [Finding(name, Verdict.OK, f"bucket {settings.s3_bucket} at {place}")]


def check_prompts(settings: Settings) -> Sequence[Finding]:
    """Read the file of refused prompts, where there is one."""
    if settings.prompt_deny_file is None:
        return []
    name = "prompts"
    try:
        count = PromptDenyFile(settings.prompt_deny_file).count
    except Rejected as error:
        return [Finding(name, Verdict.MISSING, "the file of refused prompts cannot be used", error.message)]
    return [Finding(name, Verdict.OK, f"{count} rules on refused prompts in {settings.prompt_deny_file}")]


def check_fleet(settings: Settings) -> Sequence[Finding]:
    """Compare the workers that are ready: whose results differ should not share a batch."""
    engine = make_engine(settings, pool_size=1, application="fillfleet doctor")
    try:
        with transaction(engine) as connection:
            versions = live_versions(connection, seen_within_seconds=settings.lease_seconds)
    except (Unavailable, ProgrammingError):  # no server, no tables: what is said of PostgreSQL tells
        return []
    finally:
        engine.dispose()
    if not versions:
        return []
    name, ready = "fleet", f"{len(versions)} workers are ready"
    words = {key: sorted({version.get(key, "none") for version in versions}) for key in set().union(*versions)}
    differ = {key: found for key, found in sorted(words.items()) if len(found) > 1}
    if not differ:
        return [Finding(name, Verdict.OK, f"{ready}, all of one model version", facts={"differ": []})]
    told = "; ".join(f"{key} ({', '.join(ones)})" for key, ones in differ.items())
    found = f"{ready}, and differ in {told}"
    facts = {"differ": list(differ)}
    if _MAY_DIFFER.issuperset(differ):
        todo = "their results differ in last bits; where that matters, let one kind of worker do the whole batch"
        return [Finding(name, Verdict.NOTE, found, todo, facts)]
    todo = "a batch gets images of both kinds: give all workers the same FILL_ settings and the same versions"
    return [Finding(name, Verdict.WARNING, found, todo, facts)]


CHECKS: Final[Sequence[Check]] = (check_redis, check_bucket, check_prompts, check_fleet)
