"""React Router's `commitSession`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.core.exceptions import ImproperlyConfigured

from django_strategy_sessions import create_session_storage
from django_strategy_sessions.signing import sign

from .conftest import CLEARED, NEW, OLD, Down, down, held, pair


def test_58_a_session_without_an_id_is_created_and_the_cookie_has_its_id(store):
    storage = store.storage()
    session = storage.get_session()
    session.set("a", 1)
    cookie = pair(storage.commit_session(session))
    ((verb, data, expires),) = store.calls
    assert (verb, data) == ("create_data", {"a": 1})
    assert expires.utcoffset() == timedelta(0)
    assert cookie == "__session=" + sign("id1", "__session")


def test_59_ours_a_session_with_an_id_is_updated_where_it_is(store):
    storage = store.storage({"secrets": [OLD]})
    session = storage.get_session(held(storage, a=1))
    session.set("a", 2)
    store.calls.clear()
    cookie = pair(store.storage({"secrets": [NEW, OLD]}).commit_session(session))
    assert store.verbs == ["read_data", "update_data"]  # looked at first: others may have written
    assert store.calls[-1][1:3] == ("id1", {"a": 2})
    assert cookie == "__session=" + sign("id1", "__session", (NEW.encode(),))


def test_60_commit_returns_one_whole_set_cookie_value(storage):
    session = storage.get_session()
    session.set("a", 1)
    value = r"__session=[\w-]{22}\.[\w-]{17}; Path=/; SameSite=Lax"
    assert re.fullmatch(value, storage.commit_session(session))


def test_61_the_store_gets_all_of_the_data(store):
    storage = store.storage()
    session = storage.get_session(held(storage, a=1, b=2))
    session.set("b", 3)
    session.flash("c", 4)
    storage.commit_session(session)
    assert store.calls[-1][2] == {"a": 1, "b": 3, "__flash_c__": 4}


def test_62_ours_an_unchanged_session_is_not_written(strategy, monkeypatch):
    storage = create_session_storage(strategy)
    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False):
        session = storage.get_session(held(storage, a=1))
        monkeypatch.setattr(strategy, "merge", None)
        assert pair(storage.commit_session(session)) == "__session=" + sign(session.id, "__session")


def test_63_ours_an_empty_session_makes_no_record(store):
    storage = store.storage()
    assert storage.commit_session(storage.get_session()) == CLEARED
    assert store.calls == []


def test_a_session_that_was_emptied_is_saved_empty(storage):
    session = storage.get_session(cookie := held(storage, a=1))
    session.unset("a")
    assert pair(storage.commit_session(session)) == cookie
    assert storage.get_session(cookie).id == session.id


def test_64_ours_a_session_gets_its_id_and_has_one_record(store):
    storage = store.storage()
    session = storage.get_session()
    session.set("a", 1)
    storage.commit_session(session)
    assert session.id == "id1"
    session.set("b", 2)
    storage.commit_session(session)
    assert list(store.rows) == ["id1"]


def test_65_91_ours_a_destroyed_session_is_empty_and_stays_dead(storage):
    session = storage.get_session(cookie := held(storage, a=1))
    storage.destroy_session(session)
    assert (session.id, session.data) == ("", {})
    assert storage.commit_session(session) == CLEARED
    session.set("b", 2)
    assert pair(storage.commit_session(session)) != cookie
    assert storage.get_session(cookie).data == {}


@pytest.mark.parametrize("no_id", [7, {"a": 1}, None, "", b"id"])
def test_66_ours_an_id_is_text(store, no_id):
    with pytest.raises(TypeError, match="create_data"):
        held(store.storage(create_data=lambda data, expires: no_id), a=1)


@pytest.mark.parametrize("unfit", ["a b", "a;b", "a,b", 'a"b', "ä", "a\n"])
def test_an_id_that_no_cookie_can_hold_is_an_error(store, unfit):
    with pytest.raises(ValueError, match="cannot hold"):
        held(store.storage(create_data=lambda data, expires: unfit), a=1)


@pytest.mark.parametrize("verb", ["create_data", "update_data"])
def test_67_an_error_of_the_store_sends_no_cookie(store, verb):
    session = store.storage().get_session(
        None if verb == "create_data" else held(store.storage(), a=1)
    )
    session.set("a", 2)
    with pytest.raises(Down):
        store.storage(**{verb: down}).commit_session(session)


WRONG = [
    {"max_age": 1.5},
    {"max_age": True},
    {"max_age": "60"},
    {"expires": "tomorrow"},
    {"expires": datetime(2030, 1, 1)},  # noqa: DTZ001
    {"same_site": "none"},
    {"same_site": "some"},
    {"partitioned": True},
    {"path": "/;x"},
    {"domain": "a\nb"},
    {"name": "a b"},
    {"name": "__Secure-c"},
    {"name": "__Host-c"},
    {"name": "__Host-c", "secure": True, "path": "/x"},
    {"name": "__Host-c", "secure": True, "domain": "a.com"},
    {"name": "path"},
    {"name": 5},
    {"path": 5},
    {"same_site": 5},
    {"secure": "no"},
    {"secrets": []},
    {"secrets": [""]},
    {"secrets": [None]},
    {"secrets": "abc"},
    {"secrets": ["short"]},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_68_108_109_112_ours_wrong_options_are_refused_before_anything_is_written(store, options):
    storage = store.storage()
    session = storage.get_session()
    session.set("a", 1)
    with pytest.raises(ImproperlyConfigured):
        storage.commit_session(session, **options)
    assert store.calls == []
    with pytest.raises(ImproperlyConfigured):
        store.storage(options)


def test_69_a_value_changed_in_place_is_saved(storage):
    session = storage.get_session(cookie := held(storage, cart=["tea"]))
    session.get("cart").append("cup")
    storage.commit_session(session)
    assert storage.get_session(cookie).get("cart") == ["tea", "cup"]
