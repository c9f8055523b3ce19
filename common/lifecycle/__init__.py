"""The life of a job: every change of its state is one function of this package, and no other code writes jobs.

    created ──claim──▶ processing ──complete──▶ completed
       ▲  ▲               │  │
       │  └release/rescue─┘  └──fail──▶ failed ──retry (a user's wish)──▶ created

wishes.py    what an owner asks for: create, cancel, retry, delete
attempts.py  what a worker does with its attempt: claim, renew, pin, complete, fail, release
dispatch.py  what the dispatcher does: publish, withdraw, find what was lost, rescue
locks.py     how all three lock many jobs at once

Every UPDATE names the status it expects and, where a worker writes, the attempt: a worker that was thought dead can
wake up at any line and change nothing. All times are the database's. Each function runs in the caller's transaction.
"""

from common.lifecycle.attempts import Claim, Release, Renewal, claim, complete, fail, pin, release, renew
from common.lifecycle.dispatch import (
    Published,
    count_published,
    publish_lost,
    publish_waiting,
    rescue,
    withdraw,
)
from common.lifecycle.wishes import cancel, create, delete, retry

__all__ = [
    "Claim",
    "Published",
    "Release",
    "Renewal",
    "cancel",
    "claim",
    "complete",
    "count_published",
    "create",
    "delete",
    "fail",
    "pin",
    "publish_lost",
    "publish_waiting",
    "release",
    "renew",
    "rescue",
    "retry",
    "withdraw",
]
