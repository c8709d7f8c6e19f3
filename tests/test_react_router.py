"""React Router's `createSessionStorage`, item by item: `reference/react-router.md`, 1.1 to 1.8.

Each test of a kept behaviour has its numbers in its name; `ours` says that DESIGN.md decides
otherwise, and the test is of that.
"""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured

from django_strategy_sessions import Cookie, Session, create_session_storage
from django_strategy_sessions.records import SessionTooLarge
from django_strategy_sessions.signing import sign
from django_strategy_sessions.strategies.memory import MemoryStrategy

NEW, OLD = "n" * 32, "o" * 32
CLEARED = "__session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; SameSite=Lax"


def pair(set_cookie):
    """What a browser sends back."""
    return set_cookie.partition(";")[0]


def attributes(set_cookie):
    given = (each.partition("=") for each in set_cookie.split("; ")[1:])
    return {name: value or True for name, _, value in given}


class Store:
    """Four functions over a dict, and what they were called with."""

    def __init__(self):
        self.rows, self.calls, self.ids = {}, [], itertools.count(1)

    def create_data(self, *given):
        self.calls.append(("create_data", *given))
        session_id = f"id{next(self.ids)}"
        self.rows[session_id] = json.dumps(given[0])
        return session_id

    def read_data(self, *given):
        self.calls.append(("read_data", *given))
        return json.loads(self.rows.get(given[0], "null"))

    def update_data(self, *given):
        self.calls.append(("update_data", *given))
        if given[0] not in self.rows:
            return False
        self.rows[given[0]] = json.dumps(given[1])
        return True

    def delete_data(self, *given):
        self.calls.append(("delete_data", *given))
        self.rows.pop(given[0], None)

    @property
    def verbs(self):
        return [verb for verb, *_ in self.calls]

    def storage(self, cookie=None, **replaced):
        verbs = ("create_data", "read_data", "update_data", "delete_data")
        functions = {verb: getattr(self, verb) for verb in verbs}
        return create_session_storage(**{**functions, **replaced}, cookie=cookie)


class InThreads:
    """A storage whose async twins are used."""

    def __init__(self, storage):
        self.storage = storage

    def __getattr__(self, verb):
        return async_to_sync(getattr(self.storage, f"a{verb}"))


@pytest.fixture(params=["sync", "async"])
def storage(request, strategy):
    storage = create_session_storage(strategy)
    return storage if request.param == "sync" else InThreads(storage)


@pytest.fixture
def store():
    return Store()


def held(storage, **data):
    """The header that a browser sends whose session holds `data`."""
    session = storage.get_session()
    for name, value in data.items():
        session.set(name, value)
    return pair(storage.commit_session(session))


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


def test_23_24_a_value_goes_before_a_flash_which_stays_for_later():
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


def test_34_a_flash_waits_for_its_reader_through_any_number_of_commits(storage):
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
def test_45_46_47_without_a_cookie_of_ours_the_store_is_not_asked(store, header):
    session = store.storage().get_session(header)
    assert (session.id, session.data, store.calls) == ("", {}, [])


def test_48_the_store_is_asked_once_for_the_id(store):
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


class Down(Exception):
    pass


def down(*given):
    raise Down


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


def test_57_of_two_cookies_of_the_name_the_first_counts(store):
    storage = store.storage()
    cookie = held(storage, a=1)
    assert storage.get_session(f"{cookie}; __session=junk").id == "id1"
    assert storage.get_session(f"__session=junk; {cookie}").id == ""


# -- 1.6 commit_session ---------------------------------------------------------------------------


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


def test_60_the_answer_is_one_whole_set_cookie_value(storage):
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


def test_62_ours_what_nobody_changed_is_not_written(strategy, monkeypatch):
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


def test_64_ours_a_session_learns_its_id_and_has_one_record(store):
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
def test_67_an_error_of_the_store_is_no_cookie(store, verb):
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


# -- 1.7 Expiry -----------------------------------------------------------------------------------

NOW = datetime(2030, 1, 1, tzinfo=UTC)
T = datetime(2030, 6, 1, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=10)
T_HEADER = "Sat, 01 Jun 2030 12:00:00 GMT"


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


def test_82_83_each_commit_pushes_the_end_out(store):
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


# -- 1.8 destroy_session --------------------------------------------------------------------------


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


def test_90_a_logout_that_failed_is_no_cookie(store):
    storage = store.storage(delete_data=down)
    session = storage.get_session(held(storage, a=1))
    with pytest.raises(Down):
        storage.destroy_session(session)
    assert (session.id, session.data) == ("id1", {"a": 1})


# -- 1.9 Cookies ----------------------------------------------------------------------------------


def test_94_the_same_id_has_the_same_cookie(store):
    storage = store.storage()
    session = storage.get_session(cookie := held(storage, a=1))
    assert [pair(storage.commit_session(session)) for _ in range(2)] == [cookie] * 2


def test_110_what_is_not_asked_for_is_not_in_the_cookie(store):
    session = Session({"a": 1})
    assert attributes(store.storage().commit_session(session)) == {"Path": "/", "SameSite": "Lax"}
    given = attributes(store.storage().commit_session(session, path="/about"))
    assert given == {"Path": "/about", "SameSite": "Lax"}


def test_95_96_97_secrets_are_rotated_without_a_logout(store):
    old, both, new = (store.storage({"secrets": s}) for s in ([OLD], [NEW, OLD], [NEW]))
    cookie = held(old, a=1)
    assert new.get_session(cookie).data == {}
    renewed = pair(both.commit_session(both.get_session(cookie)))
    assert new.get_session(renewed).data == {"a": 1}
    assert old.get_session(renewed).data == {}


def test_103_ours_a_mac_has_one_spelling(store):
    cookie = held(store.storage(), a=1)
    for other in (
        cookie + "=",
        cookie[:-1] + " " + cookie[-1],
        cookie[:-1] + chr(ord(cookie[-1]) ^ 1),
    ):
        assert store.storage().get_session(other).id == ""


def test_104_ours_a_cookie_of_another_name_is_worth_nothing(store):
    one, other = store.storage({"name": "one"}), store.storage({"name": "other"})
    assert other.get_session(held(one, a=1).replace("one=", "other=")).id == ""


def test_111_attributes_are_in_the_original_order(store):
    storage = store.storage({
        "same_site": "strict", "partitioned": True, "secure": True, "http_only": True, "path": "/p",
        "domain": "a.com", "max_age": 60, "name": "c",
    })  # fmt: skip
    session = Session({"a": 1})
    text = storage.commit_session(session, expires=T, max_age=60)
    assert text.partition("; ")[2] == (
        f"Max-Age=60; Domain=a.com; Path=/p; Expires={T_HEADER}; HttpOnly; Secure; Partitioned;"
        " SameSite=Strict"
    )


# -- what the original's own examples get wrong ---------------------------------------------------


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
def test_seed_5_a_life_of_no_seconds_is_legal_and_over(storage, seconds):
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
