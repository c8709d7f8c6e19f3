"""Explicit storages in Django views, beside ``request.session`` and beside each other."""

from __future__ import annotations

import asyncio
import pickle
from http.cookies import SimpleCookie

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from django_strategy_sessions import Cookie, Session, SessionStorage, create_session_storage
from django_strategy_sessions.strategies.base import SessionStrategy
from django_strategy_sessions.strategies.memory import MemoryStrategy

from .conftest import DATABASE, MEMORY, run_in_loop

cart = create_session_storage(
    MEMORY, cookie=Cookie(name="cart", max_age=3600, http_only=True, same_site="strict")
)
wishes = create_session_storage(MEMORY, cookie={"name": "__Host-wishes", "secure": True})


def add(request):
    response = HttpResponse("added")
    for storage in (cart, wishes):
        session = storage.get_session(request)
        session.set("items", [*session.get("items", []), request.GET["item"]])
        storage.commit_session(session, response)
    request.session["seen"] = True
    return response


def show(request):
    sessions = [cart.get_session(request), wishes.get_session(request)]
    return HttpResponse(f"{[s.get('items') for s in sessions]} {request.session.get('seen')}")


def empty(request):
    response = HttpResponse("emptied")
    cart.destroy_session(cart.get_session(request), response)
    return response


async def aadd(request):
    response = HttpResponse("added")
    session = await cart.aget_session(request)
    session.set("items", [*session.get("items", []), request.GET["item"]])
    await cart.acommit_session(session, response)
    return response


async def aempty(request):
    response = HttpResponse("emptied")
    await cart.adestroy_session(await cart.aget_session(request), response)
    return response


urlpatterns = [path(f"{view.__name__}/", view) for view in (add, show, empty, aadd, aempty)]


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = __name__
    settings.SESSION_STRATEGY = MEMORY


def test_several_storages_and_the_engine_work_side_by_side():
    client = Client()
    response = client.get("/add/", {"item": "tea"}, secure=True)
    client.get("/add/", {"item": "cup"}, secure=True)
    assert client.cookies.keys() == {"cart", "__Host-wishes", "sessionid"}
    assert "Cookie" in response.headers["Vary"]
    assert client.get("/show/").content.decode() == "[['tea', 'cup'], ['tea', 'cup']] True"
    response = client.get("/empty/")
    assert response.cookies["cart"]["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert client.get("/show/").content.decode() == "[None, ['tea', 'cup']] True"


def test_the_response_sets_the_cookie_with_the_given_options():
    morsel = Client().get("/add/", {"item": "tea"}).cookies["cart"]
    expected = SimpleCookie(f"cart={morsel.value}; Max-Age=3600; Path=/; HttpOnly; SameSite=Strict")
    assert morsel.OutputString() == expected["cart"].OutputString()


def test_async_views_use_the_async_twins():
    async def visit():
        client = AsyncClient()
        await client.get("/aadd/", {"item": "tea"})
        await client.get("/aadd/", {"item": "cup"})
        shown = await client.get("/show/")
        await client.get("/aempty/")
        return shown.content.decode(), (await client.get("/show/")).content.decode()

    assert run_in_loop(visit()) == ("[['tea', 'cup'], None] None", "[None, None] None")


def test_a_partitioned_cookie_survives_a_cache():
    storage = create_session_storage(
        MemoryStrategy(), cookie={"secure": True, "partitioned": True, "max_age": 60}
    )
    response, session = HttpResponse(), Session({"a": 1})
    header = storage.commit_session(session, response)
    for answer in (response, pickle.loads(pickle.dumps(response))):
        sent = answer.cookies["__session"].OutputString()
        assert {*sent.lower().split("; ")} == {*header.lower().split("; ")}
        assert sent.endswith("Partitioned")


def test_a_strategy_may_be_a_path_options_or_an_instance():
    strategy = MemoryStrategy()
    assert create_session_storage(strategy).strategy is strategy
    assert isinstance(create_session_storage(MEMORY).strategy, MemoryStrategy)
    given = {"BACKEND": DATABASE, "OPTIONS": {"using": "default"}}
    assert create_session_storage(given).strategy.alias == "default"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"strategy": None},
        {"strategy": "no.such.Strategy"},
        pytest.param({"strategy": object()}, id="an object"),
        {"create_data": print},
        {"create_data": print, "read_data": print, "update_data": print},
        {"strategy": MEMORY, "read_data": print},
    ],
    ids=str,
)  # fmt: skip
def test_anything_else_is_refused_at_once(given):
    with pytest.raises(ImproperlyConfigured):
        create_session_storage(**given)


class Rows(dict):
    async def create(self, data, expires):
        await asyncio.sleep(0)
        self["one"] = data
        return "one"

    async def read(self, session_id):
        await asyncio.sleep(0)
        return self.get(session_id)

    def update(self, session_id, data, expires):
        found = session_id in self
        self[session_id] = data
        return found

    def delete(self, session_id):
        self.pop(session_id, None)


def test_functions_may_be_async_or_not_and_serve_both():
    rows = Rows()
    storage = create_session_storage(
        create_data=rows.create, read_data=rows.read, update_data=rows.update,
        delete_data=rows.delete,
    )  # fmt: skip

    async def visit():
        session = await storage.aget_session()
        session.set("a", 1)
        cookie = (await storage.acommit_session(session)).partition(";")[0]
        session = await storage.aget_session(cookie)
        session.set("b", 2)
        await storage.acommit_session(session)
        return cookie

    cookie = asyncio.run(visit())
    session = storage.get_session(cookie)
    assert session.data == {"a": 1, "b": 2}
    storage.destroy_session(session)
    assert rows == {}


