"""django-hijack: a superuser becomes another user, and comes back."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client

from django_strategy_sessions import end_sessions, sessions_of
from django_strategy_sessions.engine import SessionStore

from ..conftest import run_in_loop


@pytest.fixture(autouse=True)
def site(settings, strategy, middleware):
    settings.LOGIN_REDIRECT_URL = settings.LOGOUT_REDIRECT_URL = "/whoami/"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "hijack.middleware.HijackUserMiddleware"]


@pytest.fixture(params=["wsgi", "asgi"])
def browser(request, site):
    """One in which ada has logged in, and its way to send forms."""
    get_user_model().objects.create_superuser("ada", password="secret")
    client = Client()
    client.get("/login/")

    def post(page, **form):
        if request.param == "wsgi":
            return client.post(page, form)
        twin = AsyncClient()
        twin.cookies = client.cookies
        return run_in_loop(twin.post(page, form))

    return client, post


@pytest.fixture
def bob(site):
    return get_user_model().objects.create_user("bob", password="secret")


def key(client):
    return client.cookies["sessionid"].value


def test_a_superuser_becomes_another_user_and_comes_back(browser, bob):
    client, post = browser
    client.get("/write/?name=of-ada")
    of_ada = key(client)
    assert post("/hijack/acquire/", user_pk=bob.pk).status_code == 302
    assert client.get("/whoami/").content == b"bob"
    assert client.get("/read/").json()["value"] is None
    assert not SessionStore().exists(of_ada)
    page = client.get("/admin/login/")
    assert b"djhj" in page.content, "the notification of the middleware"
    of_bob = key(client)
    assert post("/hijack/release/").status_code == 302
    assert client.get("/whoami/").content == b"ada"
    assert not SessionStore().exists(of_bob)


def test_the_session_is_found_under_both_users_while_one_is_the_other(browser, bob):
    client, post = browser
    ada = get_user_model().objects.get(username="ada")
    post("/hijack/acquire/", user_pk=bob.pk)
    (of_ada,), (of_bob,) = sessions_of(ada), sessions_of(bob)
    assert of_ada.reference == of_bob.reference
    assert of_bob.is_impersonated
    post("/hijack/release/")
    assert [one.is_impersonated for one in sessions_of(ada)] == [False]
    assert sessions_of(bob) == []
    post("/hijack/acquire/", user_pk=bob.pk)
    assert end_sessions(ada) == 1
    assert client.get("/whoami/").content == b""


def test_a_user_may_not_become_another(browser, bob):
    client, post = browser
    client.force_login(bob)
    ada = get_user_model().objects.get(username="ada")
    assert post("/hijack/acquire/", user_pk=ada.pk).status_code in (302, 403)
    assert client.get("/whoami/").content == b"bob"


def test_a_logout_while_hijacked_logs_both_out(browser, bob):
    client, post = browser
    post("/hijack/acquire/", user_pk=bob.pk)
    ended = key(client)
    client.get("/logout/")
    assert not SessionStore().exists(ended)
    assert client.get("/whoami/").content == b""
    assert post("/hijack/release/").status_code in (302, 403)
    assert client.get("/whoami/").content == b""
