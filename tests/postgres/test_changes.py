"""PostgreSQL's connections: when they are closed, replaced, or left to Django."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.backends.utils import CursorWrapper

from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.database import DatabaseStrategy
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import later

from ..conftest import in_postgres, run_in_loop
from ..servers import Postgres, Tunnel, database
from .conftest import TABLE, AskingStrategy, outside, pointed

pytestmark = in_postgres
PID = "SELECT pg_backend_pid()"


@pytest.fixture(scope="module")
def servers(django_db_setup, django_db_blocker):
    with Postgres() as one, Postgres() as other, django_db_blocker.unblock():
        for server in (one, other):
            with pointed(**database(server.url)):
                call_command(
                    "migrate", "django_strategy_sessions", database="postgres", verbosity=0
                )
        yield one, other


@pytest.fixture
def tunnel(servers, transactional_db):
    """Leads to the first server; the alias goes through it and keeps its connections."""
    with (
        Tunnel(servers[0].port) as tunnel,
        pointed(**database(f"postgresql://postgres@127.0.0.1:{tunnel.port}/postgres")),
        pointed(CONN_MAX_AGE=None),
    ):
        yield tunnel


def set_read_only(server, value):
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        connection.execute("SELECT pg_reload_conf()")
        while connection.execute("SHOW default_transaction_read_only").fetchone() != (value,):
            time.sleep(0.01)


def test_after_a_demotion_requests_connect_to_the_new_primary(servers, tunnel, do):
    strategy = AskingStrategy("postgres")

    def steps():
        stored = yield "insert", {"a": 1}, later()
        set_read_only(servers[0], "on")
        # Each backend learns of the new setting at a moment of its own.
        while (yield "ask", "SHOW default_transaction_read_only") != ("on",):
            pass
        tunnel.leads_to = servers[1].port
        try:
            with pytest.raises(StrategyUnavailable):
                yield "merge", stored, {"a": 2}, later()
            assert (yield "insert", {"a": 3}, later())
        finally:
            set_read_only(servers[0], "off")

    do(strategy, steps())


def test_a_rotated_login_is_used_by_the_next_connection(servers, tunnel, do):
    strategy = AskingStrategy("postgres")
    settings = connections["postgres"].settings_dict

    def steps():
        stored = yield "insert", {"a": 1}, later()
        settings["USER"] = "nobody at all"
        (pid,) = yield "ask", PID
        with psycopg.connect(servers[0].url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        with pytest.raises(StrategyUnavailable):
            yield "load", stored.session_id
        settings["USER"] = "postgres"
        assert (yield "load", stored.session_id).data == {"a": 1}

    do(strategy, steps())


@pytest.mark.parametrize("idle", [False, True])
def test_a_connection_that_a_firewall_dropped_costs_no_request(tunnel, do, idle):
    strategy = PostgresStrategy("postgres", timeout=4, max_idle=0.1 if idle else 30)

    def steps():
        stored = yield "insert", {"a": 1}, later()
        tunnel.forget()
        if idle:
            time.sleep(0.2)
            assert (yield "merge", stored, {"a": 1}, later())
        assert (yield "load", stored.session_id).data == {"a": 1}

    do(strategy, steps())


def test_an_event_loop_closes_pooled_connections_after_a_burst(servers, tunnel):
    strategy = PostgresStrategy("postgres", max_idle=0.3)

    def count():
        with psycopg.connect(servers[0].url) as other:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE query = %s"
            return other.execute(asked, [PID]).fetchone()[0]

    async def main():
        pids = await asyncio.gather(*(strategy.connections.afetch(PID) for _ in range(8)))
        assert len(set(pids)) > 1
        while count():  # noqa: ASYNC110 (the server sends no event)
            await asyncio.sleep(0.05)

    run_in_loop(main())


@pytest.mark.parametrize("verb", ["merge", "rotate", "delete_data"])
def test_waiting_for_a_locked_row_is_no_outage(strategy_with_a_second, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        holder = outside()
        holder.execute(f"SELECT * FROM {TABLE} FOR UPDATE")
        release = threading.Timer(2.5, holder.close)
        release.start()
        if verb == "delete_data":
            yield verb, stored.session_id
        else:
            assert (yield verb, stored, {"a": 2}, later())
        release.join()

    do(strategy_with_a_second, steps())


@pytest.fixture
def strategy_with_a_second(transactional_db):
    return PostgresStrategy("postgres", timeout=1)


# -- forks in C, of which Python does not know ----------------------------------------------------


@contextmanager
def c_fork(work):
    read, write = os.pipe()
    if not (pid := ctypes.PyDLL(None).fork()):
        signal.alarm(30)
        try:
            os.write(write, b"1" if work() else b"0")
        finally:
            os._exit(0)
    os.close(write)
    yield
    with os.fdopen(read) as pipe:
        assert pipe.read() == "1"
    os.waitpid(pid, 0)


@pytest.mark.parametrize("kind", [DatabaseStrategy, PostgresStrategy])
def test_a_process_forked_in_c_opens_its_own_connection(tunnel, kind):
    strategy = kind("postgres")
    stored = [strategy.insert({"number": number}, later()) for number in range(2)]

    def reads(number):
        key = stored[number].session_id
        return [strategy.load(key).data for _ in range(50)] == [{"number": number}] * 50

    with c_fork(lambda: reads(1)):
        assert reads(0)


# -- native or not --------------------------------------------------------------------------------


def test_event_loops_connect_by_themselves_only_where_it_makes_no_difference(settings):
    named = PostgresStrategy("postgres").connections
    assert named.why_threads() is None
    assert named.check() == []

    def receive(**kwargs):
        pass

    connection_created.connect(receive)
    try:
        assert "connection_created" in named.why_threads()
        (info,) = named.check()
        assert info.id == "strategy_sessions.I001"
    finally:
        connection_created.disconnect(receive)
    with connections["postgres"].execute_wrapper(lambda execute, *call: execute(*call)):
        assert "wrappers" in named.why_threads()
    settings.DATABASE_ROUTERS = [ToPostgres()]
    assert named.why_threads() is None
    assert "DATABASE_ROUTERS" in PostgresStrategy().connections.why_threads()


class ToPostgres:
    def db_for_write(self, model, **hints):
        return "postgres"


def test_with_a_connection_created_receiver_a_verb_is_one_hop_to_a_thread(tunnel, monkeypatch):
    seen, hops = [], []

    def receive(connection, **kwargs):
        seen.append(connection.alias)

    def hop(function, **options):
        hops.append(function)
        return sync_to_async(function, **options)

    async def main():
        strategy = PostgresStrategy("postgres")
        stored = await strategy.ainsert({"a": 1}, later())
        await strategy.amerge(stored, {"a": 2}, later())
        with monkeypatch.context() as patch:
            patch.setattr("django_strategy_sessions.strategies.sealed.sync_to_async", hop)
            # A conflict: three statements, two of them in a transaction.
            return await strategy.amerge(stored, {"a": 1, "b": 1}, later())

    connection_created.connect(receive)
    try:
        assert run_in_loop(main()).data == {"a": 2, "b": 1}
    finally:
        connection_created.disconnect(receive)
    assert seen == ["postgres"]
    assert len(hops) == 1


def test_with_a_connection_created_receiver_a_locked_save_is_one_hop(tunnel):
    """Writers of one session at the same time, in a thread each."""
    connection_created.connect(ignore)
    try:
        strategy = PostgresStrategy("postgres")
        assert not strategy.is_native()

        async def main():
            stored = await strategy.ainsert({}, later())
            names = [str(number) for number in range(6)]
            writes = (
                sync_to_async(write, thread_sensitive=False)(strategy, stored, name)
                for name in names
            )
            await asyncio.gather(*writes, strategy.amerge(stored, {"mine": 1}, later()))
            return (await strategy.aload(stored.session_id)).data.keys(), {*names, "mine"}

        found, expected = run_in_loop(main())
        assert found == expected
    finally:
        connection_created.disconnect(ignore)


def ignore(**kwargs):
    pass


def write(strategy, stored, name):
    try:
        strategy.merge(stored, {name: 1}, later())
    finally:
        connections.close_all()


def test_a_tracer_that_starts_late_is_seen_at_the_next_connection(tunnel, monkeypatch):
    """Wrappers of a connection are looked for once per connection, not at each call."""
    strategy = PostgresStrategy("postgres")
    traced = []

    async def main():
        stored = await strategy.ainsert({"a": 1}, later())
        assert strategy.is_native()
        execute = CursorWrapper.execute

        def trace(self, *arguments):
            traced.append(self.db.alias)
            return execute(self, *arguments)

        monkeypatch.setattr(CursorWrapper, "execute", trace)
        await asyncio.gather(*(strategy.aload(stored.session_id) for _ in range(2)))
        assert not strategy.is_native()
        await strategy.aload(stored.session_id)

    run_in_loop(main())
    assert traced == ["postgres"]
