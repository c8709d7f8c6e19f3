"""django-axes: it counts failed logins, locks out, and logs logins by the hash of their keys."""

from __future__ import annotations

import logging
from hashlib import sha256

import pytest
from axes.models import AccessLog
from axes.utils import reset
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client

from ..conftest import run_in_loop


@pytest.fixture(autouse=True)
def site(settings, strategy, middleware):
    logging.getLogger("axes").setLevel(logging.CRITICAL)
    settings.AXES_ENABLED = True
    settings.AXES_FAILURE_LIMIT = 3
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "axes.middleware.AxesMiddleware"]
    settings.AUTHENTICATION_BACKENDS = [
        "axes.backends.AxesStandaloneBackend",
        "django.contrib.auth.backends.ModelBackend",
    ]
    get_user_model().objects.create_superuser("ada", password="secret")


@pytest.fixture(params=["wsgi", "asgi"])
def browser(request):
    """Log in: with a password, on either server."""
    client = Client()
    client.get("/write/?name=cart")

    def log_in(password):
        page, form = "/admin/login/", {"username": "ada", "password": password}
        if request.param == "wsgi":
            return client.post(page, form)
        twin = AsyncClient()
        twin.cookies = client.cookies
        return run_in_loop(twin.post(page, form))

    return client, log_in


def test_a_browser_is_locked_out_and_keeps_its_session(browser):
    client, log_in = browser
    before = client.cookies["sessionid"].value
    statuses = [log_in("wrong").status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert log_in("secret").status_code == 429
    assert client.cookies["sessionid"].value == before
    assert client.get("/read/").json()["value"] == "cart"
    assert client.get("/whoami/").content == b""
    reset()
    assert log_in("secret").status_code == 302
    assert client.get("/whoami/").content == b"ada"
    assert client.get("/read/").json()["value"] == "cart"
    assert client.cookies["sessionid"].value != before


def test_a_login_and_its_logout_are_one_row_of_the_log(browser):
    """Which is found by the hash of the session's key."""
    client, log_in = browser
    log_in("secret")
    session_key = client.cookies["sessionid"].value
    row = AccessLog.objects.get()
    assert row.session_hash == sha256(session_key.encode()).hexdigest()
    assert row.logout_time is None
    client.get("/logout/")
    row.refresh_from_db()
    assert row.logout_time is not None
