"""Many requests at one time, in threads, in tasks, and in processes of either: for `test_races`.

A request is ``[kind, session key, *arguments]``; what came of it is ``[error or None, key, seen]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from urllib.parse import urlsplit

from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import UpdateError
from django.db import connections
from django.test import override_settings

from django_strategy_sessions import records, users
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.steps import arun, run
from django_strategy_sessions.strategies.base import (
    Stored,
    StrategyUnavailable,
    Texts,
    reconcile,
)
from django_strategy_sessions.strategies.postgres import _INSERT, PostgresStrategy, _values
from django_strategy_sessions.strategies.redis import RedisStrategy, _value
from django_strategy_sessions.strategies.sealed import Held

from .servers import postgres_url

PROCESSES = 4
THREADS = 8  # in one process, or in all together


def rounds(usual, full):
    """How often a test repeats its race: ``TEST_RACES`` is a factor of the usual, or ``full``."""
    given = os.environ.get("TEST_RACES", "1")
    return full if given == "full" else max(1, round(usual * float(given)))


# -- what a request does with its session ---------------------------------------------------------


def write(changes):
    for name, value in changes.items():
        yield ("pop", name, None) if value is None else ("update", {name: value})
    yield ("save",)


def exchange(value):
    """Write the same value to two names, and return what both were."""
    seen = (yield "get", "one"), (yield "get", "two")
    yield "update", {"one": value, "two": value}
    yield ("save",)
    return seen


def read(name):
    return (yield "get", name)


def add(name):
    return (yield "apply", name, lambda number: number + 1, 0)


def login(user):
    """As `django.contrib.auth.login` and the middleware."""
    yield "update", {"before": user}
    yield ("cycle_key",)
    yield "update", {"user": user}
    yield ("save",)


def logout():
    yield ("flush",)


def rotate():
    yield ("cycle_key",)
    yield ("save",)


def sign_in(owner):
    """As `login`, with the name by which a strategy knows whose the session is."""
    yield ("cycle_key",)
    yield "update", {"_auth_user_id": owner}
    yield ("save",)


def everywhere(owner):
    yield "end_everywhere", owner


ACTS = (write, exchange, read, add, login, logout, rotate, sign_in, everywhere)
REQUESTS = {act.__name__: act for act in ACTS}


class Session(SessionStore):
    """With what a view does beside its session, so that a request is steps of one object."""

    def end_everywhere(self, owner):
        users.end_sessions(User(pk=int(owner)))

    async def aend_everywhere(self, owner):
        await users.aend_sessions(User(pk=int(owner)))


def told(kind, *arguments):
    """The request, until it is answered: what was not acknowledged says why."""
    try:
        return None, (yield from REQUESTS[kind](*arguments))
    except (UpdateError, StrategyUnavailable) as error:
        return type(error).__name__, None


def make(key):
    """As our middleware does."""
    return Session.of_cookies([("sessionid", key)])


def request(kind, key, *arguments):
    session = make(key)
    error, seen = run(session, told(kind, *arguments))
    return error, session.session_key, seen


async def arequest(kind, key, *arguments):
    session = make(key)
    error, seen = await arun(session, told(kind, *arguments))
    return error, session.session_key, seen


# -- ways to make many of them ---------------------------------------------------------------------


class Threads:
    """As on WSGI: each has connections of its own, and keeps them."""

    def __init__(self, count=THREADS):
        self.count, self.pool = count, ThreadPoolExecutor(count)

    def make(self, requests):
        return list(self.pool.map(lambda given: request(*given), requests))

    def close(self):
        everyone = Barrier(self.count)

        def leave(_number):
            everyone.wait(60)
            connections.close_all()

        with self.pool:
            list(self.pool.map(leave, range(self.count)))


class Tasks:
    """As on ASGI: all in one event loop, at once."""

    def __init__(self):
        self.loop = asyncio.Runner()

    def make(self, requests):
        async def gathered():
            return await asyncio.gather(*(arequest(*given) for given in requests))

        return self.loop.run(gathered())

    def close(self):
        self.loop.close()


WAYS = {
    "threads": Threads,
    "tasks": Tasks,
    "processes of threads": lambda: Threads(THREADS // PROCESSES),
    "processes of tasks": Tasks,
}


class Processes:
    """They read the way and the strategy, then requests, all at once; ``None`` ends a race."""

    def __init__(self):
        database = connections["postgres"].settings_dict["NAME"]  # by now the tests' own
        url = urlsplit(postgres_url())._replace(path=f"/{database}").geturl()
        code = "import django; django.setup(); from tests.racers import serve; serve()"
        self.children = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, "TEST_POSTGRES_URL": url},
                cwd=Path(__file__).parent.parent,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(PROCESSES)
        ]

    def begin(self, way, strategy):
        self._tell([[way, strategy]] * PROCESSES)
        return self

    def make(self, requests):
        answers = [None] * len(requests)
        shares = [requests[first::PROCESSES] for first in range(PROCESSES)]
        for first, share in enumerate(self._tell(shares)):
            answers[first::PROCESSES] = share
        return answers

    def close(self):
        self._tell([None] * PROCESSES)

    def stop(self):
        for child in self.children:
            child.communicate(timeout=60)
        assert [child.returncode for child in self.children] == [0] * PROCESSES

    def _tell(self, messages):
        for child, message in zip(self.children, messages, strict=True):
            child.stdin.write(json.dumps(message) + "\n")
            child.stdin.flush()
        return [json.loads(child.stdout.readline()) for child in self.children]


def serve():
    def answer(value):
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    for way, strategy in map(json.loads, sys.stdin):
        with override_settings(SESSION_STRATEGY=strategy), closing(WAYS[way]()) as racers:
            answer("begun")
            while (requests := json.loads(sys.stdin.readline())) is not None:
                answer(racers.make(requests))
        answer("ended")


# -- strategies that lose, as most do: the races have to notice -----------------------------------


class Overwriting:
    """Saves all that the request holds, over whatever is there by now, or is there no more."""

    def _save(self, stored, texts, expires, rotating):
        texts, expires = reconcile(stored, texts, expires, stored)
        if rotating:
            yield from self._delete(stored.session_id)
            return (yield from self._insert(texts, expires))
        key = records.hashed(stored.session_id)
        row = self._seal(key, texts, expires, stored.created)
        yield "put", key, row
        return Stored(stored.session_id, texts, expires, stored.created, Held(key, row))


class OverwritingPostgres(Overwriting, PostgresStrategy):
    UPSERT = _INSERT.replace("DO NOTHING", "DO UPDATE SET data = excluded.data")

    def put(self, key, row):
        self.connections.fetch(self.UPSERT, key, *_values(row))

    async def aput(self, key, row):
        await self.connections.afetch(self.UPSERT, key, *_values(row))


class OverwritingRedis(Overwriting, RedisStrategy):
    def put(self, key, row):
        self.clients.write("SET", self.prefix + key, *_value(row))

    async def aput(self, key, row):
        await self.clients.awrite("SET", self.prefix + key, *_value(row))


class Piecemeal:
    """Saves rightly, but each name by itself."""

    def _save(self, stored, texts, expires, rotating):
        for name, text in texts.items():
            if stored is not None:
                change = Texts({**stored.texts, name: text})
                stored = yield from super()._save(stored, change, expires, rotating)
        return stored


class PiecemealPostgres(Piecemeal, PostgresStrategy):
    pass


class PiecemealRedis(Piecemeal, RedisStrategy):
    pass
