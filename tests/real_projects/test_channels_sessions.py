"""Channels' session middleware and auth, as its own tests use them: no source distribution of it
has those tests, so what they promise is written down here, over every strategy."""

from __future__ import annotations

from contextlib import contextmanager
from http.cookies import SimpleCookie
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from channels.auth import get_user, login, logout
from channels.consumer import AsyncConsumer
from channels.sessions import CookieMiddleware, SessionMiddlewareStack
from channels.testing import HttpCommunicator
from django.contrib.auth import SESSION_KEY, get_user_model, user_logged_in, user_logged_out
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import SuspiciousOperation

from django_strategy_sessions.engine import SessionStore

from ..conftest import run_in_loop

pytestmark = pytest.mark.usefixtures("strategy")

TIMEOUT = 10  # seconds
BACKEND = "django.contrib.auth.backends.ModelBackend"


def visit(act, path="/", session_key="", status=200):
    """A page of a consumer that does `act` before it answers."""

    class Page(AsyncConsumer):
        async def http_request(self, event):
            await act(self.scope["session"])
            await self.send({"type": "http.response.start", "status": status, "headers": []})
            body = f"{self.scope['path']} {self.scope['session'].session_key}"
            await self.send({"type": "http.response.body", "body": body.encode()})

    headers = [(b"cookie", f"sessionid={session_key}".encode())] if session_key else []
    stack = SessionMiddlewareStack(Page.as_asgi())
    return HttpCommunicator(stack, "GET", path, headers=headers)


def answer(*given, **options):
    return run_in_loop(visit(*given, **options).get_response(TIMEOUT))


def cookie(response):
    """The session's, if the response sets one."""
    found = SimpleCookie()
    for name, value in response["headers"]:
        assert name == b"Set-Cookie"
        found.load(value.decode())
    return found.get("sessionid")


async def save(session):
    await session.asave()


async def save_in_a_thread(session):
    await sync_to_async(session.save)()


async def set_colour(session):
    await session.aset("colour", "blue")


async def nothing(session):
    pass


def test_the_middleware_makes_a_cookie_header():
    message = {}
    CookieMiddleware.set_cookie(message, "Testing-Key", "testing-value")
    assert message["headers"] == [
        (b"Set-Cookie", b"Testing-Key=testing-value; Path=/; SameSite=lax")
    ]


@pytest.mark.parametrize("act", [save, save_in_a_thread])
def test_an_early_save_sends_the_cookie(settings, act):
    sent = cookie(answer(act))
    assert SessionStore().exists(sent.value)
    assert sent["httponly"]
    assert sent["expires"]
    assert sent["path"] == "/"
    assert sent["samesite"] == "Lax"
    assert sent["max-age"] == str(settings.SESSION_COOKIE_AGE)


@pytest.mark.parametrize("same_site", ["Strict", "None"])
def test_the_cookie_has_the_same_site_of_the_settings(settings, same_site):
    settings.SESSION_COOKIE_SAMESITE = same_site
    assert cookie(answer(save))["samesite"] == same_site


def test_a_wrong_same_site_is_refused(settings):
    settings.SESSION_COOKIE_SAMESITE = "Hello"
    with pytest.raises(AssertionError):
        answer(save)


def test_two_visits_that_are_answered_out_of_order_have_sessions_of_their_own():
    async def visits():
        first, second = visit(save, "/first/"), visit(save, "/second/")
        later = await second.get_response(TIMEOUT)
        return await first.get_response(TIMEOUT), later

    (first, second) = run_in_loop(visits())
    assert first["body"].startswith(b"/first/ ")
    assert second["body"].startswith(b"/second/ ")
    assert cookie(first).value != cookie(second).value


def test_a_change_is_saved_when_the_response_starts():
    response = answer(set_colour)
    session_key = response["body"].decode().split()[1]
    assert cookie(response).value == session_key
    assert SessionStore(session_key)["colour"] == "blue"


def test_a_server_error_saves_nothing():
    response = answer(set_colour, status=500)
    assert response["headers"] == []
    assert response["body"] == b"/ None"


