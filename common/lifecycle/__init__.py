"""The life of a job: every change of its state is one function of this package, and no other code writes jobs.

    created ──claim──▶ processing ──complete──▶ completed
       ▲  ▲               │  │
       │  └release/rescue─┘  └──fail──▶ failed ──retry (a user's wish)──▶ created

wishes.py        what an owner asks for: create, cancel, retry, delete
attempts.py      what a worker does with its attempt: claim, renew, pin, complete, fail, release
dispatch.py      what the dispatcher does: publish, withdraw, find what was lost, rescue
turns.py         whose turn it is to be published
waiting.py       the few waiting jobs that it takes to say so
batch_states.py  a batch as a whole: receive, open, pause, resume, cancel, end
batch_rows.py    its rows: they come in by COPY, and are cancelled and retried in chunks
batch_pins.py    its LoRAs, pinned once for all rows
counts.py        how many of its rows are in which state
manifest_leases.py  who reads the manifest of a batch that the server reads
source_hosts.py  hosts that asked to be left alone
locks.py         how all of them lock many jobs at once

Every UPDATE names the status it expects and, where a worker writes, the attempt: a worker that was thought dead can
wake up at any line and change nothing. All times are the database's. Each function runs in the caller's transaction.
"""

from common.lifecycle.attempts import Claim, Release, Renewal, claim, complete, fail, pin, release, renew
from common.lifecycle.batch_pins import AdapterPin, adapter_pins, pin_adapters
from common.lifecycle.batch_rows import (
    Known,
    NewRow,
    Reject,
    advance,
    end_cancelled_rows,
    find_doubles,
    find_rows,
    insert_rows,
    replace_rejects,
    retry_rows,
    withdraw_held_rows,
)
from common.lifecycle.batch_states import (
    NewBatch,
    cancel_batch,
    create_batch,
    discard_batch,
    end_batches,
    lock_batch,
    open_batch,
    pause_batch,
    reopen,
    resume_batch,
)
from common.lifecycle.counts import Counts, read_counts
from common.lifecycle.dispatch import (
    Published,
    count_published,
    publish_lost,
    publish_waiting,
    rescue,
    withdraw,
)
from common.lifecycle.manifest_leases import (
    ManifestLease,
    claim_manifest,
    give_manifest_back,
    keep_manifest,
    refuse_manifest,
)
from common.lifecycle.source_hosts import forget_rested_hosts, pause_host, paused_hosts
from common.lifecycle.turns import RUN, Turns
from common.lifecycle.wishes import cancel, create, delete, retry

__all__ = [
    "RUN",
    "AdapterPin",
    "Claim",
    "Counts",
    "Known",
    "ManifestLease",
    "NewBatch",
    "NewRow",
    "Published",
    "Reject",
    "Release",
    "Renewal",
    "Turns",
    "adapter_pins",
    "advance",
    "cancel",
    "cancel_batch",
    "claim",
    "claim_manifest",
    "complete",
    "count_published",
    "create",
    "create_batch",
    "delete",
    "discard_batch",
    "end_batches",
    "end_cancelled_rows",
    "fail",
    "find_doubles",
    "find_rows",
    "forget_rested_hosts",
    "give_manifest_back",
    "insert_rows",
    "keep_manifest",
    "lock_batch",
    "open_batch",
    "pause_batch",
    "pause_host",
    "paused_hosts",
    "pin",
    "pin_adapters",
    "publish_lost",
    "publish_waiting",
    "read_counts",
    "refuse_manifest",
    "release",
    "renew",
    "reopen",
    "replace_rejects",
    "rescue",
    "resume_batch",
    "retry",
    "retry_rows",
    "withdraw",
    "withdraw_held_rows",
]
