"""System checks: mistakes that can be found before the first request."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags
from django.core.checks.security import sessions as djangos
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .conf import DEFAULTS, conf
from .cookies import refusals
from .signing import MAKE_SECRET, SHORTEST_SECRET, project_secrets
from .strategies import get_strategy
from .strategies.database_health import NOT_MIGRATED
from .strategies.health import examine

ENGINE = "django_strategy_sessions.engine"
APP = "django_strategy_sessions"
DISTRIBUTION = "django-strategy-sessions"
MIDDLEWARE = "django_strategy_sessions.middleware.SessionMiddleware"


@checks.register(Tags.security)
def check_sessions(**kwargs: Any) -> list[CheckMessage]:
    return [
        *_check_secrets(),
        *_check_ages_and_sizes(),
        *_check_users(),
        *_check_cookie(),
        *_check_strategy(),
        *_check_project(),
    ]


@checks.register(Tags.security, deploy=True)
def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    return [
        *_check_shared(),
        *_check_contrib_sessions(),
        *_check_cookie_is_protected(),
        *_check_ages_agree(),
    ]


@checks.register(Tags.database)
def check_databases(databases: Collection[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Ask the store if it is one of `databases`, as ``migrate`` does before it makes the table."""
    if not databases:
        return []
    try:
        strategy = get_strategy()
    except ImproperlyConfigured:
        return []  # _check_strategy() reports this
    return [message for message in examine(strategy, databases) if message.id != NOT_MIGRATED]


def _check_secrets() -> Iterator[CheckMessage]:
    try:
        secrets = project_secrets()
    except ImproperlyConfigured as error:
        yield Error(
            str(error),
            hint='SESSION_COOKIE_SECRETS = [os.environ["SESSION_SECRET"]]'
            f"  # made by: {MAKE_SECRET}",
            id="strategy_sessions.E001",
        )
        return
    # SESSION_COOKIE_SECRETS refuses short secrets itself.
    if len(secrets[0]) < SHORTEST_SECRET:
        yield checks.Warning(
            f"SECRET_KEY signs the sessions' keys and is shorter than {SHORTEST_SECRET} bytes.",
            hint=f'SECRET_KEY = os.environ["SECRET_KEY"]  # made by: {MAKE_SECRET}',
            id="strategy_sessions.W007",
        )
    elif any(len(secret) < SHORTEST_SECRET for secret in secrets):
        yield checks.Warning(
            "SECRET_KEY_FALLBACKS has a secret that verifies the sessions' keys and is shorter than"
            f" {SHORTEST_SECRET} bytes.",
            hint="SECRET_KEY_FALLBACKS = []  # when SESSION_COOKIE_AGE has passed since the change",
            id="strategy_sessions.W007",
        )


def _check_ages_and_sizes() -> Iterator[CheckMessage]:
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


def _check_users() -> Iterator[CheckMessage]:
    limit = conf.SESSION_LIMIT_PER_USER
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        yield Error(
            "SESSION_LIMIT_PER_USER must be a number of sessions, at least 1, or None.",
            hint="SESSION_LIMIT_PER_USER = 5",
            id="strategy_sessions.E014",
        )
    if not isinstance(conf.SESSION_SIGN_INS, bool):
        yield Error(
            "SESSION_SIGN_INS must be True or False.",
            hint="SESSION_SIGN_INS = True",
            id="strategy_sessions.E015",
        )
    path = conf.SESSION_SIGN_IN_ADDRESS
    if path is None:
        return
    try:
        usable = callable(import_string(path))
    except (ImportError, AttributeError, TypeError):
        usable = False
    if not usable:
        yield Error(
            "SESSION_SIGN_IN_ADDRESS must be the dotted path of a function that takes a request.",
            hint="SESSION_SIGN_IN_ADDRESS = None  # takes REMOTE_ADDR",
            id="strategy_sessions.E016",
        )


