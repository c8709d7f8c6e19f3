"""The engine: what is saved, what is not, and what that costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.db import connections
from django.utils import timezone

from django_strategy_sessions.conf import get_strategy
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.records import SessionTooLarge
from django_strategy_sessions.signing import sign
from django_strategy_sessions.state import expires_after
from django_strategy_sessions.strategies.base import StrategyUnavailable

pytestmark = pytest.mark.usefixtures("strategy")


def saved(**data):
    session = SessionStore()
    session.update(data)
    session.save()
    return SessionStore(session.session_key)


def again(session):
    return SessionStore(session.session_key)


# -- what is written ------------------------------------------------------------------------------


def test_a_session_that_nobody_touches_costs_nothing(calls):
    key = saved(a=1).session_key
    calls.clear()
    session = SessionStore(key)
    assert not session.modified
    assert not session.accessed
    assert not session.is_empty()
    assert calls == []


def test_reading_loads_once_and_writes_nothing(calls):
    session = saved(a=1, cart={"items": [1]})
    calls.clear()
    assert session["a"] == session.get("a") == 1
    assert session["cart"] == {"items": [1]}
    assert dict(session.items())["a"] == 1
    assert not session.modified
    session.save()
    assert calls == ["load"]


def test_a_nested_change_is_saved_without_being_told(calls):
    session = saved(cart={"items": [1], "note": ""})
    session["cart"]["items"].append(2)
    session.get("cart")["note"] = "soon"
    assert session.modified
    session.save()
    assert again(session)["cart"] == {"items": [1, 2], "note": "soon"}


@pytest.mark.parametrize("how", ["values", "items", "pop", "setdefault", "dict"])
def test_a_nested_change_is_seen_however_the_value_was_got(how):
    session = saved(cart=[1])
    if how == "pop":
        cart = session.pop("cart")
        session["cart"] = cart
    else:
        (cart,) = {
            "values": lambda: session.values(),
            "items": lambda: [value for _name, value in session.items()],
            "setdefault": lambda: [session.setdefault("cart", [])],
            "dict": lambda: dict(session._session).values(),
        }[how]()
    cart.append(2)
    session.save()
    assert again(session)["cart"] == [1, 2]


def test_a_change_after_a_save_is_seen_too():
    session = saved(cart=[1])
    cart = session["cart"]
    cart.append(2)
    session.save()
    cart.append(3)
    assert session.modified
    session.save()
    assert again(session)["cart"] == [1, 2, 3]


def test_a_value_that_was_set_can_be_changed_until_and_after_the_save():
    session = SessionStore()
    cart = session["cart"] = [1]
    cart.append(2)
    session.save()
    cart.append(3)
    session.save()
    assert again(session)["cart"] == [1, 2, 3]


def test_setting_an_equal_value_writes_nothing(calls):
    session = saved(a=1, text="x" * 300, cart={"items": [1, 2]})
    calls.clear()
    session["a"] = 1
    session["text"] = "x" * 300
    session["cart"] = {"items": (1, 2)}  # which is a list once it is stored
    assert session.modified  # a mutator ran: the cookie goes out
    session.save()
    assert calls == ["load"]


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ("1", 1)])
def test_values_that_python_calls_equal_are_told_apart(old, new):
    session = saved(a=old)
    session["a"] = new
    session.save()
    assert repr(again(session)["a"]) == repr(new)


def test_modified_false_moves_only_its_own_baseline():
    session = saved(a=1, cart=[1])
    session["a"] = 2
    session["cart"].append(2)
    session["new"] = [1]
    session.modified = False
    assert not session.modified
    session["cart"].append(3)
    assert session.modified
    session.modified = False
    session["new"].append(2)
    assert session.modified
    session.modified = False
    session.save()
    assert dict(again(session).items()) == {"a": 2, "cart": [1, 2, 3], "new": [1, 2]}


def test_modified_false_before_anything_is_loaded_changes_nothing():
    session = saved(a=1, cart=[1])
    session.modified = False
    assert session["cart"] == [1]
    assert not session.modified
    session["cart"].append(2)
    assert session.modified
    session.modified = False
    del session._session_cache
    assert session["cart"] == [1]
    assert not session.modified


def test_a_draft_lends_nothing_that_is_stored(strategy):
    session = saved(cart=[1], tags=[1])
    (session._session | {"b": 1})["cart"].append(2)
    session._session.copy()["tags"].append(2)
    name, value = session._session.popitem()
    session[name] = value
    session.save()
    assert dict(again(session).items()) == {"cart": [1, 2], "tags": [1, 2]}
    session.clear()
    with pytest.raises(KeyError):
        session._session.popitem()


def test_modified_never_raises_and_never_loads(calls):
    session = saved(a=1)
    calls.clear()
    assert not session.modified
    session.modified = False
    assert calls == []
    session["a"] = broken = [object()]
    session.modified = False
    broken.append(1)
    assert session.modified


def test_deleting_and_clearing_are_saved():
    session = saved(a=1, b=2)
    del session["a"]
    session.save()
    assert dict(again(session).items()) == {"b": 2}
    session = again(session)
    session.clear()  # without a look at what was there
    session["c"] = 3
    session.save()
    assert dict(again(session).items()) == {"c": 3}


def test_a_session_that_its_view_emptied_is_saved_empty(strategy):
    session = saved(a=1)
    session.clear()
    session.save()
    assert not session.is_empty()
    assert dict(again(session).items()) == {}
    assert again(session).exists(session.session_key)


def test_clearing_an_expired_session_starts_a_new_one():
    session = saved(a=1)
    old = session.session_key
    SessionStore(old).delete()
    session = SessionStore(old)
    session.clear()
    session["b"] = 1
    session.save()
    assert session.session_key != old
    assert dict(again(session).items()) == {"b": 1}


# -- bad values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [object(), {1}, b"bytes", [datetime(2026, 1, 1, tzinfo=UTC)], 10**5000],
    ids=["object", "set", "bytes", "datetime", "huge"],
)
def test_what_cannot_be_serialized_is_refused_by_name_before_anything_is_written(calls, value):
    session = saved(kept=1)
    session["kept"] = 2
    session["the culprit"] = value
    calls.clear()
    with pytest.raises(TypeError, match="'the culprit'"):
        session.save()
    with pytest.raises(TypeError, match="'the culprit'"):
        session.cycle_key()
    assert calls == ["load"] or calls == []
    assert dict(again(session).items()) == {"kept": 1}


def test_a_circular_value_is_refused():
    session = saved(kept=1)
    session["loop"] = loop = []
    loop.append(loop)
    with pytest.raises(TypeError, match="'loop'"):
        session.save()


def test_a_name_is_a_string():
    session = SessionStore()
    session[1] = "one"
    with pytest.raises(TypeError, match="names are str, not int"):
        session.save()
    assert session.session_key is None


def test_a_session_beyond_the_limit_is_refused_and_the_stored_one_stays(settings):
    session = saved(a=1)
    settings.SESSION_MAX_SIZE = 1000
    session["a"] = "x" * 1000
    with pytest.raises(SessionTooLarge):
        session.save()
    assert dict(again(session).items()) == {"a": 1}


# -- concurrency ----------------------------------------------------------------------------------


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


def test_a_removal_by_others_is_taken_over():
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


def test_two_logins_at_once_both_end_well():
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


def test_apply_without_a_record_makes_one():
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


# -- keys -----------------------------------------------------------------------------------------


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


def test_a_key_of_an_older_secret_is_signed_anew(settings):
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


def test_an_expiry_that_moves_seals_anew_what_an_older_secret_sealed(settings):
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


def test_what_was_loaded_can_be_dropped():
    session = saved(a=1)
    assert session["a"] == 1
    other = again(session)
    other["a"] = 2
    other.save()
    del session._session_cache
    assert session["a"] == 2


# -- expiry: in a future year, for no test moves the clock of Redis -------------------------------


def test_sliding_expiry_moves_in_steps_and_never_ends_early(strategy):
    age = 14 * 24 * 3600
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        first = expires_after(age)
        assert first - datetime.now(UTC) >= timedelta(seconds=age)
        clock.shift(299)
        assert expires_after(age) - first <= timedelta(seconds=300)
        assert expires_after(age) - datetime.now(UTC) >= timedelta(seconds=age)
        for length in (0.5, 10, 100, 3600, 10**8):
            late = expires_after(length) - datetime.now(UTC) - timedelta(seconds=length)
            assert timedelta(0) <= late <= timedelta(seconds=min(length / 100, 300) + 0.001)
        for length in (0, -10):
            assert expires_after(length) == datetime.now(UTC) + timedelta(seconds=length)


def test_asking_for_a_later_expiry_writes_only_when_the_step_has_moved(calls):
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        session = saved(a=1)
        calls.clear()
        session = again(session)
        session.modified = True
        session.save()
        clock.shift(301)
        session = again(session)
        session.modified = True
        session.save()
        session.save()
    assert calls == ["load", "load", "merge"]


def test_a_session_ends_when_it_ends(settings):
    settings.SESSION_COOKIE_AGE = 1000
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        session = saved(a=1)
        clock.shift(999.9)
        assert again(session)["a"] == 1
        clock.shift(10.2)  # a step is ten seconds
        assert again(session).get("a") is None
        late = again(session)
        late["b"] = 1
        late.save()
        assert late.session_key != session.session_key


def test_dates_are_exact(strategy):
    end = datetime(2037, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
    session = SessionStore()
    session.set_expiry(end)
    session.save()
    assert strategy.load(session.session_key[:22]).expires == end
    assert session.get_expiry_date() == end


def test_an_absolute_age_is_applied_last_and_exactly(settings, strategy):
    settings.SESSION_ABSOLUTE_AGE = 5000
    settings.SESSION_COOKIE_AGE = 1000
    start = datetime(2036, 1, 1, tzinfo=UTC)
    with time_machine.travel(start, tick=False) as clock:
        session = saved(n=0)
        for n in range(1, 6):
            clock.shift(900)
            session = again(session)
            session["n"] = n
            session.save() if n % 2 else session.cycle_key()
        stored = get_strategy().load(session.session_key[:22])
        assert stored.created == start
        assert stored.expires == start + timedelta(seconds=5000)
        clock.shift(501)
        assert again(session).get("n") is None


def test_an_absolute_age_holds_for_sessions_from_before_it_was_set(settings):
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        session = saved(a=1)
        clock.shift(100)
        settings.SESSION_ABSOLUTE_AGE = 100
        # The strategy was made anew with the setting; memory went with the old one.
        assert again(session).get("a") is None


@pytest.mark.parametrize("use_tz", [True, False])
def test_daylight_saving_moves_no_expiry(settings, use_tz):
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "America/New_York"
    # Ten minutes before clocks go back: half past one comes twice.
    with time_machine.travel(datetime(2036, 11, 2, 5, 55, tzinfo=UTC), tick=False) as clock:
        session = SessionStore()
        session["a"] = 1
        session.set_expiry(timedelta(minutes=10))
        session.save()
        assert session.get_expiry_age() == 600
        clock.shift(599)
        assert again(session)["a"] == 1
        assert again(session).get_expiry_age() == 1
        clock.shift(2)
        assert again(session).get("a") is None
        clock.shift(3599)  # where it is ten past one again
        assert again(session).get("a") is None
        session = SessionStore()
        session.set_expiry(timezone.now() + timedelta(hours=2))
        session.save()
        assert session.get_expiry_age() == 7200


# -- async: the same ------------------------------------------------------------------------------


def test_the_async_twins_do_the_same(calls):
    async def work():
        session = SessionStore()
        await session.aset("a", 1)
        await session.aset("cart", [1])
        await session.asave()
        session = again(session)
        (await session.aget("cart")).append(2)
        assert session.modified
        await session.acycle_key()
        assert await session.aapply("a", lambda a: a + 1) == 2
        await session.aflash("notice", "done")
        assert await session.ahas_key("notice")
        assert await session.aget("notice") == "done"
        assert await session.apop("a") == 2
        await session.asave()
        session = again(session)
        assert dict(await session.aitems()) == {"cart": [1, 2]}
        assert await session.aload() == {"cart": [1, 2]}
        assert await session.aexists(session.session_key)
        await session.aset_expiry(timedelta(seconds=60))
        assert await session.aget_expiry_age() in (59, 60)
        await session.aset_test_cookie()
        await session.asave()
        await session.adelete_test_cookie()
        assert session.modified
        await session.adelete(session.session_key)
        with pytest.raises(UpdateError):
            await session.asave()
        await session.acreate()
        await session.aflush()
        assert session.is_empty()
        session = SessionStore()
        await session.acreate()
        await session.aset_expiry(-1)
        await session.asave()
        await SessionStore.aclear_expired()

    async_to_sync(work)()
    assert all(verb.startswith("a") for verb in calls)


# -- flash ----------------------------------------------------------------------------------------


def test_a_flash_that_was_read_is_readable_until_the_end_and_gone_with_the_save():
    session = saved(a=1)
    session.flash("notice", ["saved"])
    session.save()
    session = again(session)
    assert "notice" in session
    assert session.has_key("notice")
    assert not session.modified  # asking consumes nothing
    assert session["notice"] == session.get("notice") == ["saved"]
    assert session.modified
    session.save()
    assert session["notice"] == ["saved"]
    assert dict(again(session).items()) == {"a": 1}


def test_an_ordinary_value_wins_over_a_flash():
    session = SessionStore()
    session.flash("x", "flash")
    session["x"] = "value"
    assert session["x"] == "value"
    assert list(session.keys()) == ["__flash_x__", "x"]
    del session["x"]
    assert session.pop("x") == "flash"
    assert "x" not in session
    assert session.pop("x", None) is None
    with pytest.raises(KeyError):
        session.pop("x")
    with pytest.raises(KeyError):
        session["x"]


def test_consuming_a_flash_leaves_a_newer_one_that_nobody_saw():
    session = SessionStore()
    session.flash("notice", "first")
    session.save()
    reader, writer = again(session), again(session)
    assert reader["notice"] == "first"
    writer.flash("notice", "second")
    writer.save()
    reader.save()
    assert again(session)["notice"] == "second"


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_of_requests_at_one_time_the_order_of_saving_costs_no_flash(strategy, first):
    session = SessionStore()
    session.flash("notice", "old")
    session.flash("other", "seen")
    session.save()
    reader, writer = again(session), again(session)
    assert (reader["notice"], reader["other"]) == ("old", "seen")
    writer.flash("notice", "new")
    for each in (reader, writer) if first == "reader" else (writer, reader):
        each.save()
    assert dict(again(session).items()) == {"__flash_notice__": "new"}


def test_a_flash_after_a_read_is_a_new_one():
    session = SessionStore()
    session.flash("notice", "first")
    assert session["notice"] == "first"
    session.flash("notice", "second")
    assert session["notice"] == "second"


# -- a store that is down -------------------------------------------------------------------------


def test_an_outage_is_never_an_absence(strategy, monkeypatch):
    session = saved(a=1)
    loaded = again(session)
    assert loaded["a"] == 1

    def down(*given):
        raise StrategyUnavailable("down") from OSError()

    for verb in ("load", "insert", "merge", "rotate", "delete_data"):
        monkeypatch.setattr(strategy, verb, down, raising=False)
    loaded["a"] = 2
    for act in (
        lambda: again(session).get("a"),
        loaded.save,
        loaded.cycle_key,
        loaded.flush,
        loaded.delete,
        lambda: loaded.apply("a", lambda a: a),
        lambda: SessionStore().create(),
        lambda: session.exists(session.session_key),
    ):
        with pytest.raises(StrategyUnavailable):
            act()
    assert loaded.session_key == session.session_key
    monkeypatch.undo()
    loaded.save()
    assert again(session)["a"] == 2
