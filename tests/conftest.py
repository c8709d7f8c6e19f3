"""Fixtures of the suite. Each test runs on real stores; none is replaced by a mock."""

from __future__ import annotations

import pytest

from django_strategy_sessions.conf import get_strategy

DATABASE = "django_strategy_sessions.strategies.database.DatabaseStrategy"
MEMORY = "django_strategy_sessions.strategies.memory.MemoryStrategy"


@pytest.fixture(params=[MEMORY, DATABASE], ids=["memory", "database"])
def strategy(request, settings, transactional_db):
    """Each of our strategies, as the project's own, on its real store."""
    settings.SESSION_STRATEGY = request.param
    return get_strategy()


class Watched:
    """A strategy whose calls are written down; they still do what they do."""

    def __init__(self, strategy):
        self.strategy, self.calls = strategy, []

    def __getattr__(self, verb):
        self.calls.append(verb)
        return getattr(self.strategy, verb)


@pytest.fixture
def calls(strategy, monkeypatch):
    """The verbs that the engine calls, in order."""
    watched = Watched(strategy)
    monkeypatch.setattr("django_strategy_sessions.engine.get_strategy", lambda: watched)
    return watched.calls
