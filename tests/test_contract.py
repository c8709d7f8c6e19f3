"""Both contract suites, over every strategy, sync and async."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings

from django_strategy_sessions.strategies.cached import CachedStrategy
from django_strategy_sessions.strategies.database import DatabaseStrategy
from django_strategy_sessions.strategies.memory import MemoryStrategy
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.strategies.redis import RedisStrategy
from django_strategy_sessions.testing import AtomicStrategyContract

from .conftest import CACHED, run_in_loop
from .servers import free_port


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


@pytest.mark.django_db(transaction=True, databases=["postgres"])
class TestPostgresStrategy(AtomicStrategyContract):
    def make_strategy(self):
        return PostgresStrategy(using="postgres")

    @pytest.fixture(autouse=True)
    def _a_database_that_refuses(self, transactional_db):
        self.down = connections["postgres"].settings_dict
        port = self.down["PORT"]
        yield
        self.down["PORT"] = port
        connections["postgres"].close()

    def make_unavailable_strategy(self):
        connections["postgres"].close()
        self.down["PORT"] = free_port()
        return PostgresStrategy(using="postgres")


class InEventLoops:
    def run_async(self, test):
        return run_in_loop(test)


class TestPostgresStrategyInEventLoops(InEventLoops, TestPostgresStrategy):
    pass


class TestCachedStrategy(TestPostgresStrategy):
    def make_strategy(self):
        return CachedStrategy(**CACHED["OPTIONS"])

    def make_unavailable_strategy(self):
        super().make_unavailable_strategy()
        return self.make_strategy()


class TestCachedStrategyInEventLoops(InEventLoops, TestCachedStrategy):
    pass


class TestRedisStrategy(AtomicStrategyContract):
    def make_strategy(self):
        return RedisStrategy("sessions")

    def make_unavailable_strategy(self):
        refusing = {**settings.CACHES["sessions"], "LOCATION": f"redis://127.0.0.1:{free_port()}"}
        with override_settings(CACHES={"sessions": refusing}):
            return RedisStrategy("sessions")


class TestRedisStrategyInEventLoops(InEventLoops, TestRedisStrategy):
    pass
