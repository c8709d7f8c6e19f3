"""What will hurt in the table of any database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Count, Q, Value

from ..models import StoredSession
from . import postgres_health
from .health import check_clock, if_permitted
from .postgres_health import Ask

NOT_MIGRATED = "strategy_sessions.E021"

_TABLE = StoredSession._meta.db_table
# In seconds since 1970. SQLite has no clock of its own.
_CLOCKS = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    "mysql": "SELECT unix_timestamp(now(6))",
}
# Primary keys are hashes, so the first rows by primary key are a random sample.
_SAMPLE = 2000
_ENOUGH = 100  # expired rows in the sample, to speak of a share
_LARGEST_SHARE = 0.5
_LONGEST = timedelta(days=7)


def examine(connection: BaseDatabaseWrapper, ask: Ask) -> Iterator[CheckMessage]:
    store = f"{connection.display_name} (DATABASES[{connection.alias!r}])"
    if connection.vendor in _CLOCKS:
        asked = time.time()
        found = ask(_CLOCKS[connection.vendor])
        assert found is not None  # noqa: S101
        yield from check_clock(store, asked, float(found[0]), time.time())
    if not _is_migrated(connection):
        yield Error(
            f"The table of sessions in {store} is missing or out of date.",
            hint=f"python manage.py migrate django_strategy_sessions --database={connection.alias}",
            id=NOT_MIGRATED,
        )
        return
    yield from if_permitted(_find_missing_indexes(connection, store), store, "the indexes")
    yield from _find_expired(connection, store)
    if connection.vendor == "postgresql":
        yield from postgres_health.examine(store, connection.ops.quote_name(_TABLE), ask)


def _is_migrated(connection: BaseDatabaseWrapper) -> bool:
    with connection.cursor() as cursor:
        if _TABLE not in connection.introspection.table_names(cursor):
            return False
        columns = connection.introspection.get_table_description(cursor, _TABLE)
    names = {connection.introspection.identifier_converter(each.name) for each in columns}
    return names >= {field.column for field in StoredSession._meta.concrete_fields}


def _find_missing_indexes(connection: BaseDatabaseWrapper, store: str) -> Iterator[CheckMessage]:
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, _TABLE).values()
    first = {each["columns"][0] for each in constraints if each["index"] and each["columns"]}
    for index in StoredSession._meta.indexes:
        (name,) = index.fields
        if name not in first:
            yield checks.Warning(
                f"The table of sessions in {store} has no index on {name!r}:"
                f" {_SLOW[name]} reads the whole table.",
                hint=f"{_make_index(connection, index)};",
                id="strategy_sessions.W021",
            )


_SLOW = {
    "expires": "each batch of clearexpiredsessions",
    "owner": "finding the sessions of a user",
    "impersonator": "finding the sessions of a user",
}


def _make_index(connection: BaseDatabaseWrapper, index: Any) -> str:
    editor = connection.schema_editor(collect_sql=True)
    # So that requests can write meanwhile.
    options = {"concurrently": True} if connection.vendor == "postgresql" else {}
    return str(index.create_sql(StoredSession, editor, **options))


def _find_expired(connection: BaseDatabaseWrapper, store: str) -> Iterator[CheckMessage]:
    now = datetime.now(UTC)
    rows = StoredSession._base_manager.using(connection.alias)
    found = (
        rows.order_by("pk")
        .values("pk", "expires")[:_SAMPLE]
        .aggregate(all=Count("pk"), expired=Count("pk", filter=Q(expires__lte=now)))
    )
    reasons = []
    if found["expired"] >= _ENOUGH and found["expired"] > found["all"] * _LARGEST_SHARE:
        reasons.append(f"about {found['expired'] / found['all']:.0%} of the sessions have expired")
    # The first one by the index on `expires`. exists() would drop the order.
    if rows.filter(expires__lte=now - _LONGEST).order_by("expires").values_list(Value(1))[:1]:
        reasons.append(f"some have been expired for more than {_LONGEST.days} days")
    if reasons:
        yield checks.Warning(
            f"Nothing clears expired sessions from {store}, or not often enough:"
            f" {' and '.join(reasons)}.",
            hint="python manage.py clearexpiredsessions  # every hour, from cron",
            id="strategy_sessions.W022",
        )
