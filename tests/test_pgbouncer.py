"""PostgreSQL behind PgBouncer in transaction mode: a statement may meet any server connection."""

from __future__ import annotations

import pytest
from django.db import connections

from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import AtomicStrategyContract

from .servers import PgBouncer
from .test_contract import InEventLoops

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["postgres"]),
    pytest.mark.skipif(PgBouncer.program is None, reason="PgBouncer is not installed here."),
]


@pytest.fixture(scope="module")
def bouncer():
    with PgBouncer(size=4) as running:
        yield running


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

    def make_unavailable_strategy(self):
        return None  # see tests/test_outages.py


class TestBehindPgBouncerInEventLoops(InEventLoops, TestBehindPgBouncer):
    pass
