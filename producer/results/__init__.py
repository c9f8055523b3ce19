"""The results table of a batch: one row per input row, as a stream, in every form that users read."""
