"""The absolute age counts from the login; names are what JSON makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum

import pytest
import time_machine
from django.contrib import auth
from django.contrib.auth import get_user_model

from django_strategy_sessions import create_session_storage
from django_strategy_sessions.engine import SessionStore

from .conftest import run_in_loop
from .in_flight import LOADED, Browser, ask

servers = pytest.mark.parametrize("server", ["wsgi", "asgi"])
DAY = 24 * 60 * 60


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = "tests.in_flight"


# -- SESSION_ABSOLUTE_AGE --------------------------------------------------------------------------


@pytest.fixture
def thirty_days(settings):
    """And a sliding age that ends no session of these tests."""
    settings.SESSION_ABSOLUTE_AGE = 30 * DAY
    settings.SESSION_COOKIE_AGE = 365 * DAY


@pytest.fixture
def clock():
    with time_machine.travel(datetime.now(UTC)) as clock:
        yield clock


@pytest.fixture
def ada(strategy):
    return get_user_model().objects.create_user("ada", password="secret")


@pytest.fixture
def client(ada, thirty_days, clock):
    """A visitor with a cart, 29 days later."""
    client = Browser()
    client.get("/write/?name=cart")
    clock.shift(timedelta(days=29))
    assert client.get("/read/").json()["value"] == "cart"
    return client


def who(client):
    return client.get("/whoami/").content


@pytest.mark.parametrize("page", ["/login/", "/alogin/"])
def test_the_absolute_age_counts_from_the_login(client, clock, middleware, page):
    assert client.get(page).status_code == 200
    clock.shift(timedelta(days=29))
    assert who(client) == b"ada"
    assert client.session["name"] == "cart"
    clock.shift(timedelta(days=2))
    assert who(client) == b""
    assert client.get("/read/").json()["value"] is None


def test_saves_after_a_login_leave_the_age_as_it_began_there(client, clock, middleware):
    client.get("/login/")
    clock.shift(timedelta(days=20))
    assert client.get("/write/?more=1").status_code == 200
    clock.shift(timedelta(days=9))
    assert who(client) == b"ada"
    session = client.session
    assert (session["name"], session["more"]) == ("cart", "1")
    clock.shift(timedelta(days=2))
    assert who(client) == b""


@servers
def test_a_rotation_without_a_user_keeps_the_age(client, clock, middleware, server):
    ask(client, LOADED, ("cycle_key",), server=server)
    assert client.get("/read/").json()["value"] == "cart"
    clock.shift(timedelta(days=2))
    assert client.get("/read/").json()["value"] is None


@servers
def test_a_rotation_of_a_users_session_keeps_the_age(ada, thirty_days, clock, middleware, server):
    """Or a password change every month would keep a session for ever."""
    client = Browser()
    client.get("/login/")
    clock.shift(timedelta(days=29))
    ask(client, LOADED, ("cycle_key",), ("update", {"more": 1}), server=server)
    assert who(client) == b"ada"
    clock.shift(timedelta(days=2))
    assert who(client) == b""


def test_a_change_of_the_secret_key_keeps_the_age(ada, settings, thirty_days, clock, middleware):
    client = Browser()
    client.get("/login/")
    clock.shift(timedelta(days=29))
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a new secret key that is as long as it should be: 0123456789"
    before = client.cookies["sessionid"].value
    assert who(client) == b"ada"
    assert client.cookies["sessionid"].value != before
    clock.shift(timedelta(days=2))
    assert who(client) == b""


@servers
def test_a_second_login_of_the_same_user_keeps_the_age(ada, thirty_days, clock, middleware, server):
    client = Browser()
    client.get("/login/")
    clock.shift(timedelta(days=29))

    def again(request):
        auth.login(request, ada, "django.contrib.auth.backends.ModelBackend")

    ask(client, LOADED, again, ("update", {"more": 1}), server=server)
    assert who(client) == b"ada"
    clock.shift(timedelta(days=2))
    assert who(client) == b""


def test_a_saved_name_keeps_the_age(client, clock, middleware):
    client.get("/write/?name=more")
    clock.shift(timedelta(days=2))
    assert client.get("/read/").json()["value"] is None


# -- names that are no strings ---------------------------------------------------------------------


class Number(IntEnum):
    SEVEN = 7


class Colour(StrEnum):
    RED = "red"


NAMES = [
    (5, "5"),
    (-1, "-1"),
    (0, "0"),
    (2**70, str(2**70)),
    (2.5, "2.5"),
    (1e100, "1e+100"),
    (True, "true"),
    (False, "false"),
    (None, "null"),
    (Number.SEVEN, "7"),
    (Colour.RED, "red"),
]
names = pytest.mark.parametrize(("name", "text"), NAMES, ids=[text[:20] for _, text in NAMES])


def again(session):
    """As the next request has it."""
    session.save()
    return SessionStore(session.session_key)


@names
def test_a_name_is_the_text_that_json_makes_of_it(strategy, name, text):
    session = SessionStore()
    session[name] = {"n": 1}
    for held in (session, again(session)):
        assert held[name] == held[text] == {"n": 1}
        assert name in held
        assert text in held
        assert held.has_key(name)
        assert held.get(name) == held.get(text) == {"n": 1}
        assert list(held.keys()) == [text]
        assert list(held.items()) == [(text, {"n": 1})]


@names
def test_such_a_name_is_changed_and_removed_under_either_form(strategy, name, text):
    session = SessionStore()
    session[text] = 1
    session = again(session)
    session[name] = 2
    session = again(session)
    assert dict(session.items()) == {text: 2}
    assert session.setdefault(name, 3) == 2
    session.update({name: 4})
    session = again(session)
    assert session.pop(text) == 4
    session = again(session)
    assert session.get(name) is None
    assert session.setdefault(name, 5) == 5
    session = again(session)
    assert session[text] == 5
    del session[name]
    session = again(session)
    assert text not in session
    with pytest.raises(KeyError):
        session[name]
    with pytest.raises(KeyError):
        session.pop(name)
    assert session.pop(name, "none") == "none"


@names
def test_such_a_name_works_in_async_code(strategy, name, text):
    async def visit():
        session = SessionStore()
        await session.aset(name, 1)
        assert await session.aget(text) == 1
        await session.asave()
        session = SessionStore(session.session_key)
        assert await session.aget(name) == await session.aget(text) == 1
        assert await session.ahas_key(name)
        await session.aupdate({name: 2})
        assert await session.asetdefault(name, 3) == 2
        await session.asave()
        session = SessionStore(session.session_key)
        assert dict(await session.aitems()) == {text: 2}
        assert await session.apop(name) == 2
        await session.asave()
        assert await SessionStore(session.session_key).aget(text) is None

    run_in_loop(visit())


@names
def test_such_a_name_works_with_apply_and_flash(strategy, name, text):
    session = SessionStore()
    session[text] = 1
    session = again(session)
    assert session.apply(name, lambda value: value + 1, 0) == 2
    assert SessionStore(session.session_key)[text] == 2
    del session[name]
    session.flash(name, "once")
    session = again(session)
    assert name in session
    assert session[name] == "once"
    assert text not in again(session)


@names
def test_such_a_name_of_two_requests_is_one_name(strategy, name, text):
    """A merge goes by the texts."""
    session = SessionStore()
    session["kept"] = 0
    session.save()
    one, other = SessionStore(session.session_key), SessionStore(session.session_key)
    one[name], other[text] = 1, 2
    one.save()
    other.save()
    assert SessionStore(session.session_key).load() == {"kept": 0, text: 2}


@names
def test_such_a_name_works_in_an_explicit_storage(strategy, name, text):
    storage = create_session_storage(strategy)
    session = storage.get_session()
    session.set(name, 1)
    assert session.has(name)
    assert session.get(text) == 1
    session = storage.get_session(storage.commit_session(session))
    assert session.get(name) == session.get(text) == 1
    session.unset(name)
    session.flash(name, "once")
    session = storage.get_session(storage.commit_session(session))
    assert not session.data.keys() & {text}
    assert session.has(name)
    assert session.get(text) == "once"


def test_a_view_with_such_names_works_as_with_django(strategy, middleware):
    def write(request):
        request.session[5] = "five"

    client = Browser()
    ask(client, write)
    response = ask(client, ("get", 5), ("get", "5"))
    assert response.seen == ["five", "five"]


REFUSED = [(1, 2), b"bytes", frozenset(), object()]


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: type(name).__name__)
def test_a_name_that_json_refuses_is_refused(strategy, name):
    session = SessionStore()
    session["kept"] = 1
    session.save()

    def write():
        session[name] = 1
        session.save()

    with pytest.raises(TypeError):
        write()
    assert SessionStore(session.session_key).load() == {"kept": 1}
