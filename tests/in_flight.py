"""Requests that are still running while others happen, on WSGI and on ASGI: a URLconf and `ask`.

What such a request does is given as steps: ``("update", {"a": 1})`` calls a method of its session
(on ASGI the ``a`` twin), and a function is called with the request: it does what others do
meanwhile, or answers.
"""

from __future__ import annotations

from itertools import count

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.test.client import ClientHandler
from django.urls import path

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.strategies import get_strategy

from .conftest import DJANGOS, OURS, run_in_loop
from .urls import urlpatterns as pages

LOADED = ("get", "a name, which loads the session")
MODIFIED = ("modified",)

_asked = {}
_numbers = count()


def ask(client, *steps, server="wsgi", headers=None):
    """Make one request with the cookies of `client`, which takes those that are sent back.

    The response has what the session's methods returned, in order, as `seen`.
    """
    if server == "asgi":
        return run_in_loop(aask(client, *steps, headers=headers))
    number, seen = _next(steps)
    response = client.get(f"/do/{number}/", headers=headers)
    response.seen = seen
    return response


async def aask(client, *steps, headers=None):
    number, seen = _next(steps)
    twin = Twin(raise_request_exception=False)
    twin.cookies = client.cookies
    response = await twin.get(f"/ado/{number}/", headers=headers)
    response.seen = seen
    return response


class Browser(Client):
    """Each request goes by the settings of now. Django's keeps the middleware of its first."""

    def __init__(self):
        super().__init__(raise_request_exception=False)

    def request(self, **request):
        self.handler = ClientHandler(enforce_csrf_checks=False)
        return super().request(**request)


class Twin(AsyncClient):
    """Django's sends an empty ``Cookie`` header where it has no cookies: after one that a test
    gives, it is read as the end of that."""

    def _base_scope(self, **request):
        scope = super()._base_scope(**request)
        scope["headers"] = [header for header in scope["headers"] if header != (b"cookie", b"")]
        return scope


def _next(steps):
    number, seen = next(_numbers), []
    _asked[number] = steps, seen
    return number, seen


def do(request, number):
    steps, seen = _asked.pop(number)
    for step in steps:
        if callable(step):
            if isinstance(answer := step(request), HttpResponse):
                return answer
        elif step == MODIFIED:
            request.session.modified = True
        else:
            verb, *arguments = step
            seen.append(getattr(request.session, verb)(*arguments))
    return HttpResponse("done")


async def ado(request, number):
    steps, seen = _asked.pop(number)
    for step in steps:
        if callable(step):
            called = step if iscoroutinefunction(step) else sync_to_async(step)
            if isinstance(answer := await called(request), HttpResponse):
                return answer
        elif step == MODIFIED:
            request.session.modified = True
        else:
            verb, *arguments = step
            seen.append(await getattr(request.session, f"a{verb}")(*arguments))
    return HttpResponse("done")


# -- what tests of such requests share -------------------------------------------------------------


def key(client):
    return client.cookies["sessionid"].value


def with_key(session_key):
    client = Browser()
    client.cookies["sessionid"] = session_key
    return client


def page(client, path):
    """A step: another tab of `client` asks for it meanwhile."""

    def elsewhere(_request):
        assert client.get(path).status_code == 200

    return elsewhere


def held(session_key):
    return SessionStore(session_key).load()


def loaded(session_key):
    """What the strategy itself finds."""
    return get_strategy().load(session_key.partition(".")[0])


def followed(response, middleware):
    """Whether the request was acknowledged. It sent no cookie, for it cannot know the new key.

    Django's own middleware sends one with every save that succeeds. There a request in flight may
    be refused, as it is after a logout."""
    assert "sessionid" not in response.cookies
    assert response.status_code in {OURS: [200], DJANGOS: [200, 400]}[middleware]
    return response.status_code == 200


urlpatterns = [*pages, path("do/<int:number>/", do), path("ado/<int:number>/", ado)]