def _check_strategy() -> Iterator[CheckMessage]:
    try:
        strategy = get_strategy()
    except ImproperlyConfigured as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        yield Error(
            f"{error}{cause}",
            hint=_hint_at_driver(error.__cause__)
            or getattr(error, "hint", None)
            or f'SESSION_STRATEGY = "{DEFAULTS["SESSION_STRATEGY"]}"',
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


def _hint_at_driver(error: BaseException | None) -> str | None:
    """Return the command that installs the driver that a strategy could not import."""
    if not isinstance(error, ImportError):
        return None
    # psycopg alone is not enough: it also needs libpq, which psycopg[binary] contains.
    root = "psycopg" if "pq wrapper" in str(error) else (error.name or "").partition(".")[0]
    return _DRIVERS.get(root)


_REDIS = f'pip install "{DISTRIBUTION}[redis]"'
_DRIVERS = {
    "django_redis": _REDIS,
    "psycopg": f'pip install "{DISTRIBUTION}[postgres]" "psycopg[binary]"',
    "redis": _REDIS,
}


def _check_cookie() -> Iterator[CheckMessage]:
    old_names = conf.SESSION_COOKIE_NAME_FALLBACKS
    if not isinstance(old_names, (list, tuple)) or not all(
        isinstance(name, str) and name for name in old_names
    ):
        yield Error(
            "SESSION_COOKIE_NAME_FALLBACKS must be a list of names.",
            hint='SESSION_COOKIE_NAME_FALLBACKS = ["sessionid"]',
            id="strategy_sessions.E012",
        )
    elif settings.SESSION_COOKIE_NAME in old_names:
        others = [name for name in old_names if name != settings.SESSION_COOKIE_NAME]
        yield Error(
            "SESSION_COOKIE_NAME_FALLBACKS holds the present SESSION_COOKIE_NAME: the cookie would"
            " be removed as soon as it is set.",
            hint=f"SESSION_COOKIE_NAME_FALLBACKS = {json.dumps(others)}",
            id="strategy_sessions.E012",
        )
    if not isinstance(conf.SESSION_COOKIE_PARTITIONED, bool):
        yield Error(
            "SESSION_COOKIE_PARTITIONED must be True or False.",
            hint="SESSION_COOKIE_PARTITIONED = True",
            id="strategy_sessions.E013",
        )
        return
    yield from _check_browsers_accept_cookie()


def _check_browsers_accept_cookie() -> Iterator[CheckMessage]:
    """Report why browsers would discard the cookie, so that nobody can log in."""
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


def _check_project() -> Iterator[CheckMessage]:
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
            continue  # Django reports this itself
        if isinstance(found, type) and issubclass(found, SessionMiddleware):
            return
    yield checks.Warning(
        "No SessionMiddleware is in MIDDLEWARE: requests have no session.",
        hint=f'MIDDLEWARE = [\n    "{MIDDLEWARE}",\n    *MIDDLEWARE,\n]',
        id="strategy_sessions.W003",
    )


def _check_shared() -> Iterator[CheckMessage]:
    try:
        strategy = get_strategy()
    except ImproperlyConfigured:
        return  # _check_strategy() reports this
    if not strategy.is_shared:
        yield checks.Warning(
            f"{type(strategy).__name__} keeps sessions in one process: other workers see none of"
            " them, and they end with the process.",
            hint=f'SESSION_STRATEGY = "{DEFAULTS["SESSION_STRATEGY"]}"',
            id="strategy_sessions.W008",
        )


def _check_contrib_sessions() -> Iterator[CheckMessage]:
    # Under --deploy only, because every new project has the app and other apps may import its
    # model. While its sessions move, it has to stay.
    if (
        settings.SESSION_ENGINE == ENGINE
        and apps.is_installed("django.contrib.sessions")
        and not _moves_from_engine()
    ):
        yield checks.Warning(
            "django.contrib.sessions is installed, but its Session model holds none of the"
            " sessions: code that deletes its rows to end sessions ends none.",
            hint='INSTALLED_APPS.remove("django.contrib.sessions")\n'
            "# or, if no code relies on it:\n"
            'SILENCED_SYSTEM_CHECKS = ["strategy_sessions.W009"]',
            id="strategy_sessions.W009",
        )


def _moves_from_engine() -> bool:
    try:
        return getattr(get_strategy(), "engine", None) is not None
    except ImproperlyConfigured:
        return False


def _check_cookie_is_protected() -> Iterator[CheckMessage]:
    # Django's checks speak only if its app is installed or its middleware is listed.
    if settings.SESSION_COOKIE_SECURE is not True and not djangos.check_session_cookie_secure(None):
        yield checks.Warning(
            "SESSION_COOKIE_SECURE is not True: browsers also send the session's cookie over"
            " unencrypted HTTP, where others can read it.",
            hint=_SECURE,
            id="strategy_sessions.W010",
        )
    if settings.SESSION_COOKIE_HTTPONLY is not True and not djangos.check_session_cookie_httponly(
        None
    ):
        yield checks.Warning(
            "SESSION_COOKIE_HTTPONLY is not True: a script that was smuggled into a page can read"
            " the session's cookie.",
            hint="SESSION_COOKIE_HTTPONLY = True",
            id="strategy_sessions.W011",
        )


def _check_ages_agree() -> Iterator[CheckMessage]:
    longest, age = conf.SESSION_ABSOLUTE_AGE, settings.SESSION_COOKIE_AGE
    known = isinstance(longest, (int, float)) and isinstance(age, (int, float))
    if known and longest is not None and 0 < longest < age:
        yield checks.Warning(
            f"SESSION_COOKIE_AGE, {age:,} seconds, has no effect: SESSION_ABSOLUTE_AGE ends every"
            f" session after {longest:,}.",
            hint=f"SESSION_COOKIE_AGE = {longest}  # or less",
            id="strategy_sessions.W012",
        )
