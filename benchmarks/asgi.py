"""An async site of one view that reads the session: whole, and only its middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from django.utils.module_loading import import_string

from .sides import Engine

Site = Callable[[str], Awaitable[None]]  # a visit with this session key


async def view(request: HttpRequest) -> HttpResponse:
    await request.session.aget("locale")
    return HttpResponse()


async def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [path("session/", view), path("plain/", plain)]


def site(side: Engine | None) -> Site:
    """The whole application, as a server calls it."""
    if side is None:
        with override_settings(MIDDLEWARE=[]):
            return partial(_visit, ASGIHandler(), "/plain/")
    with override_settings(SESSION_ENGINE=side.engine, MIDDLEWARE=[side.path]):
        return partial(_visit, ASGIHandler(), "/session/")


async def _visit(application: Any, url: str, key: str) -> None:
    cookie = f"{settings.SESSION_COOKIE_NAME}={key}".encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": url,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"cookie", cookie)],
    }
    request = [{"type": "http.request"}]

    async def receive() -> Any:
        # After its request the client stays and waits.
        return request.pop() if request else await asyncio.Future()

    async def send(message: Any) -> None:
        assert message.get("status", HTTPStatus.OK) == HTTPStatus.OK, message

    await application(scope, receive, send)


def stack(side: Engine | None) -> Site:
    """The middleware and the view alone. All that is sync happens in one thread, which stays."""
    call: Any = plain
    if side is not None:
        with override_settings(SESSION_ENGINE=side.engine):
            call = import_string(side.path)(view)

    async def visit(key: str) -> None:
        request = HttpRequest()
        request.COOKIES[settings.SESSION_COOKIE_NAME] = key
        await call(request)

    return visit
