"""Benchmarks: each row a ratio, ours beside a peer, measured in one run on real servers."""
