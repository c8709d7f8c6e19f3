"""Rows that no strategy of ours has written are no session: logged once, and never a 500.

Dates beside the seal that no Python datetime can hold, and keys of Redis that hold another type.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections
from django.test import Client

from django_strategy_sessions import records
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.steps import arun, run
from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.testing import later

from .conftest import DATABASE, OURS, POSTGRES, REDIS, in_postgres, run_in_loop

TABLE = StoredSession._meta.db_table
IN_POSTGRES = ["infinity", "-infinity", "10000-01-01 00:00+00", "0044-03-15 00:00+00 BC"]
IN_SQLITE = ["infinity", "10000-01-01 00:00:00", "-0044-03-15 00:00:00", "2026-13-45 00:00", "", 7]
BY_ORM = {"BACKEND": DATABASE, "OPTIONS": {"using": "postgres"}}
DATES = [
    *((DATABASE, "default", moment) for moment in IN_SQLITE),
    *((BY_ORM, "postgres", moment) for moment in IN_POSTGRES),
    *((POSTGRES, "postgres", moment) for moment in IN_POSTGRES),
]
COLUMNS = ["expires", "created"]


@pytest.fixture(params=["sync", "async"])
def do(request):
    if request.param == "sync":
        return run
    return lambda strategy, steps: run_in_loop(arun(strategy, steps))


@pytest.fixture(
    params=[
        *(
            pytest.param((*case, column), id=f"{case[1]}-{number}-{column}", marks=in_postgres)
            for number, case in enumerate(DATES)
            for column in COLUMNS
        ),
        pytest.param((REDIS, "redis", None, None), id="redis"),
    ]
)
def damage(request, settings, transactional_db):
    """Damages the row of a session."""
    settings.SESSION_STRATEGY, alias, moment, column = request.param

    def rows(session_id):
        with connections[alias].cursor() as cursor:
            key = records.hashed(session_id)
            cursor.execute(f"UPDATE {TABLE} SET {column} = %s WHERE id = %s", [moment, key])
            assert cursor.rowcount == 1

    def key_of_another_type(session_id):
        strategy = get_strategy()
        client = strategy.clients._make_client()
        with closing(client):
            key = strategy.prefix + records.hashed(session_id)
            client.delete(key)
            client.rpush(key, "a", "list")

    damaged = key_of_another_type if alias == "redis" else rows

    def in_thread(session_id):  # because a test may be in an event loop
        def work():
            try:
                damaged(session_id)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()

    return in_thread


def told(caplog):
    return [record.message for record in caplog.records if "damaged" in record.message]


def test_a_damaged_row_is_no_session_and_is_logged_once(damage, do, caplog):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        yield "load", stored.session_id
        damage(stored.session_id)
        assert (yield "load", stored.session_id) is None
        assert len(told(caplog)) == 1
        assert (yield "read_data", stored.session_id) is None
        yield "delete_data", stored.session_id
        assert (yield "load", stored.session_id) is None

    do(get_strategy(), steps())


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_save_of_a_session_whose_row_was_damaged_is_kept_or_refused(damage, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        damage(stored.session_id)
        written = yield verb, stored, {"a": 2}, later()
        found = yield "load", (written or stored).session_id
        assert (found and found.data) == (written and {"a": 2})

    do(get_strategy(), steps())


def test_no_page_fails_because_of_a_damaged_row(damage, settings):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    user = get_user_model().objects.create_user("ada", password="secret")
    client = Client(raise_request_exception=False)
    for page in ("whoami/", "write/?name=2", "login/", "logout/"):
        client.force_login(user)
        client.get("/write/?name=1")
        damage(client.session._state.session_id)
        assert client.get(f"/{page}").status_code < 400, page
        client.cookies.clear()


def test_clearexpiredsessions_works_despite_damaged_rows(damage):
    session = SessionStore()
    session["a"] = 1
    session.save()
    others = [SessionStore() for _ in range(3)]
    for other in others:
        other["a"] = 1
        other.set_expiry(datetime.now(UTC) - timedelta(days=1))
        other.save()
    kept = SessionStore()
    kept["a"] = 1
    kept.save()
    damage(session._state.session_id)
    call_command("clearexpiredsessions", "--batch-size", "2", verbosity=0)
    assert get_strategy().count_expired() == 0
    assert SessionStore(kept.session_key)["a"] == 1
