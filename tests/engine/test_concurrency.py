"""Requests that share a session at the same time."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.db import connections

from django_strategy_sessions.engine import SessionStore

from .conftest import again, saved

pytestmark = pytest.mark.usefixtures("strategy")


def test_two_requests_keep_what_both_wrote():
    one = saved(cart=[1])
    other = again(one)
    one["a"], other["b"] = 1, 2
    one["cart"].append(2)
    one.save()
    other.save()
    assert dict(again(one).items()) == {"cart": [1, 2], "a": 1, "b": 2}
    assert other["cart"] == [1, 2]  # the later one has seen what the earlier wrote
    assert other["a"] == 1


def test_a_removal_by_another_request_is_merged():
    one = saved(a=1, b=1)
    other = again(one)
    del one["a"]
    other["b"] = 2
    one.save()
    other.save()
    assert "a" not in other
    assert dict(again(one).items()) == {"b": 2}


def test_a_logout_is_final():
    session = saved(a=1)
    late = again(session)
    late["a"] = 2
    again(session).flush()
    for save in (late.save, late.save, lambda: late.apply("a", lambda value: 3)):
        with pytest.raises(UpdateError):
            save()
    assert again(session).get("a") is None


def test_a_logout_is_final_for_a_late_rotation():
    session = saved(_auth_user_id="1")
    late = again(session)
    assert late["_auth_user_id"] == "1"
    again(session).flush()
    late.cycle_key()
    late["a"] = 1
    with pytest.raises(UpdateError):
        late.save()


def test_two_logins_at_once_both_succeed():
    one, other = saved(cart=[1]), None
    other = again(one)
    assert one["cart"] == other["cart"]
    one.cycle_key()
    other.cycle_key()
    other["_auth_user_id"] = "1"
    other.save()
    assert again(one)["cart"] == again(other)["cart"] == [1]
    assert one.session_key != other.session_key


def test_apply_loses_no_step_of_twenty_threads(strategy):
    key = saved(count=0, cart={"items": []}).session_key
    start = Barrier(20)

    def add(number):
        try:
            session = SessionStore(key)
            session.get("count")
            start.wait(30)
            session.apply("count", lambda count: count + 1)
            session.apply("cart", lambda cart: {"items": [*cart["items"], number]})
        finally:
            connections.close_all()

    threads = [Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session = SessionStore(key)
    assert session["count"] == 20
    assert sorted(session["cart"]["items"]) == list(range(20))


def test_apply_changes_one_name_and_leaves_the_rest_to_the_save():
    session = saved(count=1, a=1)
    other = again(session)
    session["a"] = 2
    session["count"] = 100  # overtaken
    other["count"] = 5
    other["b"] = 1
    other.save()
    assert session.apply("count", lambda count: count + 1) == 6
    assert dict(again(session).items()) == {"count": 6, "a": 1, "b": 1}
    assert session["count"] == 6
    assert session["b"] == 1
    assert session.modified
    session.save()
    assert dict(again(session).items()) == {"count": 6, "a": 2, "b": 1}


def test_apply_may_change_what_it_is_given():
    session = saved(cart=[1])
    default = []
    assert session.apply("cart", lambda cart: [*cart, cart.append(2) or 3]) == [1, 3]
    assert session.apply("new", lambda new: new.append(1) or new, default) == [1]
    assert default == []
    assert dict(again(session).items()) == {"cart": [1, 3], "new": [1]}


def test_apply_without_a_record_creates_one():
    session = SessionStore()
    session["later"] = 1
    assert session.apply("count", lambda count: count + 1, 0) == 1
    assert dict(again(session).items()) == {"count": 1}
    session.save()
    assert dict(again(session).items()) == {"count": 1, "later": 1}


def test_apply_whose_function_fails_writes_nothing(calls):
    session = saved(count="x")
    with pytest.raises(ValueError, match="invalid literal"):
        session.apply("count", int)
    assert again(session)["count"] == "x"
