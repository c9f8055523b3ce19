"""Benchmarks: each row a ratio, ours beside a peer, measured in one run on real servers."""

import os

import worker  # noqa: F401 - first of all: it quiets the libraries, which otherwise write into the table

# As in worker/cli.py, before torch is imported: on a machine that does anything else, spinning threads measure only it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
