"""The signal `session_event`: each event, on the real stores, from sync code and event loops."""

from __future__ import annotations

import logging

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import UpdateError

from django_strategy_sessions import asking, create_session_storage, end_sessions, signals
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.records import hashed
from django_strategy_sessions.signals import session_event

from .conftest import CACHED, MEMORY, TIMED, UNTIMED, in_postgres, run_in_loop, sign_in
from .test_contract_catches import DictStrategy

FORGED = f"{'A' * 22}.{'A' * 17}"


def take(heard):
    taken = heard.copy()
    heard.clear()
    return taken


def make_session():
    session = SessionStore()
    session["a"] = 1
    session.save()
    return session


def damage(strategy, session):
    """Leave a row that no secret has sealed."""
    key = hashed(session.session_key.partition(".")[0])
    row = strategy.get(key)
    assert strategy.swap(key, row, row._replace(record="x" * len(row.record)))


def test_each_event_of_sync_code_is_told(strategy, heard):
    session = make_session()
    assert take(heard) == ["created"]
    tab, another = SessionStore(session.session_key), SessionStore(session.session_key)
    tab["b"], another["c"] = 2, 3
    assert take(heard) == ["loaded", "loaded"]
    tab.save()
    assert take(heard) == ["saved"]
    another.save()
    assert take(heard) == ["merged", "saved"]
    another.cycle_key()
    assert take(heard) == ["rotated"]
    tab["b"] = 4
    with pytest.raises(UpdateError):
        tab.save()
    assert take(heard) == ["missed"]
    SessionStore(session.session_key).get("a")
    assert take(heard) == ["missed"]
    damage(strategy, another)
    assert SessionStore(another.session_key).get("a") is None
    assert take(heard) == ["unreadable", "missed"]
    SessionStore(another.session_key).flush()
    assert take(heard) == ["ended"]
    assert SessionStore(FORGED).get("a") is None
    assert take(heard) == ["refused"]


def test_each_event_of_an_event_loop_is_told(strategy, heard):
    async def main():
        session = SessionStore()
        await session.aset("a", 1)
        await session.asave()
        assert take(heard) == ["created"]
        tab, another = SessionStore(session.session_key), SessionStore(session.session_key)
        await tab.aset("b", 2)
        await another.aset("c", 3)
        await tab.asave()
        await another.asave()
        assert take(heard) == ["loaded", "loaded", "saved", "merged", "saved"]
        await another.acycle_key()
        assert await SessionStore(session.session_key).aget("a") is None
        assert take(heard) == ["rotated", "missed"]
        return another

    session = run_in_loop(main())
    damage(strategy, session)

    async def end():
        assert await SessionStore(session.session_key).aget("a") is None
        await SessionStore(session.session_key).aflush()

    run_in_loop(end())
    assert take(heard) == ["unreadable", "missed", "ended"]


def test_each_session_of_a_user_that_ends_is_told(strategy, heard):
    user = User.objects.create_user("ada")
    sign_in(user), sign_in(user)
    heard.clear()
    assert end_sessions(user) == 2
    assert take(heard) == ["ended", "ended"]


@in_postgres
def test_a_cache_tells_whether_it_answered(settings, heard):
    settings.SESSION_STRATEGY = CACHED
    session = make_session()
    for _ in range(2):
        SessionStore(session.session_key)["a"]
    settings.SESSION_STRATEGY = {**CACHED, "OPTIONS": {**CACHED["OPTIONS"], "reads": False}}
    SessionStore(session.session_key)["a"]
    assert take(heard) == [
        *("created", "cache_miss", "loaded", "cache_hit", "loaded", "cache_bypassed", "loaded"),
    ]


@in_postgres
def test_a_bypassed_cache_is_one_that_is_down_not_one_that_has_no_copy(settings, heard):
    settings.SESSION_STRATEGY = CACHED
    session = make_session()
    key = session.session_key
    session.flush()
    heard.clear()
    for _ in range(2):  # the second finds the token that the first left
        assert SessionStore(key).get("a") is None
    assert take(heard) == ["cache_miss", "missed"] * 2


def test_explicit_storages_tell_the_same(settings, heard):
    settings.SESSION_STRATEGY = MEMORY
    storage = create_session_storage(MEMORY)
    session = storage.get_session(f"__session={FORGED}")
    session.set("a", 1)
    cookie = storage.commit_session(session).partition(";")[0]
    storage.destroy_session(async_to_sync(storage.aget_session)(cookie))
    storage.get_session("__session=")  # a cookie that was cleared
    assert take(heard) == ["refused", "created", "loaded", "ended"]


def test_a_strategy_of_four_verbs_needs_to_do_nothing_for_it(heard):
    storage = create_session_storage(DictStrategy())
    session = storage.get_session()
    session.set("a", 1)
    storage.commit_session(session)
    session.set("a", 2)
    storage.commit_session(session)
    assert take(heard) == ["created", "saved"]  # whatever the defaults call within


def test_a_receiver_that_raises_is_logged_and_breaks_nothing(strategy, heard, caplog):
    def fail(**kwargs):
        raise ValueError("a fault of the project's own")

    session_event.connect(fail)
    try:
        session = SessionStore()
        session["a"] = 1
        session.save()

        async def read():
            return await SessionStore(session.session_key).aget("a")

        assert run_in_loop(read()) == 1
    finally:
        session_event.disconnect(fail)
    assert take(heard) == ["created", "loaded"]
    logged = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.name for one in logged] == ["django.dispatch"] * 2
    assert session.session_key not in caplog.text


def test_an_async_receiver_is_refused_when_it_connects():
    async def receive(**kwargs):
        pass

    with pytest.raises(TypeError, match="plain function"):
        session_event.connect(receive)
    assert not session_event.receivers


def test_nothing_is_timed_or_sent_while_nobody_listens(settings, monkeypatch):
    settings.SESSION_STRATEGY = MEMORY
    monkeypatch.setattr(asking, "perf_counter", None)
    monkeypatch.setattr(asking, "_told", None)
    monkeypatch.setattr(session_event, "send_robust", None)
    session = make_session()
    SessionStore(session.session_key).cycle_key()
    assert SessionStore(FORGED).get("a") is None


def test_the_constants_name_every_event():
    assert {getattr(signals, name.upper()) for name in TIMED | UNTIMED} == TIMED | UNTIMED
