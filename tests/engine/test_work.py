"""The work that a request makes is counted, not timed: what is parsed, and what is serialized."""

from __future__ import annotations

from collections import Counter

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from django_strategy_sessions import create_session_storage, values
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.lines import Lines
from django_strategy_sessions.middleware import SessionMiddleware

from ..conftest import MEMORY

NAMES = {f"name {number}": {"n": number} for number in range(50)}


@pytest.fixture
def work(settings, monkeypatch):
    """How often each text was parsed, and each value serialized."""
    settings.SESSION_STRATEGY = MEMORY
    work = Counter()

    def counted(what, function):
        def wrapper(*given):
            work[what] += 1
            return function(*given)

        return wrapper

    monkeypatch.setattr(values, "_scan", counted("parsed", values._scan))
    monkeypatch.setattr(values, "_encode", counted("serialized", values._encode))
    return work


def saved(work, **data):
    session = SessionStore()
    session.update(data)
    session.save()
    work.clear()
    return session.session_key


def respond(key, view):
    """A request, through the middleware."""

    def get_response(request):
        view(request.session)
        return HttpResponse()

    request = RequestFactory().get("/")
    request.COOKIES["sessionid"] = key
    return SessionMiddleware(get_response)(request)


def test_reading_one_name_of_fifty_parses_one_text(work):
    key = saved(work, **NAMES)
    assert SessionStore(key)["name 7"] == {"n": 7}
    assert work == {"parsed": 1}


def test_a_request_that_reads_one_name_serializes_only_that(work):
    key = saved(work, **NAMES)
    respond(key, lambda session: session["name 7"])
    # The value may have been changed from within. Whose expiry is asked for has none of its own.
    assert work["parsed"] == 1
    assert work["serialized"] <= 1


def test_scalars_that_were_read_are_not_serialized(work):
    key = saved(work, user="ada", visits=12, **NAMES)
    respond(key, lambda session: (session["user"], session["visits"]))
    assert work == {"parsed": 2}


@pytest.fixture
def splits(monkeypatch):
    """One item each time that a record was split."""
    splits, split = [], Lines.split

    def counted(lines):
        splits.append(lines)
        return split(lines)

    monkeypatch.setattr(Lines, "split", counted)
    return splits


def test_a_request_that_reads_scalars_splits_no_record(work, splits):
    key = saved(work, user="ada", visits=12, **NAMES)

    def view(session):
        assert session["user"] == session.get("user") == "ada"
        assert "visits" in session
        assert session.get("other") is None
        assert "other" not in session
        with pytest.raises(KeyError):
            session["other"]
        assert not session.modified

    respond(key, view)
    assert not splits
    respond(key, lambda session: session.update({"visits": 13}))
    assert splits


def test_a_storages_session_that_reads_scalars_splits_no_record(work, splits):
    storage = create_session_storage(MEMORY)
    session = storage.get_session()
    session.set("user", "ada")
    cookie = storage.commit_session(session)
    session = storage.get_session(cookie)
    assert session.get("user") == "ada"
    assert not session.has("other")
    assert session.get("other") is None
    assert not splits


def test_a_request_that_looks_at_nothing_parses_and_serializes_nothing(work):
    key = saved(work, **NAMES)
    respond(key, lambda session: None)
    assert work == {}


def test_a_request_that_asks_for_a_name_that_is_not_there_does_neither(work):
    key = saved(work, **NAMES)
    respond(key, lambda session: session.get("other"))
    assert work == {}


def test_a_change_within_a_value_parses_it_once_and_serializes_it_thrice_at_most(work):
    key = saved(work, cart={"items": [1]}, **NAMES)
    respond(key, lambda session: session["cart"]["items"].append(2))
    assert work["parsed"] == 1
    assert work["serialized"] <= 3
    assert SessionStore(key)["cart"] == {"items": [1, 2]}


def test_setting_a_name_serializes_only_that(work):
    key = saved(work, **NAMES)
    respond(key, lambda session: session.update({"new": 1}))
    assert work["parsed"] == 0
    assert work["serialized"] <= 3


def test_a_new_session_serializes_each_of_its_names_once(work):
    session = SessionStore()
    session.update(NAMES)
    session.save()
    assert work == {"serialized": len(NAMES)}
