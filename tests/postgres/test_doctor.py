"""What hurts in PostgreSQL is found, each hint mends it, and a healthy server has nothing."""

from __future__ import annotations

import struct
from contextlib import closing, contextmanager

import pytest
from django.db import connections
from psycopg import pq

from django_strategy_sessions.strategies import postgres_health
from django_strategy_sessions.strategies.database import DatabaseStrategy
from django_strategy_sessions.strategies.postgres import PostgresStrategy

from ..conftest import in_postgres
from .conftest import TABLE, ask, pointed, wait_until

pytestmark = in_postgres


@pytest.fixture(autouse=True)
def a_new_table(transactional_db):
    """Without the dead rows that other tests have left."""
    ask(f"TRUNCATE {TABLE}")


@pytest.fixture
def strategy():
    return PostgresStrategy("postgres")


def examine(strategy):
    """The findings by the end of their ids."""
    return {message.id.rpartition(".")[2]: message for message in strategy.examine()}


def fill(count, size=1):
    ask(
        f"INSERT INTO {TABLE} (id, data, expires, created) SELECT gen_random_uuid(),"
        " repeat('x', %s), now() + interval '1 day', now() FROM generate_series(1, %s)",
        size,
        count,
    )


def mend(message):
    for statement in message.hint.splitlines():
        ask(statement)


@pytest.mark.parametrize("kind", [PostgresStrategy, DatabaseStrategy])
def test_a_healthy_table_has_nothing(kind):
    fill(100)
    ask(f"VACUUM ANALYZE {TABLE}")
    assert examine(kind("postgres")) == {}


def test_commits_that_a_crash_undoes_are_found(strategy):
    """A role's setting changes with its next connection; the project's own it has to edit."""
    name = connections["postgres"].settings_dict["NAME"]
    ask(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    connections["postgres"].close()
    mend(examine(strategy)["W023"])
    connections["postgres"].close()
    assert examine(strategy) == {}
    ask("ALTER ROLE CURRENT_USER RESET synchronous_commit")
    ask(f'ALTER DATABASE "{name}" RESET synchronous_commit')
    with pointed(OPTIONS={"options": "-c synchronous_commit=off"}):
        assert "in the OPTIONS" in examine(strategy)["W023"].hint


@pytest.mark.parametrize("kind", [PostgresStrategy, DatabaseStrategy])
def test_an_invalid_index_is_found(kind):
    """CREATE INDEX CONCURRENTLY that fails leaves one."""
    ask(
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'strategy_sessions_owner'::regclass"
    )
    strategy = kind("postgres")
    message = examine(strategy)["W021"]
    assert "strategy_sessions_owner" in message.msg
    mend(message)
    assert examine(strategy) == {}


@pytest.fixture
def unvacuumed():
    ask(f"ALTER TABLE {TABLE} SET (autovacuum_enabled = off)")
    yield
    ask(f"ALTER TABLE {TABLE} RESET (autovacuum_enabled, autovacuum_vacuum_scale_factor)")


def test_dead_rows_that_stay_are_found(strategy, unvacuumed):
    fill(19_000)
    ask(f"DELETE FROM {TABLE} WHERE id < '80000000-0000-0000-0000-000000000000'")
    assert "W024" not in examine(strategy)  # fewer than 10,000
    ask(f"DELETE FROM {TABLE} WHERE id < 'a0000000-0000-0000-0000-000000000000'")
    wait_until(lambda: "W024" in examine(strategy))  # a connection reports what it did as it ends
    mend(examine(strategy)["W024"])
    wait_until(lambda: "W024" not in examine(strategy))


def test_bloat_is_found(strategy, unvacuumed, monkeypatch):
    monkeypatch.setattr(postgres_health, "_LARGE", 2**20)  # 1 MiB instead of 100
    fill(2_000, size=1_500)
    ask(f"VACUUM ANALYZE {TABLE}")
    assert examine(strategy) == {}  # as large as its rows
    ask(
        f"DELETE FROM {TABLE} WHERE ctid NOT IN (SELECT ctid FROM {TABLE} ORDER BY ctid DESC"
        " LIMIT 100)"
    )
    ask(f"VACUUM ANALYZE {TABLE}")
    message = examine(strategy)["W025"]
    assert message.msg.startswith("The table of sessions")
    wait_until(lambda: mend(message) is None and examine(strategy) == {})


def test_bloated_indexes_are_found(strategy, unvacuumed, monkeypatch):
    monkeypatch.setattr(postgres_health, "_LARGE", 2**19)
    fill(300)
    ask(f"VACUUM ANALYZE {TABLE}")
    assert examine(strategy) == {}
    fill(10_000)
    ask(f"DELETE FROM {TABLE} WHERE id < 'f8000000-0000-0000-0000-000000000000'")
    ask(f"VACUUM ANALYZE {TABLE}")

    def find():
        return [message for message in strategy.examine() if "indexes" in message.msg]

    (found,) = find()
    assert found.id == "strategy_sessions.W025"
    # An open transaction may still see the rows, and then their entries stay.
    wait_until(lambda: mend(found) is None and not find())


@contextmanager
def standby():
    """A connection that says, as a standby does, how far it has come: nowhere."""
    settings = connections["postgres"].settings_dict
    where = f"host={settings['HOST']} port={settings['PORT']} user={settings['USER']}"
    with closing(_Standby(where)) as connection:
        yield connection


class _Standby:
    def __init__(self, where):
        self.connection = pq.PGconn.connect(f"{where} replication=true".encode())
        position = self.connection.exec_(b"IDENTIFY_SYSTEM").get_value(0, 2)
        self.connection.exec_(b"START_REPLICATION PHYSICAL " + position)
        self.connection.put_copy_data(b"r" + struct.pack("!QQQQB", 1, 1, 1, 0, 0))
        self.connection.flush()

    def close(self):
        self.connection.finish()


def write_ahead():
    """Write five segments of the log, 80 MiB, which are mostly empty."""
    for _ in range(5):
        ask("SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()")


def test_a_standby_that_lags_is_found_by_a_role_that_may_look(server, strategy):
    ask("CREATE ROLE curious LOGIN")
    ask(f"GRANT SELECT ON {TABLE} TO curious")
    write_ahead()
    try:
        with standby():
            wait_until(lambda: "W026" in examine(strategy))
            with pointed(USER="curious"):
                found = examine(strategy)
                assert {*found} == {"I020"}
            mend(found["I020"])
            with pointed(USER="curious"):
                assert {*examine(strategy)} == {"W026"}
        wait_until(lambda: examine(strategy) == {})
    finally:
        ask(f"REVOKE ALL ON {TABLE} FROM curious")
        ask("DROP ROLE curious")


def test_what_a_role_may_not_see_is_told(strategy):
    ask("CREATE ROLE curious LOGIN")
    ask(f"GRANT SELECT ON {TABLE} TO curious")
    ask("REVOKE SELECT ON pg_stats, pg_settings FROM PUBLIC")
    try:
        with pointed(USER="curious"):
            found = [message for message in strategy.examine() if message.id.endswith("I020")]
    finally:
        ask("GRANT SELECT ON pg_stats, pg_settings TO PUBLIC")
        ask(f"REVOKE ALL ON {TABLE} FROM curious")
        ask("DROP ROLE curious")
    assert [message.msg.partition(" in ")[0] for message in found] == [
        "The doctor may not look at synchronous_commit",
        "The doctor may not look at the sizes of the table",
    ]
