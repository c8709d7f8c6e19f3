"""``manage.py check``: what can be seen to be wrong before the first request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .conf import DEFAULTS, conf
from .cookies import refusals
from .signing import project_secrets
from .strategies import get_strategy

ENGINE = "django_strategy_sessions.engine"
APP = "django_strategy_sessions"
MIDDLEWARE = "django_strategy_sessions.middleware.SessionMiddleware"


@checks.register(Tags.security)
def check_sessions(**kwargs: Any) -> list[CheckMessage]:
    return [*_secrets(), *_ages_and_sizes(), *_cookie(), *_strategy(), *_project()]


def _secrets() -> Iterator[CheckMessage]:
    try:
        project_secrets()
    except ImproperlyConfigured as error:
        yield Error(
            str(error),
            hint='SESSION_COOKIE_SECRETS = [os.environ["SESSION_SECRET"]]'
            "  # made by: python -c 'import secrets; print(secrets.token_urlsafe(48))'",
            id="strategy_sessions.E001",
        )


def _ages_and_sizes() -> Iterator[CheckMessage]:
    age = conf.SESSION_ABSOLUTE_AGE
    if age is not None and (isinstance(age, bool) or not isinstance(age, (int, float)) or age <= 0):
        yield Error(
            "SESSION_ABSOLUTE_AGE must be a number of seconds above zero, or None.",
            hint="SESSION_ABSOLUTE_AGE = 60 * 60 * 24 * 30  # thirty days",
            id="strategy_sessions.E002",
        )
    size = conf.SESSION_MAX_SIZE
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        yield Error(
            "SESSION_MAX_SIZE must be a number of bytes above zero.",
            hint="SESSION_MAX_SIZE = 1024 * 1024  # 1 MiB",
            id="strategy_sessions.E003",
        )


def _strategy() -> Iterator[CheckMessage]:
    try:
        strategy = get_strategy()
    except ImproperlyConfigured as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        yield Error(
            f"{error}{cause}",
            hint=f'SESSION_STRATEGY = "{DEFAULTS["SESSION_STRATEGY"]}"',
            id="strategy_sessions.E004",
        )
        return
    if not strategy.atomic:
        yield checks.Warning(
            f"{type(strategy).__name__} is not atomic: concurrent requests can lose each other's"
            " changes, and a save can undo a logout.",
            hint="Override merge() and rotate(), prove them with testing.AtomicStrategyContract,"
            " and set `atomic = True` in the class.",
            id="strategy_sessions.W001",
        )
    yield from strategy.check()


def _cookie() -> Iterator[CheckMessage]:
    """What makes browsers throw the cookie away, so that nobody can log in (RFC 6265bis, 5.7)."""
    name, samesite = settings.SESSION_COOKIE_NAME, settings.SESSION_COOKIE_SAMESITE
    for attribute, reason in refusals(
        name,
        secure=settings.SESSION_COOKIE_SECURE,
        path=settings.SESSION_COOKIE_PATH,
        domain=settings.SESSION_COOKIE_DOMAIN,
        same_site=str(samesite) if samesite else "",
        partitioned=conf.SESSION_COOKIE_PARTITIONED,
    ):
        number, hint = _REFUSED[attribute]
        yield Error(
            f"The cookie {name!r} {reason}: browsers refuse it.",
            hint=hint,
            id=f"strategy_sessions.{number}",
        )


_SECURE = "SESSION_COOKIE_SECURE = True"
_REFUSED = {
    "secure": ("E005", _SECURE),
    "path": ("E006", 'SESSION_COOKIE_DOMAIN = None\nSESSION_COOKIE_PATH = "/"'),
    "same_site": ("E007", _SECURE),
    "partitioned": ("E008", _SECURE),
}


def _project() -> Iterator[CheckMessage]:
    if settings.SESSION_ENGINE != ENGINE:
        yield checks.Warning(
            f"The app {APP!r} is installed, but SESSION_ENGINE is {settings.SESSION_ENGINE!r}.",
            hint=f'SESSION_ENGINE = "{ENGINE}"',
            id="strategy_sessions.W002",
        )
    for path in settings.MIDDLEWARE:
        try:
            found = import_string(path)
        except ImportError:
            continue  # Django will say so
        if isinstance(found, type) and issubclass(found, SessionMiddleware):
            return
    yield checks.Warning(
        "No SessionMiddleware is in MIDDLEWARE: requests have no session.",
        hint=f'MIDDLEWARE = [\n    "{MIDDLEWARE}",\n    *MIDDLEWARE,\n]',
        id="strategy_sessions.W003",
    )
