"""A cache of the module's own, in front of PostgreSQL, as each of two processes has it."""

from __future__ import annotations

import pytest

from django_strategy_sessions.strategies import cached
from django_strategy_sessions.strategies.cached import CachedStrategy

from ..conftest import POSTGRES
from ..redis.conftest import call  # noqa: F401
from ..servers import Valkey


@pytest.fixture(scope="module")
def server():
    with Valkey("--appendonly", "no") as running:
        yield running


@pytest.fixture
def make(settings, transactional_db):
    """Make a strategy whose cache is at `url`, as a process of its own has it."""

    def make_strategy(url, store=POSTGRES, pool=None, **options):
        alias = f"cache {len(settings.CACHES)}"
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
        cache["OPTIONS"] = {"CONNECTION_POOL_KWARGS": pool or {}}
        settings.CACHES = {**settings.CACHES, alias: cache}
        backend = "django_strategy_sessions.strategies.redis.RedisStrategy"
        cache = {"BACKEND": backend, "OPTIONS": {"alias": alias}}
        return CachedStrategy(cache=cache, store=store, **options)

    return make_strategy


@pytest.fixture
def one(make, server):
    return make(server.url)


@pytest.fixture
def other(make, server):
    return make(server.url)


@pytest.fixture
def quick(monkeypatch):
    """A gate that may be opened again at the second look."""
    monkeypatch.setattr(cached, "_CLOSED_FOR", 1e-9)
    monkeypatch.setattr(cached, "_PAUSE", 0)
