"""React Router's `destroySession`."""

from __future__ import annotations

import pytest

from django_strategy_sessions import Session

from .conftest import CLEARED, Down, T, down, held


def test_85_the_record_is_deleted_once(store):
    storage = store.storage()
    session = storage.get_session(held(storage, a=1))
    store.calls.clear()
    storage.destroy_session(session)
    assert store.calls == [("delete_data", "id1")]


def test_86_nothing_is_deleted_for_a_session_without_an_id(store):
    assert store.storage().destroy_session(Session()) == CLEARED
    assert store.calls == []


def test_87_the_cookie_is_cleared(storage):
    session = storage.get_session(held(storage, a=1))
    assert storage.destroy_session(session) == CLEARED


def test_88_a_cleared_cookie_has_no_max_age(store):
    assert store.storage({"max_age": 3600}).destroy_session(Session()) == CLEARED


def test_89_options_say_which_cookie_is_cleared_and_not_when(store):
    cleared = store.storage().destroy_session(
        Session(), max_age=60, expires=T, path="/x", domain="a.com"
    )
    assert cleared == (
        "__session=; Domain=a.com; Path=/x; Expires=Thu, 01 Jan 1970 00:00:00 GMT; SameSite=Lax"
    )


def test_90_a_failed_logout_sends_no_cookie(store):
    storage = store.storage(delete_data=down)
    session = storage.get_session(held(storage, a=1))
    with pytest.raises(Down):
        storage.destroy_session(session)
    assert (session.id, session.data) == ("id1", {"a": 1})
