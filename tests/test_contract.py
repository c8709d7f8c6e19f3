"""Both contract suites, over every strategy, sync and async."""

from __future__ import annotations

import pytest
from django.db import connections

from django_strategy_sessions.strategies.database import DatabaseStrategy
from django_strategy_sessions.strategies.memory import MemoryStrategy
from django_strategy_sessions.testing import AtomicStrategyContract


class TestMemoryStrategy(AtomicStrategyContract):
    def make_strategy(self):
        return MemoryStrategy()

    def make_unavailable_strategy(self):
        return None  # this process's memory always answers


@pytest.mark.django_db(transaction=True, databases=["default", "down"])
class TestDatabaseStrategy(AtomicStrategyContract):
    def make_strategy(self):
        return DatabaseStrategy()

    @pytest.fixture(autouse=True)
    def _a_database_that_cannot_be_opened(self, tmp_path, transactional_db):
        self.down = connections["down"].settings_dict
        name = self.down["NAME"]
        self.missing = tmp_path / "no such folder" / "db.sqlite3"
        yield
        self.down["NAME"] = name

    def make_unavailable_strategy(self):
        connections["down"].close()
        self.down["NAME"] = self.missing
        return DatabaseStrategy(using="down")
