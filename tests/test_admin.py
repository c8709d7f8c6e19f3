"""The admin shows whose sessions there are and ends them, and shows neither ids nor data."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession

LIST = "/admin/django_strategy_sessions/storedsession/"


@pytest.fixture
def staff(db):
    return get_user_model().objects.create_superuser("ada", password="secret")


@pytest.fixture
def client(staff):
    client = Client()
    client.force_login(staff)
    return client


@pytest.fixture
def session(db):
    session = SessionStore()
    session.update({"_auth_user_id": "4711", "canary": "CANARY"})
    session.save()
    return session


def test_the_list_shows_no_id_and_no_data(client, session):
    page = client.get(LIST).content.decode()
    assert "4711" in page
    assert "bytes" in page
    assert "CANARY" not in page
    assert session.session_key[:22] not in page
    assert StoredSession.objects.filter(owner="4711").get().data[:20] not in page


def test_an_owner_is_searched_exactly(client, session, staff):
    assert "4711" in client.get(f"{LIST}?q=4711").content.decode()
    assert "0 sessions" in client.get(f"{LIST}?q=471").content.decode()


def test_the_list_does_not_read_the_data(client, session):

    with CaptureQueriesContext(
        connection,
    ) as queries:
        client.get(LIST)
    listing = [q["sql"] for q in queries if "LENGTH" in q["sql"]]
    assert listing
    assert all('storedsession"."data",' not in sql.replace("LENGTH", "") for sql in listing)


def test_deleting_ends_the_session(client, session):
    row = StoredSession.objects.get(owner="4711")
    client.post(LIST, {"action": "delete_selected", "_selected_action": str(row.pk), "post": "yes"})
    assert SessionStore(session.session_key).get("canary") is None


def test_one_session_can_be_looked_at_but_not_changed(client, session):
    row = StoredSession.objects.get(owner="4711")
    page = client.get(f"{LIST}{row.pk}/change/").content.decode()
    assert "4711" in page
    assert "CANARY" not in page
    assert row.data[:20] not in page
    assert client.post(f"{LIST}{row.pk}/change/", {"owner": "1"}).status_code == 403
    assert client.get(f"{LIST}add/").status_code == 403


def test_rows_have_names_without_ids(session):
    row = StoredSession.objects.get(owner="4711")
    assert str(row) == "Session of 4711"
    assert str(StoredSession()) == "Anonymous session"
