"""Sessions to measure with: made by a side, or copied in by the million, and taken away."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connections
from django_redis import get_redis_connection

from django_strategy_sessions import records, signing
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.values import encode_all

from .settings import CACHES, Router
from .sides import LOGIN, Data, Side, payload

TABLES = {"ours": StoredSession._meta.db_table, "theirs": Session._meta.db_table}
COLUMNS = {
    "ours": "id, data, expires, owner, created",
    "theirs": "session_key, session_data, expire_date",
}
LENGTH = 250  # bytes of data in each of many rows
KEPT = 5000  # session keys, of many rows
AGE = 14 * 24 * 3600  # seconds; Django's default
STEP = 300  # seconds, to which our expiry is rounded up


def created(side: Side, data: Data, count: int) -> list[Any]:
    return [side.create(data) for _ in range(count)]


def empty() -> None:
    execute(f"TRUNCATE {', '.join(TABLES.values())}")
    for name in CACHES:
        get_redis_connection(name).flushdb()


def fill(name: str, live: int, expired: int = 0) -> list[str]:
    """Rows as that side writes them, the expired ones first; session keys out of the live ones."""
    copy = f"COPY {TABLES[name]} ({COLUMNS[name]}) FROM STDIN"
    make = {"ours": _ours(), "theirs": _theirs()}[name]
    keys = []
    now = datetime.now(UTC)
    with connections[Router.alias].cursor() as cursor, cursor.copy(copy) as rows:
        for seconds in _seconds(live, expired):
            key, row = make(now + timedelta(seconds=seconds))
            rows.write_row(row)
            if seconds > 0:
                keys.append(key)
    execute(f"VACUUM (ANALYZE) {TABLES[name]}")
    execute("CHECKPOINT")
    return random.sample(keys, min(KEPT, live))


def _seconds(live: int, expired: int) -> Iterable[int]:
    """From now on, until the rows expire. It is an hour at least until the first does."""
    for _ in range(expired):
        yield -random.randint(3600, AGE)
    for _ in range(live):
        yield random.randint(3600, AGE)


def _ours() -> Any:
    def make(expires: datetime) -> tuple[str, Any]:
        session_id = records.new_id()
        owner = str(random.randrange(10**6))
        data = {**common, "_auth_user_id": owner}
        created = expires - timedelta(seconds=AGE)
        stepped = datetime.fromtimestamp(-(-expires.timestamp() // STEP) * STEP, UTC)
        key = records.hashed(session_id)
        row = key, records.seal(key, encode_all(data)), stepped, owner, created
        return signing.sign(session_id, settings.SESSION_COOKIE_NAME), row

    common = payload(LENGTH, **LOGIN)
    return make


def _theirs() -> Any:
    common, encode = payload(LENGTH, **LOGIN), SessionStore().encode

    def make(expires: datetime) -> tuple[str, Any]:
        key = secrets.token_hex(16)
        encoded = encode({**common, "_auth_user_id": str(random.randrange(10**6))})
        return key, (key, encoded, expires)

    return make


def execute(sql: str) -> None:
    with connections[Router.alias].cursor() as cursor:
        cursor.execute(sql)


def number(expression: str, table: str) -> float:
    with connections[Router.alias].cursor() as cursor:
        cursor.execute(f"SELECT {expression} FROM {table}")  # noqa: S608
        return float(cursor.fetchone()[0])