def test_a_page_that_changes_nothing_sends_no_cookie():
    session_key = cookie(answer(set_colour)).value
    assert answer(nothing, session_key=session_key)["headers"] == []


def test_saving_on_every_request_renews_the_cookie(settings):
    session_key = cookie(answer(set_colour)).value
    settings.SESSION_SAVE_EVERY_REQUEST = True
    assert cookie(answer(nothing, session_key=session_key)).value == session_key


@pytest.mark.parametrize("act", [save, save_in_a_thread, set_colour])
def test_a_session_that_was_deleted_meanwhile_is_a_suspicious_operation(act):
    """With or without a change that is left to write."""

    async def deleted_meanwhile(session):
        await session.asave()
        await act(session)
        await SessionStore(session.session_key).aflush()

    with pytest.raises(SuspiciousOperation):
        answer(deleted_meanwhile)


@pytest.mark.parametrize("asked", ["modified", "every request"])
def test_a_poll_that_overlaps_a_logout_sends_no_cookie(settings, asked):
    session_key = cookie(answer(set_colour)).value
    settings.SESSION_SAVE_EVERY_REQUEST = asked == "every request"

    async def overlap(session):
        assert await session.aget("colour") == "blue"
        await SessionStore(session_key).aflush()
        if asked == "modified":
            session.modified = True

    with pytest.raises(SuspiciousOperation):
        answer(overlap, session_key=session_key)


# -- auth ------------------------------------------------------------------------------------------


@pytest.fixture
def session(strategy):
    session = SessionStore()
    session.create()
    return session


@pytest.fixture
def bob(session):
    return get_user_model().objects.create_user("bob")


@pytest.fixture
def bill(session):
    return get_user_model().objects.create_user("bill")


@contextmanager
def sent(signal):
    """That the signal is sent once."""
    handler = mock.Mock()
    signal.connect(handler)
    try:
        yield
    finally:
        signal.disconnect(handler)
    assert handler.call_count == 1


def user_of(scope):
    return run_in_loop(get_user(scope))


def test_a_login_needs_a_session_and_a_user(session):
    with pytest.raises(ValueError, match="Cannot find session in scope"):
        run_in_loop(login(scope={}, user=None))
    with pytest.raises(ValueError, match="User must be passed"):
        run_in_loop(login(scope={"session": session}, user=None))


@pytest.mark.parametrize("given", ["argument", "scope"])
def test_a_login_puts_the_user_into_session_and_scope(session, bob, given):
    scope = {"session": session}
    assert isinstance(user_of(scope), AnonymousUser)
    before = session.session_key
    if given == "scope":
        scope["user"] = bob
    with sent(user_logged_in):
        run_in_loop(login(scope, None if given == "scope" else bob, BACKEND))
    assert scope["user"] == bob
    assert user_of(scope) == bob
    assert session.session_key != before
    assert not session.exists(before)
    session.save()
    assert user_of({"session": SessionStore(session.session_key)}) == bob


def test_a_login_of_another_user_ends_the_session_of_the_first(session, bob, bill):
    scope = {"session": session}
    run_in_loop(login(scope, bob, BACKEND))
    session["private"] = 1
    session.save()
    of_bob = session.session_key
    with sent(user_logged_in):
        run_in_loop(login(scope, bill, BACKEND))
    session.save()
    assert user_of({"session": SessionStore(session.session_key)}) == bill
    assert "private" not in session
    assert not session.exists(of_bob)


def test_a_logout_is_final(session, bob):
    scope = {"session": session}
    run_in_loop(login(scope, bob, BACKEND))
    session.save()
    ended = session.session_key
    with sent(user_logged_out):
        run_in_loop(logout(scope))
    assert isinstance(scope["user"], AnonymousUser)
    assert isinstance(user_of(scope), AnonymousUser)
    assert SESSION_KEY not in session
    assert not session.exists(ended)


def test_a_logout_without_a_user_sends_no_signal(session):
    scope = {"session": session}
    handler = mock.Mock()
    user_logged_out.connect(handler)
    run_in_loop(logout(scope))
    user_logged_out.disconnect(handler)
    assert not handler.called
    assert "user" not in scope
