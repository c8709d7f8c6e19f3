"""Strategies over a Valkey server of the module's own, and what tests ask it behind their back."""

from __future__ import annotations

import asyncio
from contextlib import closing, contextmanager

import pytest

from django_strategy_sessions import records
from django_strategy_sessions.strategies.redis import RedisStrategy

from ..servers import Valkey

BOUND = 20  # seconds, within which even a slow machine notices a timeout of one


@pytest.fixture(scope="module")
def server():
    with Valkey("--unixsocket", "valkey.sock") as running:
        yield running


@pytest.fixture
def make(settings):
    """Make a strategy over a cache of its own at `url`, with these `OPTIONS`."""

    def make_strategy(url, OPTIONS=None, **given):
        alias = f"cache {len(settings.CACHES)}"
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
        settings.CACHES = {**settings.CACHES, alias: {**cache, "OPTIONS": OPTIONS or {}}}
        return RedisStrategy(alias, **given)

    return make_strategy


@pytest.fixture
def strategy(make, server):
    return make(server.url)


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Call a verb: in sync code, or in one event loop."""
    if request.param == "sync":
        yield lambda strategy, verb, *given: getattr(strategy, verb)(*given)
        return
    called = []  # kept until the loop has closed their clients
    with asyncio.Runner() as loop:

        def call(strategy, verb, *given):
            called.append(strategy)
            return loop.run(getattr(strategy, f"a{verb}")(*given))

        yield call


def execute(server, *command):
    with closing(server.client()) as client:
        return client.execute_command(*command)


def key(stored, prefix="session:"):
    return prefix + records.hashed(stored.session_id)


@contextmanager
def watched(server):
    """The commands that clients send meanwhile, but for what connections say when they are new."""
    sent = []
    with closing(server.client()) as watcher, watcher.monitor() as monitor:
        yield sent
        execute(server, "ECHO", "that was all")
        for command in monitor.listen():
            if command["command"] == "ECHO that was all":
                return
            name = command["command"].split()[0]
            if command["client_type"] != "lua" and name not in ("HELLO", "CLIENT", "SELECT"):
                sent.append(command["command"])


def connections(server):
    with closing(server.client()) as client:
        return {int(each["id"]) for each in client.client_list()} - {client.client_id()}
