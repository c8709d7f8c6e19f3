"""Channels: consumers that read, write and end the visitor's session over a websocket."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from threading import Event

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.auth import AuthMiddlewareStack, login, logout
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.sessions import SessionMiddlewareStack
from channels.testing import HttpCommunicator, WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.core.exceptions import SuspiciousOperation
from django.db import connections, transaction
from django.test import Client

from django_strategy_sessions import aend_sessions, end_session, end_sessions, sessions_of
from django_strategy_sessions.engine import SessionStore

from ..conftest import POSTGRES, run_in_loop, sign_in
from ..docs.pages import received

pytestmark = pytest.mark.usefixtures("strategy", "middleware")

BACKEND = "django.contrib.auth.backends.ModelBackend"


class SyncConsumer(JsonWebsocketConsumer):
    def receive_json(self, asked):
        session = self.scope["session"]
        try:
            match asked:
                case ["set", name, value]:
                    session[name] = value
                    session.save()
                case ["login"]:
                    async_to_sync(login)(self.scope, get_user_model().objects.get(), BACKEND)
                    session.save()
                case ["logout"]:
                    async_to_sync(logout)(self.scope)
        except Exception as error:
            self.send_json({"error": type(error).__name__})
        else:
            user = self.scope["user"].get_username()
            self.send_json({"key": session.session_key, "user": user, "data": dict(session)})


class AsyncConsumer(AsyncJsonWebsocketConsumer):
    async def receive_json(self, asked):
        session = self.scope["session"]
        try:
            match asked:
                case ["set", name, value]:
                    await session.aset(name, value)
                    await session.asave()
                case ["login"]:
                    await login(self.scope, await get_user_model().objects.aget(), BACKEND)
                    await session.asave()
                case ["logout"]:
                    await logout(self.scope)
        except Exception as error:
            await self.send_json({"error": type(error).__name__})
        else:
            user = self.scope["user"].get_username()
            data = dict(await session.aitems())
            await self.send_json({"key": session.session_key, "user": user, "data": data})


@pytest.fixture(params=[SyncConsumer, AsyncConsumer])
def site(request):
    return AuthMiddlewareStack(request.param.as_asgi())


@pytest.fixture
def browser(transactional_db):
    """A browser with a session that has no user yet."""
    get_user_model().objects.create_user("ada", password="secret")
    client = Client()
    client.get("/write/?page=1")
    return client


def key(client):
    return client.cookies["sessionid"].value


@asynccontextmanager
async def websocket(site, session_key):
    """Ask the consumer behind an open websocket: ``await ask("set", "name", value)``."""
    headers = [(b"cookie", f"sessionid={session_key}".encode())]
    socket = WebsocketCommunicator(site, "/", headers)
    assert (await socket.connect())[0]

    async def ask(*words):
        await socket.send_json_to(words)
        return await socket.receive_json_from(timeout=10)

    yield ask
    await socket.disconnect()


def test_a_consumer_and_the_pages_share_the_session(site, browser):
    async def visit():
        async with websocket(site, key(browser)) as ask:
            return await ask("set", "socket", 1)

    assert run_in_loop(visit())["data"] == {"page": "1", "socket": 1}
    assert dict(browser.session) == {"page": "1", "socket": 1}


def test_an_open_websocket_undoes_nothing_that_pages_write_meanwhile(site, browser):
    async def visit():
        async with websocket(site, key(browser)) as ask:
            await ask("set", "socket", 1)
            await sync_to_async(browser.get)("/write/?page=2&other=3")
            return await ask("set", "socket", 2)

    assert run_in_loop(visit())["data"] == {"page": "2", "other": "3", "socket": 2}
    assert dict(browser.session) == {"page": "2", "other": "3", "socket": 2}


def test_an_open_websocket_does_not_revive_a_logged_out_session(site, browser):
    browser.get("/login/")
    ended = key(browser)

    async def visit():
        async with websocket(site, ended) as ask:
            assert (await ask("set", "socket", 1))["user"] == "ada"
            await sync_to_async(browser.get)("/logout/")
            return await ask("set", "socket", 2)

    assert run_in_loop(visit()) == {"error": "UpdateError"}
    assert not SessionStore().exists(ended)


def test_a_login_over_a_websocket_gives_the_session_a_new_key(site, browser):
    before = key(browser)

    async def visit():
        async with websocket(site, before) as ask:
            return await ask("login")

    answer = run_in_loop(visit())
    assert answer["user"] == "ada"
    assert answer["key"] != before
    assert not SessionStore().exists(before)
    # A websocket cannot send cookies: the page has to be given the new one.
    browser.cookies["sessionid"] = answer["key"]
    assert browser.get("/whoami/").content == b"ada"
    assert browser.session["page"] == "1"


def test_a_logout_over_a_websocket_logs_the_browser_out(site, browser):
    browser.get("/login/")

    async def visit():
        async with websocket(site, key(browser)) as ask:
            return await ask("logout")

    assert run_in_loop(visit())["user"] == ""
    assert not SessionStore().exists(key(browser))
    assert browser.get("/whoami/").content == b""


class Page(AsyncHttpConsumer):
    async def handle(self, body):
        session = self.scope["session"]
        await session.aset("visits", await session.aget("visits", 0) + 1)
        if self.scope["path"] == "/ended/":
            await SessionStore(session.session_key).aflush()
        try:
            await self.send_response(200, str(session["visits"]).encode())
        except SuspiciousOperation:
            await self.send_response(500, b"refused")


def get(path, session_key=""):
    headers = [(b"cookie", f"sessionid={session_key}".encode())]
    page = HttpCommunicator(SessionMiddlewareStack(Page.as_asgi()), "GET", path, headers=headers)
    return run_in_loop(page.get_response(timeout=10))


def test_a_page_that_a_consumer_serves_sets_the_cookie(transactional_db):
    response = get("/")
    ((_, cookie),) = response["headers"]
    session_key = cookie.decode().partition("sessionid=")[2].partition(";")[0]
    assert SessionStore(session_key)["visits"] == 1
    assert get("/", session_key)["body"] == b"2"


def test_a_page_that_a_consumer_serves_refuses_to_save_a_session_that_ended(browser):
    assert get("/ended/", key(browser)) == {"status": 500, "headers": [], "body": b"refused"}
    assert not SessionStore().exists(key(browser))


# -- the guide's consumer, which closes when its session ends --------------------------------------


@pytest.fixture
def account_site(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with received("sessions-of-a-user.md", "consumers.py") as page:

        class Consumer(page["AccountConsumer"]):
            async def receive_json(self, asked):
                await self.send_json(asked)

        yield AuthMiddlewareStack(Consumer.as_asgi())


@pytest.fixture
def ada(transactional_db):
    # A primary key of its own, because Redis remembers the sessions of earlier tests' users.
    return get_user_model().objects.create_user("ada", pk=uuid.uuid4().int % 10**15)


async def connect(site, client):
    headers = [(b"cookie", f"sessionid={key(client)}".encode())]
    socket = WebsocketCommunicator(site, "/", headers)
    await socket.connect()
    return socket


async def is_open(socket):
    """Whether it still answers, after what it was told in the meantime."""
    if not await socket.receive_nothing(timeout=0.3):
        assert (await socket.receive_output())["type"] == "websocket.close"
        return False
    await socket.send_json_to("hello")
    return await socket.receive_json_from(timeout=10) == "hello"


def end_of_another(user, phone):
    (other,) = [one for one in sessions_of(user, phone.session) if not one.is_current]
    end_session(user, other.reference)


@pytest.mark.parametrize("way", ["of one", "of all others", "of all others, async", "logout"])
def test_a_websocket_closes_when_its_session_ends_and_the_others_stay(account_site, ada, way):
    phone, laptop = sign_in(ada), sign_in(ada)

    async def visit():
        stays, closes = await connect(account_site, phone), await connect(account_site, laptop)
        match way:
            case "of one":
                await sync_to_async(end_of_another)(ada, phone)
            case "of all others":
                await sync_to_async(end_sessions)(ada, keep=SessionStore(key(phone)))
            case "of all others, async":
                await aend_sessions(ada, keep=SessionStore(key(phone)))
            case "logout":
                await sync_to_async(laptop.logout)()
        found = await is_open(stays), await is_open(closes)
        await stays.disconnect()
        return found

    assert run_in_loop(visit()) == (True, False)


def test_a_websocket_closes_once_the_transaction_is_committed_and_not_before(
    account_site, ada, settings
):
    if settings.SESSION_STRATEGY == POSTGRES:
        pytest.skip("There, sessions are in another database than the one of the transaction.")
    laptop = sign_in(ada)

    async def visit():
        socket = await connect(account_site, laptop)
        assert await is_open(socket)
        ended, go_on = Event(), Event()

        def end_in_a_transaction():
            with transaction.atomic():
                end_sessions(ada)
                ended.set()
                assert go_on.wait(30)
            connections.close_all()

        # In a thread of its own, or the consumer could not ask the database meanwhile.
        in_thread = sync_to_async(end_in_a_transaction, thread_sensitive=False)
        ending = asyncio.create_task(in_thread())
        assert await asyncio.to_thread(ended.wait, 30)
        before = await socket.receive_nothing(timeout=0.3)
        go_on.set()
        await ending
        return before, await is_open(socket)

    assert run_in_loop(visit()) == (True, False)


def test_a_websocket_whose_session_ended_while_it_opened_closes(account_site, ada):
    laptop = sign_in(ada)

    class Late:
        """Between the handshake's authentication and the consumer, the session ends."""

        def __init__(self, consumer):
            self.consumer = consumer

        async def __call__(self, scope, receive, send):
            await aend_sessions(ada)
            return await self.consumer(scope, receive, send)

    async def visit():
        site = account_site
        while hasattr(site.inner, "inner"):
            site = site.inner
        site.inner = Late(site.inner)
        return await is_open(await connect(account_site, laptop))

    assert run_in_loop(visit()) is False
