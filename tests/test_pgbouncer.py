"""PostgreSQL behind PgBouncer in transaction mode: a statement may meet any server connection."""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connections

from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import AtomicStrategyContract, later

from .conftest import run_in_loop
from .servers import PgBouncer, postgres_url
from .test_contract import InEventLoops

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["postgres"]),
    pytest.mark.skipif(PgBouncer.program is None, reason="PgBouncer is not installed here."),
]


@pytest.fixture(scope="module")
def bouncer():
    with PgBouncer(size=4) as running:
        yield running


def database_url():
    """Of the server itself."""
    name = connections["postgres"].settings_dict["NAME"]
    return urlsplit(postgres_url())._replace(path=f"/{name}").geturl()


class TestBehindPgBouncer(AtomicStrategyContract):
    @pytest.fixture(autouse=True)
    def _through_the_bouncer(self, bouncer, transactional_db):
        connection = connections["postgres"]
        kept = {name: connection.settings_dict[name] for name in ("HOST", "PORT")}
        connection.close()
        connection.settings_dict.update(HOST="127.0.0.1", PORT=bouncer.port)
        yield
        connection.close()
        connection.settings_dict.update(kept)

    def make_strategy(self):
        return PostgresStrategy("postgres")

    @pytest.mark.parametrize("verb", ["merge", "rotate", "delete_data"])
    @pytest.mark.parametrize("way", ["sync", "async"])
    def test_waiting_for_a_locked_row_is_no_outage(self, verb, way):
        """PgBouncer gives backends numbers of its own: they are known by their statements."""
        strategy = PostgresStrategy("postgres", timeout=1)
        stored = strategy.insert({"a": 1}, later())
        call = (
            ("delete_data", stored.session_id)
            if verb == "delete_data"
            else (verb, stored, {"a": 2}, later())
        )
        with psycopg.connect(database_url()) as holder:
            holder.execute(f"SELECT * FROM {StoredSession._meta.db_table} FOR UPDATE")
            release = threading.Timer(2.5, holder.rollback)
            release.start()
            name, *arguments = call
            if way == "sync":
                getattr(strategy, name)(*arguments)
            else:
                run_in_loop(getattr(strategy, f"a{name}")(*arguments))
            release.join()
        loaded = strategy.load(stored.session_id)
        assert (loaded and loaded.data) == ({"a": 2} if verb == "merge" else None)

    def make_unavailable_strategy(self):
        return None  # see tests/test_outages.py


class TestBehindPgBouncerInEventLoops(InEventLoops, TestBehindPgBouncer):
    pass
