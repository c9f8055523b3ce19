"""Questions that tell whether a part of the system is of use yet. Each answers at once and raises nothing for "no"."""

from __future__ import annotations

import psycopg
import requests


def answers(url: str, *, login: tuple[str, str] | None = None, key: str | None = None) -> bool:
    """Return whether a GET of this URL, with a login or an API key, is answered with 200."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment is not for loopback
        try:
            return bool(session.get(url, auth=login, headers=headers, timeout=5).status_code == requests.codes.ok)
        except requests.RequestException:
            return False


def accepts_key(api_url: str, key: str) -> bool:
    """Return whether the API knows this key."""
    return answers(f"{api_url}/api/v3/models", key=key)


def database_time(database_url: str) -> str:
    """Return the database's clock, for `workers_seen`. Raises psycopg.Error."""
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        return str((connection.execute("SELECT now()::text").fetchone() or ("",))[0])


def workers_seen(database_url: str, since: str) -> int:
    """Return how many workers said since that time that they are ready; one of an earlier start does not count."""
    question = "SELECT count(*) FROM workers WHERE state = 'ready' AND last_seen_at > %s::timestamptz"
    try:
        with psycopg.connect(database_url, connect_timeout=5) as connection:
            return int((connection.execute(question, (since,)).fetchone() or (0,))[0])
    except psycopg.OperationalError:
        return 0
