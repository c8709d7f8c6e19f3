"""The 503 response while the store is down: the project's own page, or a plain one.

The project may set ``handler503`` in its root URLconf, like ``handler500``, or have a template
``503.html``, which is rendered without a context, like ``500.html``.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template import Context, Engine, Template, TemplateDoesNotExist, loader
from django.urls import get_callable, get_resolver, get_urlconf
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext, pgettext

logger: logging.Logger = logging.getLogger("django.request")
RETRY_AFTER = "10"  # seconds (RFC 9110, 10.2.3)
OWN_PAGE = Path(__file__).parent / "templates" / "django_strategy_sessions" / "503.html"


def as_unavailable(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Turn the error response that an outage caused into a 503."""
    is_page = response.headers.get("Content-Type", "").startswith("text/html")
    # A response that is already a 503, or JSON, comes from the project and keeps its body. With
    # DEBUG, developers need Django's traceback.
    if response.status_code == 500 and is_page and not settings.DEBUG:
        page = service_unavailable(request)
        for name, value in response.headers.items():
            if name not in {"Content-Type", "Content-Length", "Content-Encoding"}:
                page.headers.setdefault(name, value)
        page.cookies.update(response.cookies)
        response = page
    response.status_code = 503
    response.headers.setdefault("Retry-After", RETRY_AFTER)
    return response


def service_unavailable(request: HttpRequest) -> HttpResponse:
    """Return the 503 response to a request whose session could not be reached.

    Never raises, and reads neither the session nor a database.
    """
    try:
        response = _render_project_page(request)
    except Exception:
        logger.exception("The project's 503 page failed. Visitors get the plain one.")
        response = None
    if response is None:
        response = _make_plain_response(request)
    response.status_code = 503
    add_never_cache_headers(response)
    return response


def _render_project_page(request: HttpRequest) -> HttpResponse | None:
    urlconf = get_resolver(get_urlconf()).urlconf_module
    if handler := getattr(urlconf, "handler503", None):
        response: HttpResponse = get_callable(handler)(request)
        if not getattr(response, "is_rendered", True):
            response.render()  # type: ignore[attr-defined]  # a TemplateResponse
        return response
    if _wants_json(request):
        return None
    try:
        page = loader.get_template("503.html")
    except TemplateDoesNotExist:
        return None
    return HttpResponse(page.render())


def _make_plain_response(request: HttpRequest) -> HttpResponse:
    busy = gettext("This site is busy for a moment. Please try again in a few seconds.")
    signed_in = gettext("If you were signed in, you still are.")
    if _wants_json(request):
        return JsonResponse({"detail": f"{busy} {signed_in}"})
    context = {
        # The language of the texts below: English if we have no translation.
        "language": pgettext("code of the language of this translation", "en"),
        "title": gettext("Back in a moment"),
        "busy": busy,
        "signed_in": signed_in,
    }
    return HttpResponse(_own_page().render(Context(context)))


def _wants_json(request: HttpRequest) -> bool:
    try:
        preferred = request.get_preferred_type(["text/html", "application/json"])
    except (ValueError, LookupError):  # a header that Django cannot parse
        return False
    return preferred == "application/json"


@cache
def _own_page() -> Template:
    # A separate engine, because the project's may skip app directories or may not be Django's.
    return Engine().from_string(OWN_PAGE.read_text(encoding="utf-8"))
