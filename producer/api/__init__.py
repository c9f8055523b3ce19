"""The HTTP API, wire-compatible with the hosted flux-dev-fill endpoint."""
