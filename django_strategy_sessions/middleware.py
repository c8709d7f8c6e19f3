"""Django's session middleware, with native async code and safer cookies.

If the store is down, the response is a 503 and the client keeps its cookie. Cookie settings and
``Vary`` work as in Django.
"""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from .conf import conf
from .cookies import Cookie, sent_values
from .engine import SessionStore
from .steps import Steps, arun, call, run
from .strategies.base import StrategyUnavailable
from .unavailable import as_unavailable


class SessionMiddleware(DjangoSessionMiddleware):
    """Serve our engine. For any other ``SESSION_ENGINE``, act as Django's middleware does."""

    def process_request(self, request: HttpRequest) -> None:
        if not issubclass(self.SessionStore, SessionStore):
            super().process_request(request)
            return
        names = (settings.SESSION_COOKIE_NAME, *conf.SESSION_COOKIE_NAME_FALLBACKS)
        cookies = [(name, key) for name in names for key in sent_values(request, name)]
        request.session = self.SessionStore.of_cookies(cookies)

    def process_response(  # type: ignore[override]  # django-stubs leave out streaming responses
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore):  # other code replaced it, or removed it
            return super().process_response(request, response)  # type: ignore[arg-type]
        try:
            run(session, _finish(request, session, response))
        except StrategyUnavailable as error:
            response = response_for_exception(request, error)
            run(session, _finish(request, session, response))
        return as_unavailable(request, response) if _is_outage(session, response) else response

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self.process_request(request)
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore):
            return await sync_to_async(super().process_response)(request, response)  # type: ignore[arg-type]
        try:
            await arun(session, _finish(request, session, response))
        except StrategyUnavailable as error:
            in_thread = sync_to_async(response_for_exception, thread_sensitive=False)
            response = await in_thread(request, error)
            await arun(session, _finish(request, session, response))
        if _is_outage(session, response):
            explain = sync_to_async(as_unavailable, thread_sensitive=False)
            return await explain(request, response)
        return response


def _finish(request: HttpRequest, session: SessionStore, response: HttpResponseBase) -> Steps[None]:
    """Save what changed, then set or delete the cookie. The steps run on the session."""
    accessed, failed = session.accessed, response.status_code >= 500
    yield from call(SessionStore.take_back)
    if settings.SESSION_SAVE_EVERY_REQUEST and session.session_key and not failed:
        yield from call(SessionStore.confirm)  # a save must not recreate a session that is gone
    if accessed:
        patch_vary_headers(response, ("Cookie",))
    old_names = [
        name
        for name in conf.SESSION_COOKIE_NAME_FALLBACKS
        if name in request.COOKIES and (accessed or session.flushed)
    ]
    if session.is_empty():
        ended = session.flushed and not session.outage
        # A cookie that verifies stays, because its session may come back when someone restores a
        # backup or corrects a clock.
        if ended or not session.was_given:
            for name in (settings.SESSION_COOKIE_NAME, *old_names):
                if name in request.COOKIES:
                    _delete_cookie(response, name)
    elif failed:
        # A failed request is not saved. But after a rotation only the new key finds the session.
        if accessed and session.has_moved and (yield from _exists_now(session)):
            yield from _set_cookie(session, response)
    elif ((modified := session.modified) or settings.SESSION_SAVE_EVERY_REQUEST or old_names) and (
        yield from _save(session, modified)
    ):
        yield from _set_cookie(session, response)
        for name in old_names:
            _delete_cookie(response, name)


def _save(session: SessionStore, modified: bool) -> Steps[bool]:
    """Save the session. Return whether the response may send its key."""
    try:
        yield from call(SessionStore.save)
    except UpdateError as error:
        if not modified:
            return False  # only a renewal, so nothing is lost
        raise SessionInterrupted(
            "The request's session was deleted before the request completed."
            " The user may have logged out in a concurrent request, for example."
        ) from error
    return not session.is_elsewhere


def _exists_now(session: SessionStore) -> Steps[bool]:
    """Ask whether the store holds the session. False if the store cannot answer."""
    try:
        return (yield from call(SessionStore.is_kept))
    except StrategyUnavailable:
        return False


def _set_cookie(session: SessionStore, response: HttpResponseBase) -> Steps[None]:
    max_age = None
    if not (yield from call(SessionStore.get_expire_at_browser_close)):
        max_age = yield from call(SessionStore.get_cookie_age)
    _put_cookie(
        response,
        settings.SESSION_COOKIE_NAME,
        session.session_key or "",
        max_age=max_age,
        expires=None if max_age is None else http_date(time.time() + max_age),
        httponly=settings.SESSION_COOKIE_HTTPONLY,
    )


def _delete_cookie(response: HttpResponseBase, name: str) -> None:
    _put_cookie(response, name, "", max_age=0, expires=http_date(0))
    response.cookies[name].set(name, "", '""')  # as Django writes it


def _put_cookie(response: HttpResponseBase, name: str, value: str, **attributes: Any) -> None:
    patch_vary_headers(response, ("Cookie",))
    response.cookies[name] = Cookie(
        name,
        value,
        domain=settings.SESSION_COOKIE_DOMAIN,
        path=settings.SESSION_COOKIE_PATH,
        secure=settings.SESSION_COOKIE_SECURE,
        samesite=settings.SESSION_COOKIE_SAMESITE,
        partitioned=conf.SESSION_COOKIE_PARTITIONED,
        **attributes,
    )


def _is_outage(session: SessionStore, response: HttpResponseBase) -> bool:
    """Whether this error response follows an outage of the store, in whichever layer."""
    return bool(session.outage) and response.status_code >= 500
