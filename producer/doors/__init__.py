"""The two ways to a fleet for those who bring batches: its HTTP API with a key, or its database on the same machine."""
