"""What `PostgresStrategy` promises beyond the contract: statements, transactions, connections."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import struct
import time
from base64 import urlsafe_b64decode
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from random import Random
from threading import Barrier

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import (
    InternalError,
    ProgrammingError,
    close_old_connections,
    connections,
    transaction,
)
from django.test import Client
from psycopg import IsolationLevel

from django_strategy_sessions import records
from django_strategy_sessions.conf import make_strategy
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies.base import StrategyUnavailable, arun, run
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import both_ways, later

from .conftest import OURS, POSTGRES, in_postgres, run_in_loop
from .servers import Postgres, database

pytestmark = in_postgres
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


@pytest.fixture(scope="module")
def own_server(django_db_setup, django_db_blocker):
    with Postgres(log_statement="all") as server, django_db_blocker.unblock():
        with pointed(**database(server.url)):
            call_command("migrate", "django_strategy_sessions", database="postgres", verbosity=0)
        yield server


@pytest.fixture
def server(own_server, transactional_db):
    """A server of the module's own, to be hurt and to tell what it was asked."""
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


@pytest.fixture
def strategy(transactional_db):
    return PostgresStrategy("postgres", timeout=PATIENCE)


@pytest.fixture(params=["sync", "async"])
def do(request):
    """Carries out steps: over the verbs, or over their twins in an event loop."""
    if request.param == "sync":
        return run
    return lambda strategy, steps: run_in_loop(arun(strategy, steps))


# -- statements -----------------------------------------------------------------------------------

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
STATEMENTS = {
    **dict.fromkeys(["load", "read_data"], "SELECT"),
    **dict.fromkeys(["insert", "create_data"], "INSERT"),
    **dict.fromkeys(["update_data", "merge", "renewal", "rotate"], "UPDATE"),
    "delete_data": "DELETE",
}
each_verb = pytest.mark.parametrize("verb", VERBS)


