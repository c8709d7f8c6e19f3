"""Which keys lead to a session, and which key it has next."""

from __future__ import annotations

import pytest
from django.contrib.sessions.backends.base import CreateError

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.signing import sign

from .conftest import again, saved

pytestmark = pytest.mark.usefixtures("strategy")


@pytest.mark.parametrize(
    "key",
    ["", "x", "x" * 40, "é" * 40, "\0" * 40, '"quoted"', "x" * 8192, ".", "a.b", "\ud800" * 30],
    ids=range(10),
)
def test_a_key_that_does_not_verify_never_reaches_the_strategy(calls, key):
    session = SessionStore(key)
    assert session.is_empty()
    assert session.session_key is None
    assert session.get("a") is None
    assert session.load() == {}
    assert session.exists(key) is False
    session.delete(key)
    session.delete()
    session.flush()
    assert calls == []


def test_a_key_of_another_cookie_is_no_session(calls, settings):
    key = saved(a=1).session_key
    calls.clear()
    settings.SESSION_COOKIE_NAME = "other"
    assert SessionStore(key).get("a") is None
    assert calls == []


def test_an_unknown_id_is_never_adopted():
    forged = sign("A" * 22, "sessionid")
    session = SessionStore(forged)
    session["a"] = 1
    session.save()
    assert session.session_key != forged
    assert SessionStore(forged).get("a") is None


def test_a_key_of_an_older_secret_is_signed_again(settings):
    settings.SESSION_COOKIE_SECRETS = ["o" * 32]
    old = saved(a=1).session_key
    settings.SESSION_COOKIE_SECRETS = ["n" * 32, "o" * 32]
    session = SessionStore(old)
    assert session["a"] == 1
    assert session.session_key != old
    session["a"] = 2
    session.save()
    settings.SESSION_COOKIE_SECRETS = ["n" * 32]
    assert again(session)["a"] == 2
    assert SessionStore(old).get("a") is None


def test_a_renewal_seals_again_what_an_older_secret_sealed(settings):
    settings.SESSION_COOKIE_SECRETS = ["o" * 32]
    session = saved(a=1)
    settings.SESSION_COOKIE_SECRETS = ["n" * 32, "o" * 32]
    settings.SESSION_COOKIE_AGE *= 2
    session = again(session)
    session.save()
    settings.SESSION_COOKIE_SECRETS = ["n" * 32]
    assert again(session)["a"] == 1


def test_create_and_must_create():
    session = SessionStore()
    session.create()
    assert session.modified
    assert session.exists(session.session_key)
    with pytest.raises(CreateError):
        again(session).save(must_create=True)
    gone = saved(a=1)
    gone.delete()
    gone.save(must_create=True)
    assert gone.exists(gone.session_key)


def test_cycle_key_is_one_call_and_takes_changes_along(calls):
    session = saved(a=1)
    old = session.session_key
    session["b"] = 2
    calls.clear()
    session.cycle_key()
    assert calls == ["rotate"]
    assert session.modified
    assert SessionStore(old).get("a") is None
    assert dict(again(session).items()) == {"a": 1, "b": 2}


def test_flush_is_one_call(calls):
    session = saved(a=1)
    calls.clear()
    session.flush()
    assert calls == ["delete_data"]
    assert session.is_empty()


def test_a_key_can_be_set_by_hand_as_backends_do():
    session = saved(a=1)
    other = SessionStore()
    other["b"] = 1
    other._session_key = session.session_key
    other.save()
    # What it held is what is there now: nothing was loaded that could be kept.
    assert dict(again(session).items()) == {"b": 1}
    other._session_key = None
    other.save()
    assert other.session_key != session.session_key


def test_loaded_data_can_be_dropped():
    session = saved(a=1)
    assert session["a"] == 1
    other = again(session)
    other["a"] = 2
    other.save()
    del session._session_cache
    assert session["a"] == 2
