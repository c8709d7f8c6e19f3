"""django-debug-toolbar: it shows the session of the request, and takes nothing out of it."""

from __future__ import annotations

import re

import pytest
from django.test import AsyncClient, Client

from ..conftest import run_in_loop


@pytest.fixture(autouse=True)
def site(settings, strategy, middleware):
    toolbar = "debug_toolbar.middleware.DebugToolbarMiddleware"
    settings.MIDDLEWARE = [toolbar, *settings.MIDDLEWARE]


@pytest.fixture
def client(site):
    """A visitor with a cart, and an unread flash."""
    client = Client()
    client.get("/write/?name=in-the-cart")
    client.get("/flash/")
    yield client
    assert client.get("/read/").json()["value"] == "in-the-cart"
    assert client.get("/show/").json() == {"seen": ["saved", "saved"]}


def test_the_toolbar_shows_the_session_and_consumes_nothing(client):
    page = client.get("/admin/login/")
    found = re.search(r'id="djDebug".*?data-request-id="(\w+)"', page.text, re.DOTALL)
    panel = {"request_id": found[1], "panel_id": "RequestPanel"}
    content = client.get("/__debug__/render_panel/", panel).json()["content"]
    assert "in-the-cart" in content
    assert "__flash_notice__" in content
    assert "sessionid" not in page.cookies


def test_the_toolbar_works_on_asgi(client):
    """Without the panel that shows the session, which works on WSGI alone."""
    twin = AsyncClient()
    twin.cookies = client.cookies
    page = run_in_loop(twin.get("/admin/login/"))
    assert 'id="djDebug"' in page.text
    assert "sessionid" not in page.cookies