@each_verb
def test_each_verb_is_one_statement_without_a_transaction(server, strategy, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        with asked(server) as statements:
            yield VERBS[verb](stored)
        (statement,) = statements
        assert statement.startswith(STATEMENTS[verb])
        rewritten = "SET data" in statement
        assert rewritten == (verb in {"update_data", "merge", "rotate"})

    do(strategy, steps())


@each_verb
def test_djangos_query_log_shows_each_statement(strategy, django_assert_num_queries, verb):
    stored = strategy.insert({"a": 1}, later())
    name, *arguments = VERBS[verb](stored)
    with django_assert_num_queries(1, connection=connections["postgres"]) as queries:
        getattr(strategy, name)(*arguments)
    (query,) = queries.captured_queries
    assert query["sql"].startswith(STATEMENTS[verb])


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_conflict_is_read_again_and_written_under_a_lock(server, strategy, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        yield "merge", stored, {"a": 1, "theirs": 1}, later()
        with asked(server) as statements:
            written = yield verb, stored, {"a": 1, "ours": 1}, later()
        assert written.data == {"a": 1, "theirs": 1, "ours": 1}
        assert (yield "read_data", written.session_id) == written.data
        assert [statement.split()[0] for statement in statements] == [
            *("UPDATE", "BEGIN", "SELECT", "UPDATE", "COMMIT")
        ]
        assert statements[2].endswith("FOR UPDATE")

    do(strategy, steps())


# -- transactions ---------------------------------------------------------------------------------


def test_a_session_saved_in_a_transaction_shares_its_fate(strategy):
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
def test_djangos_test_case_takes_sessions_back(db):
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


def test_async_code_that_sync_code_waits_for_is_in_its_transaction(strategy):
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


# -- records --------------------------------------------------------------------------------------


def test_ids_and_keys_cannot_be_read_out_of_the_table(settings):
    settings.SESSION_STRATEGY = POSTGRES
    session = SessionStore()
    session["a"] = 1
    session.save()
    session_id, mac = session.session_key.split(".")
    ((everything,),) = ask(f"SELECT t::text FROM {TABLE} t")
    assert '{"a":1}' in everything.replace('""', '"')
    for secret in (session_id, mac, urlsafe_b64decode(f"{session_id}==").hex()):
        assert secret not in everything.replace("-", "")


@pytest.mark.parametrize(
    "tampered", ["other.data", "left(one.data, -1)", "one.data || ' '", "''", "repeat('x', 100)"]
)
def test_a_row_that_was_tampered_with_is_no_session(strategy, do, caplog, tampered):
    def steps():
        one = yield "insert", {"canary": "CANARY 1"}, later()
        other = yield "insert", {"canary": "CANARY 2"}, later()
        ask(
            f"UPDATE {TABLE} SET data = {tampered} FROM {TABLE} one, {TABLE} other"
            f" WHERE {TABLE}.id = one.id AND one.id = %s AND other.id = %s",
            *(records.hashed(stored.session_id) for stored in (one, other)),
        )
        assert (yield "load", one.session_id) is None
        assert (yield "read_data", one.session_id) is None
        assert (yield "read_data", other.session_id) == other.data
        assert "CANARY" not in caplog.text
        assert one.session_id not in caplog.text

    do(strategy, steps())


class Misled(PostgresStrategy):
    """What somebody else asked over its connection is answered first."""

    def mislead(self, sql):
        _send(self.connection.connection, sql)

    async def amislead(self, sql):
        async with self._borrowed() as connection:
            _send(connection, sql)


def _send(connection, sql):
    # Behind the back of libpq, which takes the answer for that to its own next question.
    os.write(connection.fileno(), b"Q" + struct.pack("!i", len(sql) + 5) + sql.encode() + b"\0")


def test_an_answer_about_another_session_is_no_answer(do):
    def steps():
        mine = yield "insert", {"a": "mine"}, later()
        theirs = yield "insert", {"a": "theirs"}, later()
        key = records.hashed(theirs.session_id)
        columns = "id::text, data, date_part('epoch', expires), date_part('epoch', created)"
        yield "mislead", f"SELECT {columns} FROM {TABLE} WHERE id = '{key}'"
        with pytest.raises(StrategyUnavailable, match="another session"):
            yield "load", mine.session_id

    do(Misled("postgres"), steps())
    connections["postgres"].close()


# -- options of the database ----------------------------------------------------------------------


def test_it_refuses_other_databases():
    with pytest.raises(ImproperlyConfigured, match=r"'default'.* is SQLite, not PostgreSQL"):
        make_strategy({**POSTGRES, "OPTIONS": {"using": "default"}})


@pytest.mark.parametrize(
    ("options", "timeout", "expected"),
    [({}, 7, 7), ({}, 0.5, 2), ({"connect_timeout": 60}, 7, 60)],
)
def test_connecting_ends_in_time_unless_the_project_says_when(options, timeout, expected):
    with pointed(OPTIONS=options):
        PostgresStrategy("postgres", timeout=timeout)
        assert connections["postgres"].get_connection_params()["connect_timeout"] == expected


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
    def test_writers_at_the_same_time_all_keep_theirs(self):
        for _ in range(10):
            stored = yield "insert", {"base": 0}, later()
            names = dict.fromkeys("abc", 1)
            yield (
                "race",
                *(("merge", stored, {"base": 0, name: 1}, later()) for name in names),
            )
            assert (yield "read_data", stored.session_id) == {"base": 0, **names}

    @both_ways
    def test_a_rotation_takes_a_save_along_or_tells_it(self):
        for _ in range(10):
            stored = yield "insert", {"base": 0}, later()
            rotated, merged = yield (
                "race",
                ("rotate", stored, {"base": 0, "user": 1}, later()),
                ("merge", stored, {"base": 0, "cart": 1}, later()),
            )
            assert ("cart" in rotated.data) == (merged is not None)
            assert (yield "read_data", rotated.session_id) == rotated.data
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

    def test_a_callers_transaction_is_the_callers_to_repeat(self):
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
def test_statements_are_prepared_where_the_database_has_it_so(strategy, do, options, prepared):
    def steps():
        yield from walk()
        (count,) = yield (
            "_fetch",
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
        assert (yield "_fetch", "SELECT session_user, current_user") == ("visitor", "keeper")
        yield from walk()

    with pointed(USER="visitor", OPTIONS={"assume_role": "keeper"}):
        do(strategy, steps())


# -- outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("checked", [False, True])
def test_a_connection_that_the_server_ended_is_not_even_noticed(
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


def test_an_event_loop_does_not_notice_that_the_server_ended_its_connections(server, strategy):
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
def test_a_server_that_hangs_is_waited_for_until_the_time_is_up(server, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        with hanging(server), pytest.raises(StrategyUnavailable):
            yield VERBS[verb](stored)

    do(PostgresStrategy("postgres", timeout=1), steps())


@pytest.mark.parametrize("checked", [False, True])
def test_connecting_to_a_server_that_hangs_ends_when_the_time_is_up(
    server, do, monkeypatch, checked
):
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
def test_who_waits_for_a_locked_row_gives_up_when_the_time_is_up(server, do, verb):
    def steps():
        stored = yield "insert", {"a": 1}, later()
        yield "merge", stored, {"a": 1, "theirs": 1}, later()
        with outside() as holder:
            holder.execute(f"SELECT * FROM {TABLE} FOR UPDATE")
            with pytest.raises(StrategyUnavailable):
                yield VERBS[verb](stored)
            holder.rollback()

    do(PostgresStrategy("postgres", timeout=1), steps())


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


# -- the pools of event loops ---------------------------------------------------------------------


def test_a_pool_has_no_more_connections_than_it_may(server):
    strategy = PostgresStrategy("postgres", timeout=PATIENCE, pool_size=3)

    async def main():
        stored = await strategy.ainsert({"a": 1}, later())
        loaded = await asyncio.gather(*(strategy.aload(stored.session_id) for _ in range(100)))
        assert [one.data for one in loaded] == [{"a": 1}] * 100
        assert len(backends()) == 3

    run_in_loop(main())


def test_a_pool_that_is_in_use_is_an_outage_until_it_is_not(server):
    strategy = PostgresStrategy("postgres", timeout=0.5, pool_size=2)

    async def main():
        stored = await strategy.ainsert({"a": 1}, later())
        async with strategy._borrowed(), strategy._borrowed():
            with pytest.raises(StrategyUnavailable) as error:
                await strategy.aload(stored.session_id)
        assert "in use" in str(error.value.__cause__)
        assert (await strategy.aload(stored.session_id)).data == {"a": 1}

    run_in_loop(main())


def test_each_event_loop_has_its_own_connections_and_leaves_none(server, strategy):
    both = Barrier(2)

    async def visit(number):
        stored = await strategy.ainsert({"number": number}, later())
        both.wait(PATIENCE)
        assert (await strategy.aload(stored.session_id)).data == {"number": number}
        (pid,) = await strategy.a_fetch("SELECT pg_backend_pid()")
        both.wait(PATIENCE)
        assert pid in backends()
        return pid

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda number: run_in_loop(visit(number)), range(2))
    assert one != other
    wait_until(lambda: not backends())


def test_calls_that_are_cancelled_leave_a_pool_that_works(server):
    strategy = PostgresStrategy("postgres", timeout=PATIENCE, pool_size=4)
    random = Random(0)

    async def visit(stored):
        loaded = await strategy.aload(stored.session_id)
        assert loaded.data["number"] == stored.data["number"]
        merged = await strategy.amerge(loaded, {**loaded.data, "seen": random.random()}, later())
        assert merged.data["number"] == stored.data["number"]

    async def cancelled(stored, pause):
        tasks = [asyncio.create_task(visit(one)) for one in stored]
        for task in tasks:
            await asyncio.sleep(pause())
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def main():
        stored = [await strategy.ainsert({"number": number}, later()) for number in range(20)]
        answers = []
        for _ in range(5):
            answers += await cancelled(stored, lambda: random.expovariate(1000))
        with outside() as holder:
            holder.execute(f"SELECT * FROM {TABLE} FOR UPDATE")  # now most of them wait
            for _ in range(5):
                answers += await cancelled(stored, lambda: random.expovariate(500))
        assert {type(answer) for answer in answers} <= {type(None), asyncio.CancelledError}
        assert sum(answer is not None for answer in answers) > 100
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(strategy._borrowed())
        assert len(backends()) <= 4
        await asyncio.gather(*map(visit, stored * 5))

    with asked(server) as _:
        run_in_loop(main())
    assert "canceling statement" in (server.folder / "log").read_text()
    wait_until(lambda: not backends())


# -- forks ----------------------------------------------------------------------------------------


@contextmanager
def in_child(work):
    """A list, to hold what `work` answers in a forked process."""
    read, write = os.pipe()
    if not (pid := os.fork()):
        signal.alarm(PATIENCE)
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    answer = []
    yield answer
    with os.fdopen(read) as pipe:
        answer.append(json.loads(pipe.read()))
    os.waitpid(pid, 0)


forking = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
PID = "SELECT pg_backend_pid()"


@forking
def test_a_forked_process_has_a_connection_of_its_own(server, strategy):
    stored = [strategy.insert({"number": number}, later()) for number in range(2)]

    def visits(number):
        read = [strategy.read_data(stored[number].session_id) for _ in range(50)]
        return [*strategy._fetch(PID), read]

    with in_child(lambda: visits(1)) as answer:
        mine, read = visits(0)
        assert read == [{"number": 0}] * 50
    ((theirs, read),) = answer
    assert read == [{"number": 1}] * 50
    assert theirs != mine
    assert visits(0)[0] == mine


@forking
def test_a_forked_process_has_a_pool_of_its_own(server):
    """Where Django keeps one."""
    pooled = database(server.url, pool={"min_size": 2, "max_size": 2})
    with pointed(**{**pooled, "CONN_MAX_AGE": 0}):
        strategy = PostgresStrategy("postgres", timeout=PATIENCE)
        stored = [strategy.insert({"number": number}, later()) for number in range(2)]
        connections["postgres"].close()  # gives it back

        def visits(number):
            read = [strategy.read_data(stored[number].session_id) for _ in range(50)]
            connections["postgres"].close()
            return read

        try:
            with in_child(lambda: visits(1)) as answer:
                assert visits(0) == [{"number": 0}] * 50
        finally:
            connections["postgres"].close_pool()
    assert answer == [[{"number": 1}] * 50]


@forking
def test_a_forked_event_loop_has_connections_of_its_own(server, strategy):
    async def visits(stored):
        read = [await strategy.aread_data(stored.session_id) for _ in range(50)]
        return [*(await strategy.a_fetch(PID)), read]

    async def main():
        stored = [await strategy.ainsert({"number": number}, later()) for number in range(2)]
        with in_child(lambda: asyncio.run(visits(stored[1]))) as answer:
            mine, read = await visits(stored[0])
            assert read == [{"number": 0}] * 50
        ((theirs, read),) = answer
        assert read == [{"number": 1}] * 50
        assert theirs != mine
        assert (await visits(stored[0]))[0] == mine

    run_in_loop(main())
