"""React Router's session: its data, flashes, and what is one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from django_strategy_sessions import Cookie, Session

from .conftest import Store, held

# -- 1.1 The session ------------------------------------------------------------------------------


def test_1_a_new_session_has_no_id_and_no_data():
    assert (Session().id, Session().data) == ("", {})


def test_2_a_session_of_given_data_and_id():
    session = Session({"a": 1}, "id1")
    assert (session.id, session.data) == ("id1", {"a": 1})


@pytest.mark.parametrize("name", ["id", "data"])
def test_3_id_and_data_are_read_only(name):
    with pytest.raises(AttributeError):
        setattr(Session(), name, "other")


def test_4_a_value_that_was_set_is_there_at_each_look():
    session = Session()
    session.set("user", "mjackson")
    assert session.has("user")
    assert [session.get("user"), session.get("user")] == ["mjackson", "mjackson"]


def test_5_a_name_that_was_never_set_is_none():
    assert not Session().has("user")
    assert Session().get("user") is None
    assert Session().get("user", "nobody") == "nobody"


def test_6_the_later_value_is_kept():
    session = Session({"a": 1})
    session.set("a", 2)
    assert session.get("a") == 2


def test_7_none_is_a_value():
    session = Session()
    session.set("a", None)
    assert session.has("a")
    assert session.get("a", 1) is None


def test_8_ours_what_does_not_survive_a_round_trip_is_an_error(storage):
    session = storage.get_session()
    session.set("when", datetime.now(UTC))
    with pytest.raises(TypeError, match="'when'"):
        storage.commit_session(session)


def test_9_unset_removes_and_absence_is_fine():
    session = Session({"a": 1})
    session.unset("a")
    session.unset("a")
    assert not session.has("a")


def test_10_changes_return_nothing():
    session = Session()
    assert [session.set("a", 1), session.flash("b", 2), session.unset("a")] == [None] * 3


def test_11_the_initial_data_stays_as_it_was():
    initial = {"a": 1}
    session = Session(initial)
    session.set("a", 2)
    session.set("b", 3)
    assert initial == {"a": 1}


def test_13_each_look_at_data_is_a_snapshot():
    session = Session({"a": 1})
    one, other = session.data, session.data
    one["b"] = 2
    assert one is not other
    assert session.data == {"a": 1}


@pytest.mark.parametrize("name", ["get", "__class__", "id", "constructor", "_state"])
def test_15_names_of_methods_are_names_like_others(name):
    session = Session()
    assert not session.has(name)
    session.set(name, 1)
    assert session.get(name) == 1


def test_16_data_is_in_the_order_of_insertion():
    session = Session()
    for name in ("b", "a", "c"):
        session.set(name, 1)
    assert list(session.data) == ["b", "a", "c"]


# -- 1.2 Flash ------------------------------------------------------------------------------------


def test_18_19_a_flash_is_kept_under_a_name_of_its_own(storage, strategy):
    session = storage.get_session()
    session.flash("m", "f1")
    assert session.data == {"__flash_m__": "f1"}
    storage.commit_session(session)
    assert strategy.read_data(session.id) == {"__flash_m__": "f1"}


def test_20_has_does_not_take_a_flash():
    session = Session({"__flash_m__": 1})
    assert session.has("m")
    assert session.has("m")


def test_21_get_takes_a_flash():
    session = Session({"__flash_m__": 1})
    assert session.get("m") == 1
    assert session.get("m") is None
    assert not session.has("m")


def test_22_a_flash_can_be_read_in_the_request_that_made_it():
    session = Session()
    session.flash("m", 1)
    assert session.get("m") == 1
    assert session.data == {}


def test_23_24_a_value_wins_over_a_flash_which_is_kept():
    session = Session({"m": "value", "__flash_m__": "flash"})
    assert [session.get("m"), session.get("m")] == ["value", "value"]
    assert session.has("m")
    session.unset("m")
    assert session.has("m")
    assert [session.get("m"), session.get("m")] == ["flash", None]


def test_25_unset_leaves_a_flash():
    session = Session({"__flash_m__": 1})
    session.unset("m")
    assert session.get("m") == 1


def test_26_set_leaves_a_flash():
    session = Session({"__flash_m__": "flash"})
    session.set("m", "value")
    assert session.data == {"__flash_m__": "flash", "m": "value"}


def test_27_of_two_flashes_of_a_name_the_last_is_kept():
    session = Session()
    session.flash("m", 1)
    session.flash("m", 2)
    assert [session.get("m"), session.get("m")] == [2, None]


def test_28_a_flash_may_be_none():
    session = Session()
    session.flash("m", None)
    assert session.has("m")
    assert session.get("m", 1) is None
    assert not session.has("m")


def test_29_30_the_raw_name_is_a_name_too():
    session = Session()
    session.set("__flash_m__", 1)
    assert session.get("__flash_m__") == 1
    assert session.get("m") == 1
    assert not session.has("m")


def test_31_a_flash_comes_back_from_the_store_once(storage):
    cookie = held(storage, __flash_a__="A")
    session = storage.get_session(cookie)
    assert session.has("a")
    assert [session.get("a"), session.get("a")] == ["A", None]


def test_32_33_a_flash_is_gone_when_its_reading_was_committed(storage, strategy):
    cookie = held(storage, __flash_a__="A")
    assert storage.get_session(cookie).get("a") == "A"
    session = storage.get_session(cookie)
    assert session.get("a") == "A"
    storage.commit_session(session)
    assert strategy.read_data(session.id) == {}
    assert not storage.get_session(cookie).has("a")


def test_34_an_unread_flash_survives_any_number_of_commits(storage):
    cookie = held(storage, __flash_a__="A")
    for turn in range(3):
        session = storage.get_session(cookie)
        session.set("turn", turn)
        storage.commit_session(session)
    assert storage.get_session(cookie).get("a") == "A"


# 35, of types: tests/types


# -- 1.3 What is a session, what is a cookie ------------------------------------------------------


@pytest.mark.parametrize("other", [{}, [], "", True, None])
def test_36_38_sessions_and_cookies_are_of_their_classes(other):
    assert isinstance(Session(), Session)
    assert isinstance(Cookie(), Cookie)
    assert not isinstance(other, (Session, Cookie))


def test_37_ours_what_only_looks_like_a_session_is_none():
    class Lookalike:
        id, data = "id1", {}
        has = get = set = flash = unset = print

    with pytest.raises(AttributeError):
        Store().storage().commit_session(Lookalike())
