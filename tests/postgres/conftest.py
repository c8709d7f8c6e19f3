"""A PostgreSQL server to watch and to hurt, and what tests ask it behind a strategy's back."""

from __future__ import annotations

import re
import time
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections

from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.steps import arun, run
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import later

from ..conftest import run_in_loop
from ..servers import Postgres, database

TABLE = StoredSession._meta.db_table
PATIENCE = 30  # seconds, for what takes a moment


@contextmanager
def pointed(**settings):
    """The alias, with other settings."""
    connection = connections["postgres"]
    connection.close()
    kept = {name: connection.settings_dict[name] for name in settings}
    connection.settings_dict.update(settings)
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.update(kept)


def outside(**more):
    """A connection to the same database that is no strategy's."""
    settings = connections["postgres"].settings_dict
    names = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user"}
    params = {names[name]: settings[name] for name in names if settings[name]}
    return psycopg.connect(**params, password=settings["PASSWORD"], **more)


def ask(sql, *values):
    with outside(autocommit=True) as connection:
        cursor = connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else None


def backends(application="sessions"):
    found = ask("SELECT pid FROM pg_stat_activity WHERE application_name = %s", application)
    return {pid for (pid,) in found}


def in_thread(call, *arguments):
    try:
        return call(*arguments)
    finally:
        connections.close_all()


def wait_until(condition):
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture(scope="session")
def own_server(django_db_setup, django_db_blocker):
    with Postgres(log_statement="all") as server, django_db_blocker.unblock():
        with pointed(**database(server.url)):
            call_command("migrate", "django_strategy_sessions", database="postgres", verbosity=0)
        yield server


@pytest.fixture
def server(own_server, transactional_db):
    """A server of these tests' own, which they stop, and which logs its statements."""
    with pointed(**database(own_server.url, application_name="sessions")):
        yield own_server


@contextmanager
def asked(server):
    """The statements that the server is asked to run."""
    log, statements = server.folder / "log", []
    before = log.stat().st_size
    yield statements
    with log.open() as lines:
        lines.seek(before)
        statements += re.findall(r"LOG:  (?:statement|execute [^:]+): (.+)", lines.read())


class AskingStrategy(PostgresStrategy):
    """For steps that ask the server something over a connection for sessions."""

    def ask(self, sql, *values):
        return self.connections.fetch(sql, *values)

    async def aask(self, sql, *values):
        return await self.connections.afetch(sql, *values)


@asynccontextmanager
async def borrowed(strategy):
    """A connection of the event loop's own pool."""
    pool = await strategy.connections._pools.get()
    async with pool.connection() as (connection, _kept):
        yield connection


@pytest.fixture
def strategy(transactional_db):
    return AskingStrategy("postgres", timeout=PATIENCE)


@pytest.fixture(params=["sync", "async"])
def do(request):
    """Carries out steps: over the verbs, or over their twins in an event loop."""
    if request.param == "sync":
        return run
    return lambda strategy, steps: run_in_loop(arun(strategy, steps))


VERBS = {
    "load": lambda stored: ("load", stored.session_id),
    "read_data": lambda stored: ("read_data", stored.session_id),
    "insert": lambda stored: ("insert", {"a": 2}, later()),
    "create_data": lambda stored: ("create_data", {"a": 2}, later()),
    "update_data": lambda stored: ("update_data", stored.session_id, {"a": 2}, later()),
    "merge": lambda stored: ("merge", stored, {"a": 2}, later()),
    "renewal": lambda stored: ("merge", stored, stored.data, later(7200)),
    "rotate": lambda stored: ("rotate", stored, {"a": 2}, later()),
    "delete_data": lambda stored: ("delete_data", stored.session_id),
}
each_verb = pytest.mark.parametrize("verb", VERBS)
