"""The command line. Each command is loaded by name when it is called: see docs/decisions/0004."""

from producer.cli.main import main

__all__ = ["main"]
