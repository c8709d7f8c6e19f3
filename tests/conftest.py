"""Fixtures of the suite. Each test runs on real stores; none is replaced by a mock."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import Client

from django_strategy_sessions.signals import session_ended, session_event
from django_strategy_sessions.strategies import get_strategy

MEMORY = "django_strategy_sessions.strategies.memory.MemoryStrategy"
DATABASE = "django_strategy_sessions.strategies.database.DatabaseStrategy"
POSTGRES = {
    "BACKEND": "django_strategy_sessions.strategies.postgres.PostgresStrategy",
    "OPTIONS": {"using": "postgres"},
}
REDIS = {
    "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",
    "OPTIONS": {"alias": "sessions"},
}
CACHED = {
    "BACKEND": "django_strategy_sessions.strategies.cached.CachedStrategy",
    "OPTIONS": {"cache": REDIS, "store": POSTGRES},
}
in_postgres = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
STRATEGIES = [
    pytest.param(MEMORY, id="memory"),
    pytest.param(DATABASE, id="database"),
    pytest.param(POSTGRES, id="postgres", marks=in_postgres),
    pytest.param(REDIS, id="redis"),
]


@pytest.fixture(params=STRATEGIES)
def strategy(request, settings, transactional_db):
    """Each of our strategies, as the project's own, on its real store."""
    settings.SESSION_STRATEGY = request.param
    return get_strategy()


DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
OURS = "django_strategy_sessions.middleware.SessionMiddleware"


@pytest.fixture(params=[DJANGOS, OURS], ids=["djangos", "ours"])
def middleware(request, settings):
    """Either middleware, in its place."""
    settings.MIDDLEWARE = [request.param, *settings.MIDDLEWARE[1:]]
    return request.param


@pytest.fixture
def ended():
    """What receivers of `session_ended` are told: owners and reasons, in order."""
    told = []

    def receive(owner, reason, **kwargs):
        told.append((owner, reason))

    session_ended.connect(receive)
    yield told
    session_ended.disconnect(receive)


TIMED = {"created", "loaded", "missed", "saved", "rotated", "ended", "unavailable"}
UNTIMED = {
    *("merged", "refused", "unreadable"),
    *("cache_hit", "cache_miss", "cache_bypassed"),
}


@pytest.fixture
def heard():
    """The events of `session_event`, in order; those that come as documented, and hold no more."""
    events = []

    def receive(sender, event, duration, **kwargs):
        assert kwargs == {"signal": session_event}
        assert isinstance(sender, type)
        assert event in (UNTIMED if duration is None else TIMED)
        assert duration is None or 0 < duration < 60
        events.append(event)  # else it is missing where a test compares

    session_event.connect(receive)
    yield events
    session_event.disconnect(receive)


def sign_in(user, **kwargs):
    """Return a client in which `user` has logged in."""
    client = Client(**kwargs)
    client.force_login(user)
    return client


def is_signed_in(client):
    return "_auth_user_id" in client.session


def run_in_loop(work):
    """Run as on ASGI, without `async_to_sync`, so that strategies need no threads."""

    async def main():
        try:
            return await work
        finally:
            await sync_to_async(connections.close_all)()  # those of the thread for sync code

    return asyncio.run(main())


class Watched:
    """A strategy whose calls are written down; they still do what they do."""

    def __init__(self, strategy):
        self.strategy, self.calls = strategy, []

    def __getattr__(self, verb):
        if verb not in {"adopt", "is_undone", "ais_undone", "batch_size"}:  # which ask no store
            self.calls.append(verb)
        return getattr(self.strategy, verb)


@pytest.fixture
def calls(strategy, monkeypatch):
    """The verbs that the engine calls, in order."""
    watched = Watched(strategy)
    monkeypatch.setattr("django_strategy_sessions.engine.get_strategy", lambda: watched)
    return watched.calls