def test_a_function_that_does_not_say_whether_it_updated_is_an_error():
    storage = create_session_storage(
        create_data=lambda data, expires: "one", read_data=lambda session_id: {"a": 1},
        update_data=lambda session_id, data, expires: None, delete_data=print,
    )  # fmt: skip
    session = Session({"a": 2}, "one")
    with pytest.raises(TypeError, match="update_data"):
        storage.commit_session(session)


def test_requests_at_one_time_lose_nothing(strategy):
    storage = create_session_storage(strategy)
    session = storage.get_session()
    session.set("a", 1)
    cookie = storage.commit_session(session).partition(";")[0]
    one, other = storage.get_session(cookie), storage.get_session(cookie)
    one.set("b", 2)
    other.set("c", 3)
    storage.commit_session(one)
    storage.commit_session(other)
    assert storage.get_session(cookie).data == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_at_one_time_a_flash_is_neither_lost_nor_seen_twice(strategy, first):
    storage = create_session_storage(strategy)
    session = Session({"__flash_notice__": "old", "__flash_other__": "seen"})
    cookie = storage.commit_session(session).partition(";")[0]
    reader, writer = storage.get_session(cookie), storage.get_session(cookie)
    assert (reader.get("notice"), reader.get("other")) == ("old", "seen")
    writer.flash("notice", "new")
    for each in (reader, writer) if first == "reader" else (writer, reader):
        storage.commit_session(each)
    assert storage.get_session(cookie).data == {"__flash_notice__": "new"}


def test_a_response_keeps_no_attributes_of_an_earlier_cookie():
    """A cookie that is cleared has no Max-Age, which would go before its Expires."""
    storage = create_session_storage(MEMORY, cookie={"max_age": 60})
    response, session = HttpResponse(), Session({"a": 1})
    storage.commit_session(session, response)
    cleared = storage.destroy_session(session, response)
    sent = response.cookies["__session"].OutputString().lower()
    assert {*sent.split("; ")} == {*cleared.lower().split("; ")}


def test_an_id_comes_back_from_a_response_as_it_was_made():
    rows = Rows()
    storage = create_session_storage(
        create_data=lambda data, expires: rows.setdefault("ab/cd=@==", data) and "ab/cd=@==",
        read_data=rows.get, update_data=rows.update, delete_data=rows.delete,
    )  # fmt: skip
    response = HttpResponse()
    storage.commit_session(Session({"a": 1}), response)
    sent = response.cookies["__session"].OutputString().partition(";")[0]
    assert storage.get_session(sent).data == {"a": 1}


def test_an_empty_session_leaves_the_cookie_that_another_response_has_set():
    response = HttpResponse()
    cart.commit_session(cart.get_session(), response)
    assert not response.cookies


class Unsure(SessionStrategy):
    """Does not say when a session was created."""


def test_an_absolute_age_that_cannot_be_kept_is_refused(settings):
    settings.SESSION_ABSOLUTE_AGE = 60
    functions = dict.fromkeys(["create_data", "read_data", "update_data", "delete_data"], print)
    for given in (functions, {"strategy": Unsure()}):
        with pytest.raises(ImproperlyConfigured, match="SESSION_ABSOLUTE_AGE"):
            create_session_storage(**given)


def test_the_absolute_age_applies_to_storages_too(settings):
    settings.SESSION_ABSOLUTE_AGE = 60
    strategy = MemoryStrategy()
    storage = create_session_storage(strategy, cookie={"max_age": 3600})
    session = storage.get_session()
    session.set("a", 1)
    storage.commit_session(session)
    stored = strategy.load(session.id)
    assert (stored.expires - stored.created).total_seconds() <= 60


def test_nothing_secret_is_shown():
    cookie = Cookie(secrets=["s" * 32])
    session = Session({"token": "private"}, "private")
    shown = repr([cookie, session, SessionStorage(MemoryStrategy(), cookie)])
    assert "sss" not in shown
    assert "private" not in shown


def test_typed_views_of_a_session_are_its_names_and_its_flashes():
    session = Session({"a": 1, "__flash_m__": "hello"})
    assert dict(session.typed) == {"a": 1}
    assert list(session.typed_flash) == ["m"]
    session.typed["b"] = 2
    del session.typed["a"]
    session.typed_flash["n"] = "bye"
    assert session.data == {"__flash_m__": "hello", "b": 2, "__flash_n__": "bye"}
    assert ("m" in session.typed_flash, "x" in session.typed_flash) == (True, False)
    assert session.typed_flash["m"] == "hello"
    assert session.typed_flash.get("m") is None
    del session.typed_flash["n"]
    assert len(session.typed) == 1
    assert len(session.typed_flash) == 0


def test_typed_flashes_can_be_popped_and_cleared():
    session = Session({"__flash_m__": 1, "__flash_n__": 2, "__flash_o__": 3, "a": 4})
    assert session.typed_flash.pop("m") == 1
    session.typed_flash.clear()
    assert session.data == {"a": 4}


def test_typed_views_follow_their_session():
    session = Session({"a": 1})
    typed = session.typed
    cart.destroy_session(session)
    assert dict(typed) == {}
    typed["b"] = 2
    assert session.data == {"b": 2}
