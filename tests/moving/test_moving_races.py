"""Requests of both steps race for one session: logouts, logins and writes against the move.

``TEST_RACES`` multiplies the rounds; with ``full`` there are 5,000 of each race. What was counted
is logged: ``--log-file=figures.txt --log-file-level=INFO``.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.core.cache import caches
from django.db import connections

from django_strategy_sessions.strategies.moving import MovingStrategy, _find_place
from django_strategy_sessions.values import Texts, encode_all

from ..conftest import POSTGRES, REDIS
from ..racers import rounds
from .conftest import BACKENDS, Router

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

ROUNDS = rounds(35, full=5000)
THREADS = 4
TARGETS = {"postgres": POSTGRES, "redis": REDIS}

log = logging.getLogger(__name__)


class Releases:
    """`old` is the engine itself; `accept` and `move` are the two steps."""

    def __init__(self, path, target):
        self.accept, self.move = (MovingStrategy(path, target, step) for step in ("accept", "move"))
        self.old = self.accept.engine.store

    def begin(self, **data):
        """Return the key of a new session of the old engine."""
        return self.accept.source.insert(encode_all(data), later()).session_id

    def living(self, *session_ids):
        return [
            each
            for each in session_ids
            for step in (self.accept, self.move)
            if step.load(each) is not None
        ]


@pytest.fixture(params=["db", "cached_db", "cache"])
def releases(request, settings, target):
    settings.SESSION_CACHE_ALIAS = "sessions"
    settings.DATABASE_ROUTERS = [Router()]
    caches["sessions"].clear()
    return Releases(f"{BACKENDS}.{request.param}", target)


@pytest.fixture
def race():
    """Run functions at the same moment, each in a thread of its own. Return what they return."""
    together = Barrier(THREADS)

    def act(function):
        together.wait(60)
        return function()

    with ThreadPoolExecutor(THREADS) as pool:
        yield lambda *functions: list(pool.map(act, functions))
        list(pool.map(act, [connections.close_all] * THREADS))


@pytest.fixture
def figures(request):
    counts, begun = Counter(), time.monotonic()
    yield counts
    log.info("%s: %s, %.0f s", request.node.name, dict(counts), time.monotonic() - begun)


def later():
    return datetime.now(UTC) + timedelta(days=1)


def writer(step, session_id, name):
    def write():
        stored = step.load(session_id)
        if stored is None:
            return None
        texts = Texts({**stored.texts, **encode_all({name: name})})
        return step.merge(stored, texts, later())

    return write


def old_writer(store, key, name):
    """A request that the release before answers."""

    def write():
        session = store(str(key))
        session.load()
        if session.session_key is not None:
            session[name] = name
            with suppress(UpdateError):
                session.save()

    return write


def login(step, session_id):
    def log_in():
        stored = step.load(session_id)
        if stored is None:
            return None
        texts = Texts({**stored.texts, **encode_all({"_auth_user_id": "1"})})
        return step.rotate(stored, texts, later())

    return log_in


def logout(step, session_id):
    def log_out():
        stored = step.load(session_id)
        if stored is not None:
            step.end(stored)

    return log_out


def test_a_logout_is_final_whatever_races_it(releases, race, figures):
    accept, move = releases.accept, releases.move
    for number in range(ROUNDS):
        old_key = releases.begin(_auth_user_id="1")
        if number % 3:  # the second deployment
            writers = writer(accept, old_key, "a"), writer(move, old_key, "b")
            ends = accept if number % 3 == 1 else move
        else:
            writers = old_writer(releases.old, old_key, "a"), writer(accept, old_key, "b")
            ends = accept
        *written, _ = race(*writers, writer(accept, old_key, "c"), logout(ends, old_key))
        ids = {each.session_id for each in written if each is not None}
        assert not releases.living(old_key, _find_place(old_key).session_id, *ids), number
        figures += Counter(logouts=1, writes=sum(each is not None for each in written))


def test_a_login_ends_the_old_key_whatever_races_it(releases, race, figures):
    accept, move = releases.accept, releases.move
    for number in range(ROUNDS):
        old_key = releases.begin(cart=["tea"])
        *_, signed_in = race(
            writer(accept, old_key, "a"),
            writer(move, old_key, "b"),
            writer(accept, old_key, "c"),
            login(move if number % 2 else accept, old_key),
        )
        assert not releases.living(old_key, _find_place(old_key).session_id), number
        if signed_in is not None:
            assert set(releases.living(signed_in.session_id)) == {signed_in.session_id}
        figures += Counter(logins=signed_in is not None, gone=signed_in is None)


def test_one_session_comes_of_it_and_no_write_is_lost(releases, race, figures):
    """One request is answered in the first step, where the old engine itself loses concurrent
    writes; all others in the second."""
    accept, move = releases.accept, releases.move
    for number in range(ROUNDS):
        old_key = releases.begin(cart=["tea"])
        *written, loaded = race(
            writer(accept, old_key, "a"),
            writer(move, old_key, "b"),
            writer(move, old_key, "c"),
            lambda old_key=old_key: move.load(old_key),
        )
        assert all(written), number
        found = move.load(old_key)
        assert found.data == {"cart": ["tea"], "a": "a", "b": "b", "c": "c"}, number
        ids = {each.session_id for each in (*written, loaded)} - {old_key}
        assert ids == {found.session_id}
        assert move.source.load(old_key) is None
        figures += Counter(sessions=1, writes=len(written))
