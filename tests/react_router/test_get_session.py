"""React Router's `createSessionStorage` and `getSession`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from django_strategy_sessions import Cookie
from django_strategy_sessions.signing import sign

from .conftest import NEW, OLD, Down, down, held

# -- 1.4 The cookie argument ----------------------------------------------------------------------


@pytest.mark.parametrize("cookie", [None, {}, {"path": "/"}, {"name": ""}, {"name": None}])
def test_39_the_name_is_session_by_default(store, cookie):
    assert store.storage(cookie).cookie.name == "__session"


def test_40_a_cookie_is_used_as_it_is_and_options_make_one(store):
    cookie = Cookie(name="c", secrets=[NEW])
    assert store.storage(cookie).cookie is cookie
    assert store.storage({"name": "c", "secrets": [NEW]}).cookie == cookie


def test_41_42_ours_a_cookie_is_always_signed(store, recwarn):
    storage = store.storage({"secrets": None})
    header = held(storage, a=1)
    assert header == "__session=" + sign("id1", "__session")
    assert not recwarn


def test_43_a_fixed_expires_is_warned_of(store):
    with pytest.warns(UserWarning, match="'c' has a fixed `expires`"):
        store.storage({"name": "c", "expires": datetime(2100, 1, 1, tzinfo=UTC)})


def test_43_max_age_is_not_warned_of(store, recwarn):
    store.storage({"max_age": 60})
    assert not recwarn


def test_44_the_functions_are_called_as_they_were_given(store):
    storage = store.storage()
    store.read_data = None  # too late to matter
    assert storage.get_session(held(storage, a=1)).data == {"a": 1}


# -- 1.5 get_session ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [None, "", "other=1", "__session=", "__session", "__session=;", f"x__session=id1.{'a' * 17}"],
)
def test_45_46_47_without_our_cookie_the_store_is_not_queried(store, header):
    session = store.storage().get_session(header)
    assert (session.id, session.data, store.calls) == ("", {}, [])


def test_48_the_store_is_queried_once_for_the_id(store):
    cookie = held(store.storage(), a=1)
    store.calls.clear()
    session = store.storage().get_session(f"other=1; {cookie}; more=2")
    assert (session.id, session.data) == ("id1", {"a": 1})
    assert store.calls == [("read_data", "id1")]


CHANGES = {
    "cut": lambda key: key[:-1],
    "longer": lambda key: "x" + key,
    "another": str.swapcase,
    "no dot": lambda key: key.replace(".", ""),
    "only a dot": lambda key: ".",
    "no base64": lambda key: "id1.%^&" + key[7:],
    "unsigned": lambda key: "id1",
    "as the original encodes": lambda key: "ImlkMSI%3D",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_49_98_99_100_a_cookie_that_does_not_verify_is_none(store, change):
    key = held(store.storage(), a=1).removeprefix("__session=")
    store.calls.clear()
    session = store.storage().get_session(f"__session={change(key)}")
    assert (session.id, session.data, store.calls) == ("", {}, [])


@pytest.mark.parametrize("nothing", [None, False, 0, ""])
def test_50_51_ours_a_session_that_is_not_there_has_no_data_and_no_id(store, nothing):
    storage = store.storage(read_data=lambda session_id: nothing)
    session = storage.get_session(held(store.storage(), a=1))
    assert (session.id, session.data) == ("", {})
    session.set("b", 2)
    storage.commit_session(session)
    assert session.id == "id2"
    assert "update_data" not in store.verbs


@pytest.mark.parametrize("something", ["text", [1], 5])
def test_52_ours_what_is_no_dict_is_an_error(store, something):
    storage = store.storage(read_data=lambda session_id: something)
    with pytest.raises(TypeError, match="read_data"):
        storage.get_session(held(store.storage(), a=1))


def test_53_an_error_of_the_store_is_never_an_empty_session(store):
    cookie = held(store.storage(), a=1)
    with pytest.raises(Down):
        store.storage(read_data=down).get_session(cookie)


def test_54_sessions_of_one_header_are_independent(storage):
    cookie = held(storage, __flash_a__="A")
    one, other = storage.get_session(cookie), storage.get_session(cookie)
    assert [one.get("a"), other.get("a")] == ["A", "A"]


def test_55_options_are_for_this_call_only(store):
    storage, other = store.storage({"secrets": [NEW]}), store.storage({"secrets": [OLD]})
    cookie = held(other, a=1)
    assert storage.get_session(cookie, secrets=[OLD]).data == {"a": 1}
    assert storage.get_session(cookie).data == {}


@pytest.mark.parametrize("sent", ['{"$ne":null}', '["a"]', "5", "true", "../../etc/passwd", "e30="])
def test_56_ours_no_id_of_a_client_reaches_the_store(store, sent):
    assert store.storage().get_session(f"__session={sent}").id == ""
    assert store.calls == []


def test_57_of_two_cookies_of_the_name_the_first_that_verifies_counts(store):
    storage = store.storage()
    cookie = held(storage, a=1)
    assert storage.get_session(f"{cookie}; __session=junk").id == "id1"
    assert storage.get_session(f"__session=junk; {cookie}").id == "id1"
