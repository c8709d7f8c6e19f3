"""Other requests see what a transaction writes when it is committed: not before, and right then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import cached
from django_strategy_sessions.testing import later

from ..conftest import CACHED, DATABASE
from ..servers import postgres_url
from .test_outages import change, end

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


class Refused(Exception):
    """Undoes its transaction."""


@pytest.fixture
def elsewhere(other):
    """Act as a request of another process, with a connection of its own."""

    def act(verb, *arguments):
        try:
            return getattr(other, verb)(*arguments)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        yield lambda *given: pool.submit(act, *given).result()


@pytest.fixture
def cart(one, elsewhere):
    """What other requests see in the cart of a session of which the cache has a copy."""
    stored = one.insert({"cart": 1}, later())
    one.load(stored.session_id)

    def see():
        seen = elsewhere("load", stored.session_id)
        return seen and seen.data["cart"]

    see.stored = one.load(stored.session_id)
    return see


def begin_and_end(strategy, stored):
    change(call, strategy, stored)
    end(call, strategy, stored)


def call(strategy, verb, *arguments):
    return getattr(strategy, verb)(*arguments)


def delete_row(_strategy, stored):
    StoredSession.objects.using("postgres").filter(pk=stored.token.key).delete()


acts = pytest.mark.parametrize(
    ("act", "after"),
    [
        (lambda *given: change(call, *given), 2),
        (lambda *given: end(call, *given), None),
        (begin_and_end, None),
        (delete_row, None),
    ],
    ids=["change", "end", "change and end", "delete the row"],
)


@acts
def test_others_see_it_from_the_commit_on(one, cart, act, after):
    with transaction.atomic("postgres"):
        act(one, cart.stored)
        assert (seen := one.load(cart.stored.session_id)) is None or seen.data["cart"] == after
        assert cart() == 1
    assert cart() == after
    assert cart() == after  # from the copy, if there is one


@acts
def test_nobody_sees_what_was_rolled_back(one, cart, act, after):
    with suppress(Refused), transaction.atomic("postgres"):
        act(one, cart.stored)
        assert cart() == 1
        raise Refused
    assert cart() == 1
    assert one.load(cart.stored.session_id).data["cart"] == 1


@acts
def test_nobody_sees_what_was_rolled_back_to_a_savepoint(one, cart, act, after):
    with transaction.atomic("postgres"):
        with suppress(Refused), transaction.atomic("postgres"):
            act(one, cart.stored)
            raise Refused
        assert one.load(cart.stored.session_id).data["cart"] == 1
    assert cart() == 1


def test_a_transaction_reads_copies_and_puts_them_in(one):
    one.load(one.insert({}, later()).session_id)  # takes a lease
    stored = one.insert({"cart": 1}, later())
    for finds_copy in (False, True):
        with transaction.atomic("postgres"):
            with CaptureQueriesContext(connections["postgres"]) as captured:
                assert one.load(stored.session_id) is not None
            assert bool(captured) != finds_copy


def test_a_transaction_puts_in_nothing_that_it_read_from_an_old_snapshot(one, elsewhere):
    stored = one.insert({"cart": 1}, later())
    one.load(one.insert({}, later()).session_id)  # takes a lease
    with transaction.atomic("postgres"):
        with connections["postgres"].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT 1 FROM pg_class LIMIT 1")
        elsewhere("delete_data", stored.session_id)
        assert one.load(stored.session_id) is not None
    assert elsewhere("load", stored.session_id) is None


def test_a_transaction_of_sqlite_puts_in_nothing(make, server):
    one = make(server.url, store=DATABASE)
    stored = one.insert({"cart": 1}, later())
    one.load(one.insert({}, later()).session_id)
    with transaction.atomic():
        assert one.load(stored.session_id) is not None
    reply = one.cache.clients.execute("GET", one._names(stored.token.key)[1])
    assert not reply.startswith("r")


def test_a_process_that_has_used_no_session_removes_copies_of_rows_that_it_deletes(
    settings, transactional_db
):
    one = cached.CachedStrategy(**CACHED["OPTIONS"])
    stored = one.insert({"cart": 1}, later())
    for _ in range(2):
        assert one.load(stored.session_id) is not None
    database = connections["postgres"].settings_dict["NAME"]
    url = urlsplit(postgres_url())._replace(path=f"/{database}").geturl()
    code = f"""
import json, django
from tests import settings
settings.SESSION_STRATEGY = json.loads({json.dumps(CACHED)!r})
django.setup()
from django_strategy_sessions.models import StoredSession
StoredSession.objects.using("postgres").filter(pk={stored.token.key!r}).delete()
"""
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TEST_POSTGRES_URL": url},
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=60,
    )
    assert one.load(stored.session_id) is None


def test_a_write_without_autocommit_says_that_it_cannot_be_cached(one):
    stored = one.insert({"cart": 1}, later())
    transaction.set_autocommit(False, "postgres")
    try:
        with pytest.raises(transaction.TransactionManagementError):
            one.merge(stored, {"cart": 2}, later())
        transaction.rollback("postgres")
    finally:
        transaction.set_autocommit(True, "postgres")
    assert one.load(stored.session_id).data == {"cart": 1}
