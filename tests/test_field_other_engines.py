"""Under our middleware another engine works as it does under Django's.

Suites that switch engines meet this, and a site that goes back to the engine it had.
"""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangosMiddleware
from django.http import HttpResponse
from django.test import Client, RequestFactory
from sessions_tests import tests as django_tests

from django_strategy_sessions.middleware import SessionMiddleware

from .conftest import DJANGOS, OURS
from .in_flight import LOADED, MODIFIED, ask

servers = pytest.mark.parametrize("server", ["wsgi", "asgi"])
BACKENDS = "django.contrib.sessions.backends"


@pytest.fixture(params=["db", "cached_db", "cache", "file", "signed_cookies"])
def engine(request, settings, transactional_db, tmp_path):
    settings.SESSION_ENGINE = f"{BACKENDS}.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.ROOT_URLCONF = "tests.in_flight"
    return request.param


@pytest.fixture
def ada(transactional_db):
    return get_user_model().objects.create_user("ada", password="secret")


def answers(settings, middleware, server):
    """A visit, and all that its responses say, but for what is random in it."""
    settings.MIDDLEWARE = [middleware, *settings.MIDDLEWARE[1:]]
    client, told = Client(raise_request_exception=False), []

    def visit(*steps):
        response = ask(client, *steps, server=server)
        cookie = response.cookies["sessionid"].OutputString() if response.cookies else ""
        cookie = re.sub(r"sessionid=[^;\"]+|expires=[^;]+", "", cookie)
        told.append((response.status_code, response.seen, response.get("Vary"), cookie))

    def page(path):
        response = client.get(path)
        told.append((response.status_code, response.content, sorted(response.cookies)))

    visit()
    visit(("get", "name"))
    visit(("update", {"name": "cart"}))
    visit(("get", "name"))
    visit(MODIFIED)
    page("/login/" if server == "wsgi" else "/alogin/")
    page("/whoami/")
    visit(("get", "name"), ("set_expiry", 5000))
    visit(("get_expiry_age",), ("update", {"more": 1}), lambda _r: HttpResponse(status=500))
    visit(("get", "more"))
    settings.SESSION_SAVE_EVERY_REQUEST = True
    visit()
    settings.SESSION_SAVE_EVERY_REQUEST = False
    page("/logout/" if server == "wsgi" else "/alogout/")
    page("/whoami/")
    visit(("get", "name"))
    client.cookies["sessionid"] = "forged"
    visit(("get", "name"))
    return told


@servers
def test_another_engine_answers_as_under_djangos_middleware(engine, ada, settings, server):
    expected = answers(settings, DJANGOS, server)
    assert (200, b"ada", []) in expected
    assert answers(settings, OURS, server) == expected


@servers
@pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "file"], indirect=True)
def test_a_logout_elsewhere_interrupts_a_save_of_another_engine(engine, ada, settings, server):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    client = Client()
    client.get("/login/")

    def log_out(_request):
        client.get("/logout/")

    response = ask(client, LOADED, log_out, ("update", {"late": 1}), server=server)
    assert response.status_code == 400
    assert "sessionid" not in response.cookies
    assert client.get("/whoami/").content == b""


def test_the_way_back_is_the_engine_from_before(ada, settings):
    """With our middleware left in its place. The other engine can use no cookie of ours."""
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    ours, client = settings.SESSION_ENGINE, Client()
    for engine in (ours, f"{BACKENDS}.db", ours):
        settings.SESSION_ENGINE = engine
        client, before = Client(), client  # a process that has the new settings
        client.cookies = before.cookies
        assert client.get("/whoami/").content == b""
        client.get("/login/")
        assert client.get("/whoami/").content == b"ada"


def test_the_engine_may_be_switched_for_one_test(settings, transactional_db):
    """As suites do with `override_settings`: the middleware is made anew."""
    settings.SESSION_ENGINE = f"{BACKENDS}.db"

    def view(request):
        request.session.save(must_create=True)
        request.session.delete()
        request.session["late"] = 1
        return HttpResponse()

    with pytest.raises(SessionInterrupted):
        SessionMiddleware(view)(RequestFactory().get("/"))
    with pytest.raises(SessionInterrupted):
        DjangosMiddleware(view)(RequestFactory().get("/"))


class DjangosTestsWithDjangosEngine(django_tests.SessionMiddlewareTests):
    """Django's own tests of its middleware and its database, over our middleware."""

    def setUp(self):
        name = "SessionMiddleware"
        self.addCleanup(setattr, django_tests, name, getattr(django_tests, name))
        setattr(django_tests, name, SessionMiddleware)
        self.enterContext(self.settings(SESSION_ENGINE=f"{BACKENDS}.db"))
