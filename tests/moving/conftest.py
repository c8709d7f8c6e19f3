"""A site while its sessions move: releases side by side, each with settings of its own."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.test import Client, override_settings

from ..conftest import DJANGOS, OURS, POSTGRES, REDIS
from ..in_flight import ask

MOVING = "django_strategy_sessions.strategies.moving.MovingStrategy"
ENGINE = "django_strategy_sessions.engine"
OTHERS = "tests.moving.other_engine"
BACKENDS = "django.contrib.sessions.backends"
SOURCES = ["db", "cached_db", "cache", "file", "signed_cookies"]
TARGETS = {"postgres": POSTGRES, "redis": REDIS}


class Release:
    """What one release answers. All of them run in this process, one request at a time or one
    within another."""

    def __init__(self, **settings):
        self.settings = {"ROOT_URLCONF": "tests.in_flight", **settings}
        self.handler = None

    def ask(self, visitor, *steps):
        """A visitor's request, as `in_flight.ask` makes it."""
        with self:
            client = Client(raise_request_exception=False)
            if self.handler:
                client.handler = self.handler
            client.cookies = visitor.cookies
            answer = ask(client, *steps)
            self.handler = client.handler
            return answer

    def __enter__(self):
        self._settings = [*getattr(self, "_settings", ()), override_settings(**self.settings)]
        self._settings[-1].enable()
        return self

    def __exit__(self, *error):
        self._settings.pop().disable()


class Site:
    """`old`, `accept`, `move`, `done`: the releases. `middleware`: which one they run."""

    def __init__(self, source, target, middleware=OURS, **settings):
        def moving(step):
            options = {"source": source, "target": target, "step": step}
            return {"BACKEND": MOVING, "OPTIONS": options}

        ours = {"SESSION_ENGINE": ENGINE, "MIDDLEWARE": [middleware, *MIDDLEWARE], **settings}
        if isinstance(source, str) and source.startswith((BACKENDS, OTHERS)):
            old = {"SESSION_ENGINE": source, "MIDDLEWARE": [DJANGOS, *MIDDLEWARE], **settings}
        else:
            old = {"SESSION_STRATEGY": source, **ours}
        self.old = Release(**old)
        self.accept = Release(SESSION_STRATEGY=moving("accept"), **ours)
        self.move = Release(SESSION_STRATEGY=moving("move"), **ours)
        self.done = Release(SESSION_STRATEGY=target, **ours)


MIDDLEWARE = [
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]


class Router:
    """Sends the table of Django's engines to PostgreSQL."""

    def db_for_write(self, model, **hints):
        return "postgres" if model._meta.app_label == "sessions" else None

    db_for_read = db_for_write


class Visitor:
    def __init__(self, cookies=None):
        client = Client()
        if cookies:
            client.cookies = cookies
        self.cookies = client.cookies

    def twin(self):
        """Another tab, whose requests leave before the answers to this one arrive."""
        twin = Visitor()
        twin.cookies.load(self.cookies.output(header="", sep=";"))
        return twin

    @property
    def key(self):
        cookie = self.cookies.get("sessionid")
        return cookie.value if cookie is not None and cookie.value else None


@pytest.fixture(params=TARGETS)
def target(request):
    return TARGETS[request.param]


@pytest.fixture(params=SOURCES)
def source(request):
    return f"{BACKENDS}.{request.param}"


@pytest.fixture
def stores(settings, tmp_path):
    """Where the old engines keep their sessions."""
    settings.SESSION_CACHE_ALIAS = "sessions"
    settings.SESSION_FILE_PATH = str(tmp_path)
    yield
    caches["sessions"].clear()


@pytest.fixture
def site(source, target, stores):
    return Site(source, target)


@pytest.fixture
def visitor():
    return Visitor()


@pytest.fixture
def user(db):
    return User.objects.create_user("ann", password="secret")
