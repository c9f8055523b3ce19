"""`python -m tests.support.hold_servers [DIR]`: starts servers, says where on one line, and holds them until killed.

SIGTERM is left as it is, so that it kills this process without a word to anybody, as a crash would.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from infra.embedded.servers import EmbeddedServers


def main() -> None:
    """Start them, print where they are, and wait."""
    # A test run in the background of a script has SIGINT ignored, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with EmbeddedServers(durable=False).start(Path(sys.argv[1]) if len(sys.argv) > 1 else None) as servers:
        said = {
            "pids": servers.pids(),
            "guardian": servers.guardian.pid,
            "folder": str(servers.home.directory),
            "ports": dict(servers.s3.ports),
            "environment": servers.environment(),
        }
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
