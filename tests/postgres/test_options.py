"""`PostgresStrategy` follows the options of its database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from psycopg import IsolationLevel

from django_strategy_sessions.strategies import make_strategy
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import both_ways, later

from ..conftest import POSTGRES, in_postgres, run_in_loop
from .conftest import TABLE, ask, in_thread, pointed

pytestmark = in_postgres


def test_it_refuses_other_databases():
    with pytest.raises(ImproperlyConfigured, match=r"'default'.* is SQLite, not PostgreSQL"):
        make_strategy({**POSTGRES, "OPTIONS": {"using": "default"}})


@pytest.mark.parametrize(
    ("options", "timeout", "expected"),
    [({}, 7, 7), ({}, 0.5, 2), ({"connect_timeout": 60}, 7, 60)],
)
def test_connecting_ends_within_the_timeout_unless_the_project_sets_connect_timeout(
    options, timeout, expected
):
    with pointed(OPTIONS=options):
        PostgresStrategy("postgres", timeout=timeout).read_data("A" * 22)
        used = connections["postgres"].connection.info.get_parameters()
        assert used["connect_timeout"] == str(expected)


REPEATABLE, SERIALIZABLE = IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE
ISOLATED = {
    "repeatable": {"isolation_level": REPEATABLE},
    "serializable": {"isolation_level": SERIALIZABLE},
    "repeatable by default": {"options": r"-c default_transaction_isolation=repeatable\ read"},
    "serializable by default": {"options": "-c default_transaction_isolation=serializable"},
}


class TestStricterIsolation:
    """What PostgreSQL calls a failure then is a conflict like others."""

    @pytest.fixture(autouse=True, params=ISOLATED.values(), ids=ISOLATED)
    def _isolated(self, request, strategy):
        self.strategy = strategy
        with pointed(OPTIONS=request.param):
            yield

    def make_strategy(self):
        return self.strategy

    def run_async(self, test):
        return run_in_loop(test)

    @both_ways
    def test_concurrent_writers_all_keep_their_writes(self):
        for _ in range(10):
            stored = yield "insert", {"base": 0}, later()
            names = dict.fromkeys("abc", 1)
            yield (
                "race",
                *(("merge", stored, {"base": 0, name: 1}, later()) for name in names),
            )
            assert (yield "read_data", stored.session_id) == {"base": 0, **names}

    @both_ways
    def test_a_save_that_races_a_rotation_is_kept(self):
        for _ in range(10):
            stored = yield "insert", {"base": 0}, later()
            rotated, merged = yield (
                "race",
                ("rotate", stored, {"base": 0, "user": 1}, later()),
                ("merge", stored, {"base": 0, "cart": 1}, later()),
            )
            assert merged is not None
            saved = {"base": 0, "user": 1, "cart": 1}
            assert (yield "read_data", rotated.session_id) == saved
            assert (yield "read_data", stored.session_id) is None

    @both_ways
    def test_a_logout_is_final(self):
        for _ in range(10):
            stored = yield "insert", {"base": 0}, later()
            yield (
                "race",
                ("delete_data", stored.session_id),
                ("merge", stored, {"base": 1}, later()),
                ("update_data", stored.session_id, {"base": 2}, later()),
            )
            assert (yield "read_data", stored.session_id) is None

    def test_a_conflict_in_the_callers_transaction_is_not_retried(self):
        stored = self.strategy.insert({"a": 1}, later())
        with ThreadPoolExecutor(1) as threads, transaction.atomic("postgres"):
            assert self.strategy.load(stored.session_id).data == {"a": 1}
            theirs = threads.submit(in_thread, self.strategy.merge, stored, {"a": 2}, later())
            assert theirs.result().data == {"a": 2}
            with pytest.raises(StrategyUnavailable) as error:
                self.strategy.merge(stored, {"a": 1, "b": 1}, later())
            assert isinstance(error.value.__cause__.__cause__, psycopg.errors.SerializationFailure)
            transaction.set_rollback(True, "postgres")
        assert self.strategy.load(stored.session_id).data == {"a": 2}


def walk():
    stored = yield "insert", {"a": 1}, later()
    assert (yield "load", stored.session_id).data == {"a": 1}
    assert (yield "update_data", stored.session_id, {"a": 2}, later())
    merged = yield "merge", stored, {"a": 1, "b": 1}, later()  # a conflict
    assert merged.data == {"a": 2, "b": 1}
    merged = yield "merge", merged, merged.data, later(7200)
    rotated = yield "rotate", merged, {**merged.data, "_auth_user_id": "1"}, later()
    assert (yield "read_data", stored.session_id) is None
    assert (yield "read_data", rotated.session_id) == rotated.data
    yield "delete_data", rotated.session_id
    assert (yield "read_data", rotated.session_id) is None


@pytest.mark.parametrize(
    ("options", "prepared"),
    [
        ({}, False),
        ({"server_side_binding": True}, False),
        ({"server_side_binding": True, "prepare_threshold": 0}, True),
        ({"options": r"-c datestyle=German -c timezone=Asia/Tokyo"}, False),
    ],
)
def test_statements_are_prepared_if_the_database_settings_say_so(strategy, do, options, prepared):
    def steps():
        yield from walk()
        (count,) = yield (
            "ask",
            "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s",
            f"%{TABLE}%",
        )
        assert (count > 0) == prepared

    with pointed(OPTIONS=options):
        do(strategy, steps())


def test_it_assumes_the_role_of_the_database(server, strategy, do):
    ask(
        "DO $$ BEGIN CREATE ROLE keeper; CREATE ROLE visitor LOGIN NOINHERIT IN ROLE keeper;"
        " EXCEPTION WHEN duplicate_object THEN END $$"
    )
    ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO keeper")

    def steps():
        assert (yield "ask", "SELECT session_user, current_user") == ("visitor", "keeper")
        yield from walk()

    with pointed(USER="visitor", OPTIONS={"assume_role": "keeper"}):
        do(strategy, steps())
