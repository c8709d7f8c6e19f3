"""What is particular to sessions in a database: statements, columns, transactions, failures."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_strategy_sessions import records
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import database, make_strategy
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.database import DatabaseStrategy
from django_strategy_sessions.strategies.sealed import CONFLICTS

from .conftest import DATABASE

pytestmark = pytest.mark.django_db(transaction=True)
strategy = DatabaseStrategy()


def later(seconds=3600):
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_each_verb_is_one_statement(django_assert_num_queries):
    with django_assert_num_queries(1):
        stored = strategy.insert({"a": 1}, later())
    with django_assert_num_queries(1):
        stored = strategy.load(stored.session_id)
    with django_assert_num_queries(1):
        stored = strategy.merge(stored, {"a": 2}, later())
    # A marker stays under the old key, so this is two rows.
    with CaptureQueriesContext(connection) as queries:
        stored = strategy.rotate(stored, {"a": 3}, later())
    verbs = [query["sql"].split()[0] for query in queries]
    assert verbs == ["BEGIN", "UPDATE", "INSERT", "COMMIT"]
    with django_assert_num_queries(1):
        strategy.delete_data(stored.session_id)


def test_only_the_expiry_is_written_when_only_it_moves(django_assert_num_queries):
    stored = strategy.insert({"a": 1}, later())
    with django_assert_num_queries(1) as queries:
        strategy.merge(stored, stored.data, later(7200))
    (query,) = queries.captured_queries
    assert '"data" =' not in query["sql"].split("WHERE")[0]


def test_ids_cannot_be_read_out_of_the_table_and_data_is_sealed():
    stored = strategy.insert({"_auth_user_id": "1", "a": 1}, later())
    row = StoredSession.objects.get()
    assert row.id.hex == records.hashed(stored.session_id)
    assert stored.session_id not in str(list(StoredSession.objects.values_list()))


def test_the_owner_is_the_user_that_is_logged_in():
    user = get_user_model().objects.create_user("ada")
    client = Client()
    client.get("/write/?a=1")
    assert StoredSession.objects.get().owner is None
    client.force_login(user)
    session = StoredSession.objects.exclude(data__startswith=records.MOVED)
    assert session.get().owner == str(user.pk)
    created = session.get().created
    client.get("/write/?a=2")
    assert session.get().created == created


def test_deleting_the_rows_of_an_owner_logs_that_user_out_everywhere():
    visitors = {}
    for name in ("ada", "ada on the phone", "bob"):
        user, _ = get_user_model().objects.get_or_create(username=name.split()[0])
        visitors[name] = Client()
        visitors[name].force_login(user)
    ada = get_user_model().objects.get(username="ada")
    assert StoredSession.objects.filter(owner=ada.pk).count() == 2
    StoredSession.objects.filter(owner=ada.pk).delete()
    shown = {name: client.get("/whoami/").content for name, client in visitors.items()}
    assert shown == {"ada": b"", "ada on the phone": b"", "bob": b"bob"}


def test_a_row_that_was_tampered_with_is_no_session(caplog):
    one, other = SessionStore(), SessionStore()
    for session in (one, other):
        session["canary"] = "CANARY"
        session.save()
    rows = StoredSession.objects.all()
    mine = records.hashed(one.session_key[:22])
    theirs = StoredSession.objects.get(pk=records.hashed(other.session_key[:22])).data
    for data in (theirs, theirs[:-1], "", "x" * 100):
        rows.filter(pk=mine).update(data=data)
        late = SessionStore(one.session_key)
        assert late.get("canary") is None
        late["a"] = 1
        late.save()
        assert late.session_key != one.session_key
    assert len(caplog.records) == 4
    assert "CANARY" not in caplog.text


def test_a_missing_table_surfaces_as_itself():
    stored = strategy.insert({}, later())
    table = StoredSession._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        try:
            for call in (
                lambda: strategy.load(stored.session_id),
                lambda: strategy.insert({}, later()),
                lambda: strategy.merge(stored, {"a": 1}, later()),
            ):
                with pytest.raises(DatabaseError, match="no such table"):
                    call()
        finally:
            cursor.execute(f"ALTER TABLE {table}_away RENAME TO {table}")


def test_a_broken_transaction_surfaces_as_itself():
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError):
            strategy.load("A" * 22)


def test_a_database_that_is_locked_is_unavailable(settings):
    stored = strategy.insert({"a": 1}, later())
    connection.close()
    timeout = connection.settings_dict["OPTIONS"]["timeout"]
    connection.settings_dict["OPTIONS"]["timeout"] = 0
    connection.connect()  # one that Django cannot set up would stay open
    blocker = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    try:
        blocker.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StrategyUnavailable) as error:
            strategy.merge(stored, {"a": 2}, later())
        assert isinstance(error.value.__cause__, OperationalError)
    finally:
        blocker.close()
        connection.close()
        connection.settings_dict["OPTIONS"]["timeout"] = timeout
    assert strategy.load(stored.session_id).data == {"a": 1}


def test_a_session_saved_in_a_transaction_is_rolled_back_with_it():
    with transaction.atomic():
        kept = strategy.insert({"a": 1}, later())
    with transaction.atomic():
        lost = strategy.insert({"a": 1}, later())
        transaction.set_rollback(True)
    assert strategy.load(kept.session_id) is not None
    assert strategy.load(lost.session_id) is None


def test_a_collision_inside_a_transaction_does_not_break_it(monkeypatch):
    taken = strategy.insert({}, later()).session_id
    ids = iter([taken, "B" * 22])
    monkeypatch.setattr(records, "new_id", lambda: next(ids))
    with transaction.atomic():
        assert strategy.insert({"b": 1}, later()).session_id == "B" * 22
    assert strategy.load("B" * 22).data == {"b": 1}


class OvertakenStrategy(DatabaseStrategy):
    """Another writer is first each time, until there is a lock."""

    def __init__(self):
        super().__init__()
        self.tries = []

    def swap(self, key, held, row):
        self.overtake()
        return super().swap(key, held, row)

    def move(self, key, held, marker, new_key, row):
        self.overtake()
        return super().move(key, held, marker, new_key, row)

    def overtake(self):
        self.tries.append(connection.in_atomic_block)
        if not self.tries[-1]:
            newest = strategy.load(self.session_id)
            assert strategy.merge(newest, {"n": len(self.tries)}, later())


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_conflict_always_ends(verb):
    stored = strategy.insert({"n": 0}, later())
    overtaken = OvertakenStrategy()
    overtaken.session_id = stored.session_id
    written = getattr(overtaken, verb)(stored, {"n": 0, "mine": 1}, later())
    assert overtaken.tries == [False] * CONFLICTS + [True]
    assert written.data == {"n": CONFLICTS, "mine": 1}
    assert strategy.load(written.session_id).data == written.data


def test_a_session_that_ends_between_conflict_and_lock_is_gone():
    swaps = []

    class EndingStrategy(DatabaseStrategy):
        def swap(self, key, held, row):
            swaps.append(key)
            return False

        def get(self, key):
            if connection.in_atomic_block:
                self.remove(key)
            return super().get(key)

    stored = strategy.insert({"n": 0}, later())
    assert EndingStrategy().merge(stored, {"n": 1}, later()) is None
    assert len(swaps) == CONFLICTS


def test_an_error_of_integrity_that_is_no_collision_surfaces(monkeypatch):
    monkeypatch.setattr(database, "_values", lambda *given: {"data": None, "expires": later()})
    with pytest.raises(IntegrityError):
        strategy.insert({}, later())


def test_the_database_is_the_one_that_writes_go_to(settings):
    class Router:
        def db_for_read(self, model, **hints):
            raise AssertionError("a replica may not know yet who has logged out")

        def db_for_write(self, model, **hints):
            return "default"

    settings.DATABASE_ROUTERS = [Router()]
    stored = strategy.insert({"a": 1}, later())
    assert strategy.load(stored.session_id).data == {"a": 1}


def test_an_alias_that_is_unknown_is_refused():
    with pytest.raises(ImproperlyConfigured) as error:
        make_strategy({"BACKEND": DATABASE, "OPTIONS": {"using": "nowhere"}})
    assert "'nowhere'" in str(error.value.__cause__)


@pytest.mark.parametrize("before", [True, False])
def test_use_tz_changes_nothing(settings, before):
    settings.TIME_ZONE = "America/New_York"
    settings.USE_TZ = before
    expires = datetime(2030, 11, 3, 5, 30, tzinfo=UTC)  # in an hour that comes twice there
    stored = strategy.insert({}, expires)
    settings.USE_TZ = not before
    assert strategy.load(stored.session_id).expires == expires
    assert StoredSession.objects.filter(expires=expires).exists()


def test_no_migration_is_missing():
    call_command("makemigrations", "django_strategy_sessions", check=True, dry_run=True)
    assert StoredSession._meta.get_field("expires").null is False
