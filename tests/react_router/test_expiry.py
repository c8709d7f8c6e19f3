"""When React Router's sessions end, in the store and in the browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine

from django_strategy_sessions import create_session_storage
from django_strategy_sessions.strategies.memory import MemoryStrategy

from .conftest import NOW, T_HEADER, T, attributes, pair

SOON = NOW + timedelta(seconds=10)


def after(seconds):
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("cookie", "commit", "expires", "sent"),
    [
        pytest.param({"max_age": 60}, {}, after(60), {"Max-Age": "60"}, id="71"),
        pytest.param({"expires": T}, {}, T, {"Expires": T_HEADER}, id="72"),
        pytest.param(
            {"max_age": 60, "expires": T}, {}, after(60),
            {"Max-Age": "60", "Expires": T_HEADER}, id="73",
        ),
        pytest.param({"max_age": 60}, {"max_age": 10}, after(10), {"Max-Age": "10"}, id="74"),
        pytest.param({}, {"max_age": 10}, after(10), {"Max-Age": "10"}, id="74, only"),
        pytest.param({"max_age": 60}, {"expires": T}, T, {"Expires": T_HEADER}, id="75, 76 ours"),
        pytest.param(
            {}, {"max_age": 10, "expires": T}, after(10),
            {"Max-Age": "10", "Expires": T_HEADER}, id="77",
        ),
        pytest.param({"max_age": 60}, {"max_age": 0}, NOW, {"Max-Age": "0"}, id="78"),
        pytest.param({}, {"max_age": -5}, after(-5), {"Max-Age": "0"}, id="79"),
        pytest.param(
            {"max_age": 43_200_000}, {}, after(43_200_000), {"Max-Age": "43200000"}, id="80 ours"
        ),
        pytest.param(
            {"max_age": 60}, {"max_age": None}, after(60), {"Max-Age": "60"}, id="81 ours"
        ),
        pytest.param(
            {"max_age": 60}, {"expires": None}, after(60), {"Max-Age": "60"}, id="81, expires"
        ),
        pytest.param({}, {}, after(14 * 86400), {}, id="70 ours: SESSION_COOKIE_AGE"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*fixed `expires`")
def test_70_to_81_store_and_browser_end_a_session_at_one_time(store, cookie, commit, expires, sent):
    with time_machine.travel(NOW, tick=False):
        storage = store.storage(cookie)
        session = storage.get_session()
        session.set("a", 1)
        given = attributes(storage.commit_session(session, **commit))
    assert given == {**sent, "Path": "/", "SameSite": "Lax"}
    slack = timedelta(0)  # but for ages, which are rounded up to a step
    if expires != T and expires > NOW:
        slack = min((expires - NOW) / 100, timedelta(minutes=5))
    assert expires <= store.calls[0][2] <= expires + slack


def test_82_83_each_commit_extends_the_session(store):
    storage = store.storage({"max_age": 60})
    with time_machine.travel(NOW, tick=False) as clock:
        session = storage.get_session()
        session.set("a", 1)
        storage.commit_session(session)
        clock.shift(30)
        storage.commit_session(session)
    assert store.calls[-1][3] >= after(90)


def test_84_a_session_that_ends_now_has_ended():
    storage = create_session_storage(MemoryStrategy())
    with time_machine.travel(NOW, tick=False) as clock:
        session = storage.get_session()
        session.set("a", 1)
        cookie = pair(storage.commit_session(session, expires=T))
        clock.move_to(T - timedelta(microseconds=1))
        assert storage.get_session(cookie).data == {"a": 1}
        clock.move_to(T)
        assert storage.get_session(cookie).data == {}
