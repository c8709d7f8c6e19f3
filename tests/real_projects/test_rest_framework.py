"""Django REST framework: its log-in page, its session authentication and its check of CSRF."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

pytestmark = pytest.mark.usefixtures("strategy", "middleware")


@pytest.fixture
def client(transactional_db):
    """A browser that has logged in through the browsable API."""
    get_user_model().objects.create_user("ada", password="secret")
    client = Client(enforce_csrf_checks=True)
    page = "/api/auth/login/"
    client.get(page)
    form = {"username": "ada", "password": "secret", "csrfmiddlewaretoken": token(client)}
    response = client.post(f"{page}?next=/api/cart/", form)
    assert response.headers["Location"] == "/api/cart/"
    return client


def token(client):
    return client.cookies["csrftoken"].value


def add(client, item, **headers):
    data = {"item": item}
    return client.post("/api/cart/", data, "application/json", headers=headers)


def test_the_api_is_closed_to_visitors(transactional_db):
    assert Client().get("/api/cart/").status_code == 403


def test_the_browsable_api_shows_who_is_logged_in(client):
    page = client.get("/api/cart/", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "ada" in page.text


def test_a_call_with_the_csrf_token_writes_to_the_session_and_one_without_is_refused(client):
    assert add(client, "tea").status_code == 403
    assert add(client, "tea", **{"x-csrftoken": token(client)}).json() == ["tea"]
    assert add(client, "pot", **{"x-csrftoken": token(client)}).json() == ["tea", "pot"]
    assert client.get("/api/cart/").json() == ["tea", "pot"]


def test_a_logout_closes_the_api_to_every_copy_of_the_cookie(client):
    copy = Client(headers={"cookie": f"sessionid={client.cookies['sessionid'].value}"})
    assert copy.get("/api/cart/").status_code == 200
    client.post("/api/auth/logout/", {"csrfmiddlewaretoken": token(client)})
    assert client.get("/api/cart/").status_code == 403
    assert copy.get("/api/cart/").status_code == 403
