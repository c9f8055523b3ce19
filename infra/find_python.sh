#!/bin/sh
# Prints the Python to make .venv with, or "missing: " and one line that says what to install.
# It never installs or changes anything. Usage: sh infra/find_python.sh [PYTHON]
set -u

# The lock is resolved with 3.11, so that comes first.
[ -n "${1:-}" ] || set -- python3.11 python3 python3.12 python3.13 python3.14

incomplete=""
too_old=""
for candidate in "$@"; do
    # A pyenv shim is there for versions that are not active, too: only a Python that runs counts.
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        too_old="${too_old:-$version}"
    elif ! "$candidate" -c 'import venv' 2>/dev/null; then
        incomplete="${incomplete:-the venv module of Python $version. On Debian and Ubuntu: apt-get install python$version-venv}"
    elif ! "$candidate" -c 'import ensurepip' 2>/dev/null; then
        incomplete="${incomplete:-pip for new environments (ensurepip) of Python $version. On Debian and Ubuntu: apt-get install python$version-venv}"
    else
        command -v "$candidate"
        exit 0
    fi
done

if [ -n "$incomplete" ]; then
    echo "missing: $incomplete"
else
    echo "missing: Python 3.11 or newer (found ${too_old:-none}). Install it, or name it: make PYTHON=/path/to/python3.11"
fi
