"""Channels: consumers that read, write and end the visitor's session over a websocket."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.auth import AuthMiddlewareStack, login, logout
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.sessions import SessionMiddlewareStack
from channels.testing import HttpCommunicator, WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.core.exceptions import SuspiciousOperation
from django.test import Client

from django_strategy_sessions.engine import SessionStore

from ..conftest import run_in_loop

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
