"""What `PostgresStrategy` does when the server, or the way to it, fails."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import pytest
from django.db import close_old_connections, connections

from django_strategy_sessions.strategies import postgres_timeouts
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import later

from ..conftest import in_postgres, run_in_loop
from .conftest import PATIENCE, TABLE, VERBS, ask, backends, each_verb, outside

pytestmark = in_postgres


@pytest.mark.parametrize("checked", [False, True])
def test_a_connection_that_the_server_closed_fails_no_request(
    server, strategy, monkeypatch, checked
):
    monkeypatch.setitem(connections["postgres"].settings_dict, "CONN_MAX_AGE", None)
    monkeypatch.setitem(connections["postgres"].settings_dict, "CONN_HEALTH_CHECKS", checked)
    stored = strategy.insert({"a": 1}, later())
    (before,) = backends()
    ask("SELECT pg_terminate_backend(%s, 10000)", before)
    for _ in range(5):
        close_old_connections()  # as each request does
        assert strategy.load(stored.session_id).data == {"a": 1}
    assert backends() - {before}


def test_in_an_event_loop_connections_that_the_server_closed_fail_no_request(server, strategy):
    async def main():
        stored = await strategy.ainsert({"a": 1}, later())
        await asyncio.gather(*(strategy.aload(stored.session_id) for _ in range(5)))
        before = backends()
        for pid in before:
            ask("SELECT pg_terminate_backend(%s, 10000)", pid)
        assert (await strategy.aload(stored.session_id)).data == {"a": 1}
        assert backends() - before

    run_in_loop(main())


@contextmanager
def hanging(server):
    server.pause()
    try:
        started = time.monotonic()
        yield
        assert time.monotonic() - started < PATIENCE
    finally:
        server.resume()


@each_verb
def test_a_server_that_hangs_is_unavailable_after_the_timeout(server, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        with hanging(server), pytest.raises(StrategyUnavailable):
            yield VERBS[verb](stored)

    do(PostgresStrategy("postgres", timeout=1), steps())


@pytest.mark.parametrize("checked", [False, True])
def test_connecting_to_a_server_that_hangs_ends_after_the_timeout(server, do, monkeypatch, checked):
    monkeypatch.setitem(connections["postgres"].settings_dict, "CONN_MAX_AGE", None)
    monkeypatch.setitem(connections["postgres"].settings_dict, "CONN_HEALTH_CHECKS", checked)
    strategy = PostgresStrategy("postgres", timeout=1)
    stored = strategy.insert({"a": 1}, later())

    def steps():
        for _ in range(2):
            with pytest.raises(StrategyUnavailable):
                yield "load", stored.session_id

    close_old_connections()
    with hanging(server):
        do(strategy, steps())
    close_old_connections()
    assert strategy.load(stored.session_id).data == {"a": 1}


@pytest.mark.parametrize("verb", ["update_data", "merge", "rotate", "delete_data"])
def test_a_wait_for_a_locked_row_ends_after_the_lock_timeout(server, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        yield "merge", stored, {"a": 1, "theirs": 1}, later()
        with outside() as holder:
            holder.execute(f"SELECT * FROM {TABLE} FOR UPDATE")
            with pytest.raises(StrategyUnavailable):
                yield VERBS[verb](stored)
            holder.rollback()

    do(PostgresStrategy("postgres", timeout=1, lock_timeout=1), steps())


def test_a_commit_that_takes_too_long_is_an_outage(server, do):
    ask(
        f"CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({PATIENCE * 2}); RETURN NULL; END $$"
    )
    ask(
        f"CREATE CONSTRAINT TRIGGER dawdles AFTER UPDATE ON {TABLE} DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.owner = 'slow') EXECUTE FUNCTION dawdle()"
    )
    strategy = PostgresStrategy("postgres", timeout=1)

    def steps():
        stored = yield "insert", {"a": 1}, later()
        yield "merge", stored, {"a": 2}, later()
        started = time.monotonic()
        with pytest.raises(StrategyUnavailable):
            yield "merge", stored, {"a": 1, "_auth_user_id": "slow"}, later()
        assert time.monotonic() - started < PATIENCE

    try:
        do(strategy, steps())
    finally:
        for pid in backends():
            ask("SELECT pg_terminate_backend(%s, 10000)", pid)
        ask("DROP FUNCTION dawdle CASCADE")


def test_the_first_requests_of_two_threads_leave_no_time_limit_behind(server, monkeypatch):
    """Each may make a watchdog at the same moment, and both must use the same one. A limit
    that is left in the other would cut the connection again and again."""
    both = Barrier(2)

    class Watchdog(postgres_timeouts._Watchdog):
        def __init__(self):
            super().__init__()
            both.wait(PATIENCE)

    monkeypatch.setattr(postgres_timeouts, "_Watchdog", Watchdog)
    monkeypatch.setattr(postgres_timeouts, "_watchdogs", {})
    strategy = PostgresStrategy("postgres", timeout=1)

    def load_until_the_time_limit_is_over(_thread):
        used, started = set(), time.monotonic()
        try:
            while time.monotonic() - started < 2:
                strategy.load("A" * 22)
                used.add(connections["postgres"].connection.info.backend_pid)
        finally:
            connections.close_all()
        return len(used)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(load_until_the_time_limit_is_over, range(2))) == [1, 1]
