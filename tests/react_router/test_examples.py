"""What React Router's own examples get wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured

from django_strategy_sessions.records import SessionTooLarge

from .conftest import held, pair


def test_seed_1_a_secret_that_is_not_set_fails_at_once(store):
    with pytest.raises(ImproperlyConfigured, match="NoneType"):
        store.storage({"secrets": [None]})


def test_seed_2_an_expired_session_needs_no_receiver_to_be_none(storage):
    session = storage.get_session()
    session.set("a", 1)
    cookie = pair(storage.commit_session(session, max_age=-1))
    assert storage.get_session(cookie).data == {}


def test_seed_3_an_update_never_brings_a_session_back(storage):
    session = storage.get_session(cookie := held(storage, a=1))
    storage.destroy_session(storage.get_session(cookie))
    session.set("a", 2)
    with pytest.raises(SessionInterrupted):
        storage.commit_session(session)
    assert storage.get_session(cookie).id == ""
    storage.destroy_session(session)  # nor is a second logout an error


def test_seed_4_a_session_always_has_an_end(store):
    held(store.storage(), a=1)
    assert store.calls[0][2] > datetime.now(UTC)


@pytest.mark.parametrize("seconds", [0, -1, -86400])
def test_seed_5_a_max_age_of_zero_is_allowed_and_expires_at_once(storage, seconds):
    session = storage.get_session(cookie := held(storage, a=1))
    storage.commit_session(session, max_age=seconds)
    assert storage.get_session(cookie).id == ""


def test_seed_6_a_login_can_take_a_new_id(storage):
    session = storage.get_session(fixed := held(storage, cart=["tea"]))
    session.set("user", 7)
    cookie = pair(storage.commit_session(session, rotate=True))
    assert storage.get_session(fixed).id == ""
    assert storage.get_session(cookie).data == {"cart": ["tea"], "user": 7}


def test_seed_6_nor_does_a_rotation_bring_a_session_back(storage):
    session = storage.get_session(cookie := held(storage, a=1))
    storage.destroy_session(storage.get_session(cookie))
    with pytest.raises(SessionInterrupted):
        storage.commit_session(session, rotate=True)


# seed 7, the unbatched cleanup: tests/test_clearexpiredsessions.py


def test_a_session_that_is_too_large_is_refused(storage, settings):
    settings.SESSION_MAX_SIZE = 100
    with pytest.raises(SessionTooLarge):
        held(storage, a="x" * 100)
