"""Django's session middleware, native to sync and async code, and careful with cookies.

A store that is down is a 503, and costs nobody the cookie. Cookie settings and ``Vary`` are as
Django's.
"""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from .engine import SessionStore
from .strategies.base import Steps, StrategyUnavailable, arun, run
from .unavailable import as_unavailable


class SessionMiddleware(DjangoSessionMiddleware):
    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if not issubclass(self.SessionStore, SessionStore):
            raise ImproperlyConfigured(
                f"{__name__}.SessionMiddleware needs its engine:\n"
                'SESSION_ENGINE = "django_strategy_sessions.engine"'
            )

    def process_response(  # type: ignore[override]  # django-stubs': no streaming
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore):  # somebody put another's there
            return super().process_response(request, response)  # type: ignore[arg-type]
        try:
            run(session, _finished(request, session, response))
        except StrategyUnavailable as error:
            response = response_for_exception(request, error)
            run(session, _finished(request, session, response))
        return as_unavailable(request, response) if _outage(session, response) else response

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self.process_request(request)
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore):
            return await sync_to_async(super().process_response)(request, response)  # type: ignore[arg-type]
        try:
            await arun(session, _finished(request, session, response))
        except StrategyUnavailable as error:
            in_thread = sync_to_async(response_for_exception, thread_sensitive=False)
            response = await in_thread(request, error)
            await arun(session, _finished(request, session, response))
        if _outage(session, response):
            explain = sync_to_async(as_unavailable, thread_sensitive=False)
            return await explain(request, response)
        return response


def _finished(
    request: HttpRequest, session: SessionStore, response: HttpResponseBase
) -> Steps[None]:
    """Save what changed, and let the client's cookie follow: on a session, as steps."""
    accessed, failed = session.accessed, response.status_code >= 500
    ended = session.flushed and not session.outage
    if settings.SESSION_SAVE_EVERY_REQUEST and session.session_key and not failed:
        yield ("keys",)  # of a session whose record is gone nothing must be made
    if accessed:
        patch_vary_headers(response, ("Cookie",))
    if session.is_empty():
        if ended:
            yield ("flush_given",)
        # One that verifies may be good again, when a backup is restored or a clock set right.
        sent = settings.SESSION_COOKIE_NAME in request.COOKIES
        if sent and (ended or not session.was_given):
            _delete_cookie(response)
    elif failed:
        # Nothing is saved. But after a rotation only the new key leads to the session.
        if accessed and session.has_moved and (yield from _holds(session)):
            yield from _set_cookie(session, response)
    elif session.modified or settings.SESSION_SAVE_EVERY_REQUEST:
        try:
            yield ("save",)
        except UpdateError as error:
            if session.has_moved:
                return  # nobody else knows that id: it was rolled back with the view's transaction
            raise SessionInterrupted(
                "The request's session was deleted before the request completed."
                " The user may have logged out in a concurrent request, for example."
            ) from error
        yield from _set_cookie(session, response)


def _holds(session: SessionStore) -> Steps[bool]:
    """Whether the store holds the session, as far as it can say."""
    try:
        return bool((yield ("is_kept",)))
    except StrategyUnavailable:
        return False


def _set_cookie(session: SessionStore, response: HttpResponseBase) -> Steps[None]:
    max_age = expires = None
    if not (yield ("get_expire_at_browser_close",)):
        max_age = yield ("get_expiry_age",)
        expires = http_date(time.time() + max_age)
    patch_vary_headers(response, ("Cookie",))
    response.set_cookie(
        settings.SESSION_COOKIE_NAME,
        session.session_key or "",
        max_age=max_age,
        expires=expires,
        domain=settings.SESSION_COOKIE_DOMAIN,
        path=settings.SESSION_COOKIE_PATH,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=settings.SESSION_COOKIE_HTTPONLY,
        samesite=settings.SESSION_COOKIE_SAMESITE,
    )


def _delete_cookie(response: HttpResponseBase) -> None:
    patch_vary_headers(response, ("Cookie",))
    response.delete_cookie(
        settings.SESSION_COOKIE_NAME,
        path=settings.SESSION_COOKIE_PATH,
        domain=settings.SESSION_COOKIE_DOMAIN,
        samesite=settings.SESSION_COOKIE_SAMESITE,
    )


def _outage(session: SessionStore, response: HttpResponseBase) -> bool:
    """Whether a store that was down led to this error, whichever layer raised."""
    return bool(session.outage) and response.status_code >= 500
