"""The statements of `PostgresStrategy`, and the transactions that they are in."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import InternalError, ProgrammingError, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import later

from ..conftest import OURS, POSTGRES, in_postgres
from .conftest import TABLE, VERBS, ask, asked, each_verb

pytestmark = in_postgres

# -- statements -----------------------------------------------------------------------------------

STATEMENTS = {
    **dict.fromkeys(["load", "read_data"], "SELECT"),
    **dict.fromkeys(["insert", "create_data"], "INSERT"),
    **dict.fromkeys(["merge", "renewal"], "UPDATE"),
    "rotate": "WITH",  # an UPDATE and an INSERT
    "update_data": "SELECT UPDATE",  # which the engine does not call
    "delete_data": "DELETE",
}


def verbs_of(statements):
    return " ".join(statement.split()[0] for statement in statements)


@each_verb
def test_each_verb_is_one_statement_without_a_transaction(server, strategy, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        with asked(server) as statements:
            yield VERBS[verb](stored)
        assert verbs_of(statements) == STATEMENTS[verb]
        rewritten = "SET data" in statements[-1]
        assert rewritten == (verb in {"update_data", "merge", "rotate"})

    do(strategy, steps())


@each_verb
def test_djangos_query_log_shows_each_statement(strategy, verb):
    stored = strategy.insert({"a": 1}, later())
    name, *arguments = VERBS[verb](stored)
    with CaptureQueriesContext(connections["postgres"]) as queries:
        getattr(strategy, name)(*arguments)
    assert verbs_of(query["sql"] for query in queries) == STATEMENTS[verb]


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_conflict_is_read_again_and_written_under_a_lock(server, strategy, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        yield "merge", stored, {"a": 1, "theirs": 1}, later()
        with asked(server) as statements:
            written = yield verb, stored, {"a": 1, "ours": 1}, later()
        assert written.data == {"a": 1, "theirs": 1, "ours": 1}
        assert (yield "read_data", written.session_id) == written.data
        write = STATEMENTS[verb]
        assert verbs_of(statements) == f"{write} BEGIN SELECT {write} COMMIT"
        assert statements[2].endswith("FOR UPDATE")

    do(strategy, steps())


# -- transactions ---------------------------------------------------------------------------------


def test_a_session_saved_in_a_transaction_is_rolled_back_with_it(strategy):
    with transaction.atomic("postgres"):
        kept = strategy.insert({"a": 1}, later())
    with transaction.atomic("postgres"):
        lost = strategy.insert({"a": 1}, later())
        assert strategy.merge(kept, {"a": 2}, later()).data == {"a": 2}
        conflicting = strategy.merge(kept, {"a": 1, "b": 2}, later())
        assert conflicting.data == {"a": 2, "b": 2}
        rotated = strategy.rotate(kept, {"a": 1, "c": 2}, later())
        assert strategy.load(kept.session_id) is None
        transaction.set_rollback(True, "postgres")
    assert strategy.load(kept.session_id).data == {"a": 1}
    assert strategy.load(lost.session_id) is None
    assert strategy.load(rotated.session_id) is None


@pytest.mark.django_db(transaction=False, databases=["default", "postgres"])
def test_djangos_test_case_rolls_sessions_back(db):
    strategy = PostgresStrategy("postgres")
    stored = strategy.insert({"a": 1}, later())
    assert async_to_sync(strategy.aload)(stored.session_id).data == {"a": 1}
    assert ask(f"SELECT * FROM {TABLE}") == []


def test_a_login_that_is_rolled_back_with_its_request_leaves_the_old_cookie_good(
    settings, monkeypatch
):
    settings.SESSION_STRATEGY = POSTGRES
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    get_user_model().objects.create_user("ada", password="secret")
    monkeypatch.setitem(connections["postgres"].settings_dict, "ATOMIC_REQUESTS", True)
    client = Client(raise_request_exception=False)
    client.get("/write/?name=cart")
    response = client.get("/logincrash/")
    assert response.status_code == 500
    assert "sessionid" not in response.cookies
    assert client.get("/read/").json()["value"] == "cart"
    assert client.get("/whoami/").content == b""


def test_async_code_within_async_to_sync_joins_the_transaction(strategy):
    with transaction.atomic("postgres"):
        stored = strategy.insert({"a": 1}, later())
        merged = async_to_sync(strategy.amerge)(stored, {"a": 2}, later())
        assert strategy.load(stored.session_id).data == merged.data == {"a": 2}
        assert ask(f"SELECT * FROM {TABLE}") == []
        transaction.set_rollback(True, "postgres")
    assert async_to_sync(strategy.aload)(stored.session_id) is None


@each_verb
def test_a_broken_transaction_surfaces_as_itself(strategy, verb):
    stored = strategy.insert({"a": 1}, later())
    name, *arguments = VERBS[verb](stored)
    for call in (getattr(strategy, name), async_to_sync(getattr(strategy, f"a{name}"))):
        with transaction.atomic("postgres"):
            with pytest.raises(ProgrammingError), connections["postgres"].cursor() as cursor:
                cursor.execute("SELECT nonsense")
            with pytest.raises(InternalError, match="transaction is aborted"):
                call(*arguments)
            transaction.set_rollback(True, "postgres")
            with pytest.raises(transaction.TransactionManagementError):
                call(*arguments)
    assert strategy.load(stored.session_id).data == {"a": 1}


@each_verb
def test_a_missing_table_surfaces_as_itself(strategy, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        ask(f"ALTER TABLE {TABLE} RENAME TO away")
        try:
            with pytest.raises(ProgrammingError, match=f'"{TABLE}" does not exist'):
                yield VERBS[verb](stored)
        finally:
            ask(f"ALTER TABLE away RENAME TO {TABLE}")
        assert (yield "read_data", stored.session_id) == {"a": 1}

    do(strategy, steps())
