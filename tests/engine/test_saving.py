"""What is saved, what is not, and what that costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.base import UpdateError

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.records import SessionTooLarge
from django_strategy_sessions.strategies.base import StrategyUnavailable

from .conftest import again, saved

pytestmark = pytest.mark.usefixtures("strategy")

# -- what is written ------------------------------------------------------------------------------


def test_an_untouched_session_costs_nothing(calls):
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


def test_a_nested_change_is_saved_without_modified(calls):
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
    assert set(calls) == {"load"}


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ("1", 1)])
def test_equal_values_of_different_types_are_different(old, new):
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


def test_a_session_that_was_only_read_is_modified_if_it_gets_another_key():
    session = saved(user="ada")
    assert session["user"] == "ada"
    assert not session.modified
    session._session_key = session.session_key
    assert session.modified
    session.modified = False
    assert not session.modified


def test_modified_false_after_reading_one_name_keeps_what_was_loaded_as_its_baseline():
    session = saved(user="ada", cart=[1])
    assert session["user"] == "ada"
    session.modified = False
    session._session_key = session.session_key
    assert session["cart"] == [1]
    assert not session.modified
    session["cart"].append(2)
    assert session.modified


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


def test_changing_a_returned_value_never_changes_the_stored_text(strategy):
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
    with pytest.raises(TypeError, match="names are str, not tuple"):
        session[1, 2] = "pair"
    assert (1, 2) not in session
    assert session.session_key is None


def test_a_session_beyond_the_limit_is_refused_and_the_stored_one_stays(settings):
    session = saved(a=1)
    settings.SESSION_MAX_SIZE = 1000
    session["a"] = "x" * 1000
    with pytest.raises(SessionTooLarge):
        session.save()
    assert dict(again(session).items()) == {"a": 1}


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


# -- a store that is down -------------------------------------------------------------------------


def test_an_outage_is_never_an_absence(strategy, monkeypatch):
    session = saved(a=1)
    loaded = again(session)
    assert loaded["a"] == 1

    def down(*given):
        raise StrategyUnavailable("down") from OSError()

    for verb in ("load", "insert", "merge", "rotate", "end", "delete_data"):
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
