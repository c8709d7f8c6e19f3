"""The admin shows whose sessions there are and ends them, and shows neither ids nor data."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
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


def test_an_owner_is_searched_by_name(client, session, staff):
    assert "1 session" in client.get(f"{LIST}?q=ada").content.decode()
    assert "0 sessions" in client.get(f"{LIST}?q=ad").content.decode()


def test_the_list_links_to_each_session_and_to_its_user(client, staff):
    row = StoredSession.objects.get(owner=str(staff.pk))
    page = client.get(LIST).content.decode()
    assert f'href="{LIST}{row.pk}/change/' in page
    user = f'<a href="/admin/auth/user/{staff.pk}/change/">ada</a>'
    assert user in page
    assert user in client.get(f"{LIST}{row.pk}/change/").content.decode()


def test_a_users_name_is_escaped_and_an_anonymous_session_has_none(client, staff):
    staff.username = "<b>ada</b>"
    staff.save()
    SessionStore().create()
    page = client.get(LIST).content.decode()
    assert "<b>ada" not in page
    assert '<td class="field-user">-</td>' in page


def test_staff_without_permission_to_view_users_get_no_link_to_them(db, staff, session):
    clerk = get_user_model().objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_storedsession"))
    client = Client()
    client.force_login(clerk)
    page = client.get(LIST).content.decode()
    assert '<td class="field-user">clerk</td>' in page
    assert "/admin/auth/user/" not in page


@pytest.mark.parametrize("owner", ["a uuid of an earlier user model", "9" * 30, "-1"])
def test_an_owner_that_matches_no_user_is_shown_as_stored(client, session, owner):
    StoredSession.objects.update(owner=owner)
    client.force_login(get_user_model().objects.get())
    assert owner in client.get(LIST).content.decode()


def test_all_users_of_a_page_cost_one_query(client, staff):
    def queries():
        with CaptureQueriesContext(connection) as captured:
            client.get(LIST)
        return len(captured)

    few = queries()
    for number in range(20):
        session = SessionStore()
        user = get_user_model().objects.create_user(f"visitor{number}")
        session["_auth_user_id"] = str(user.pk)
        session.save()
    assert "visitor19" in client.get(LIST).content.decode()
    assert queries() == few


def test_the_list_does_not_read_the_data(client, session):
    with CaptureQueriesContext(connection) as queries:
        client.get(LIST)
    listing = [q["sql"] for q in queries if "LENGTH" in q["sql"]]
    assert listing
    shown = [sql.partition("WHERE")[0].replace("LENGTH", "") for sql in listing]
    assert all('storedsession"."data",' not in sql for sql in shown)


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


def test_the_marker_of_a_rotation_is_not_listed(client, session):
    before = client.get(LIST).context["cl"].result_count
    session.cycle_key()
    assert StoredSession.objects.filter(owner=None).exists()  # the marker
    assert client.get(LIST).context["cl"].result_count == before
