"""The admin shows whose sessions there are and ends them, and shows neither ids nor data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_strategy_sessions import records
from django_strategy_sessions.admin import SessionPaginator, StoredSessionAdmin
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import get_strategy

from .conftest import POSTGRES, in_postgres
from .test_users import FIREFOX, login_request

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


def sessions():
    """All but the markers of rotations."""
    return StoredSession.objects.exclude(data__startswith=records.MOVED)


def found(page):
    return set(page.context["cl"].result_list)


def test_a_user_is_found_by_the_e_mail_address(client, session, staff):
    staff.email = "ada@example.com"
    staff.save()
    own = StoredSession.objects.get(owner=str(staff.pk))
    assert found(client.get(f"{LIST}?q=ada@example.com")) == {own}
    assert found(client.get(f"{LIST}?q=ada@example")) == set()


def test_impersonation_shows_both_users_and_is_found_by_either(client, staff):
    user = get_user_model().objects.create_user("grace")
    session = SessionStore()
    session.update({"_auth_user_id": str(user.pk), "hijack_history": [str(staff.pk)]})
    session.save()
    row = StoredSession.objects.get(owner=str(user.pk))
    assert found(client.get(f"{LIST}?q=grace")) == {row}
    page = client.get(f"{LIST}?q=ada")
    assert row in found(page)
    link = '<a href="/admin/auth/user/{}/change/">{}</a>'
    names = [link.format(one.pk, one) for one in (user, staff)]
    assert ", impersonated by ".join(names) in page.content.decode()


def test_the_list_is_narrowed_to_live_expired_signed_in_or_anonymous(client, session, staff):
    SessionStore().create()
    get_strategy().insert({"_auth_user_id": "4712"}, datetime.now(UTC) - timedelta(seconds=1))
    rows = sessions()
    expired = rows.filter(expires__lte=datetime.now(UTC))
    assert found(client.get(f"{LIST}?state=expired")) == set(expired)
    assert found(client.get(f"{LIST}?state=live")) == set(rows.all()) - set(expired)
    assert found(client.get(f"{LIST}?user=anonymous")) == set(rows.filter(owner=None))
    assert found(client.get(f"{LIST}?user=signed-in")) == set(rows.exclude(owner=None))
    assert len(expired) == len(rows.filter(owner=None)) == 1


def test_no_count_reads_the_whole_table(client, session):
    for query in ("", "?state=live", "?q=ada", "?_facets=True", "?all="):
        with CaptureQueriesContext(connection) as queries:
            assert client.get(LIST + query).status_code == 200
        counts = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
        assert counts
        assert all(sql.endswith("LIMIT 10001) subquery") for sql in counts), counts
        assert not any("ORDER BY" in sql or "LENGTH" in sql for sql in counts)


def test_a_list_that_is_not_counted_to_its_end_says_so(client, session, monkeypatch):
    monkeypatch.setattr(SessionPaginator, "most", 3)
    monkeypatch.setattr("django_strategy_sessions.admin.StoredSessionAdmin.list_per_page", 2)
    SessionStore().create()  # the third
    page = client.get(LIST).content.decode()
    assert "3 sessions" in page
    assert "There are more" not in page
    assert "Select all 3" in page
    SessionStore().create()
    page = client.get(LIST)
    assert page.context["cl"].result_count == 3
    assert "There are more" in page.content.decode()
    assert "Select all 3" not in page.content.decode()
    assert 'class="action-counter"' in page.content.decode()  # the page's script needs it
    assert len(found(client.get(f"{LIST}?p=2"))) == 1


# -- ending ----------------------------------------------------------------------------------------


@pytest.fixture
def visitor(db):
    return get_user_model().objects.create_user("visitor")


def sign_in(user):
    visitor = Client()
    visitor.force_login(user)
    return visitor.session


def is_signed_in(session):
    return SessionStore(session.session_key).get("_auth_user_id") is not None


def act(client, action, *rows):
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows], "post": "yes"}
    return client.post(LIST, chosen, follow=True).content.decode()


@pytest.mark.django_db(transaction=True)
def test_deleting_sends_the_signal_with_the_reason_staff(client, visitor, ended):
    phone, desktop = sign_in(visitor), sign_in(visitor)
    first, second = StoredSession.objects.filter(owner=str(visitor.pk))
    client.post(f"{LIST}{first.pk}/delete/", {"post": "yes"})
    assert ended == [(str(visitor.pk), "staff")]
    act(client, "delete_selected", second)
    assert ended == [(str(visitor.pk), "staff")] * 2
    assert not is_signed_in(phone)
    assert not is_signed_in(desktop)


def crash(*args):
    raise RuntimeError("The page fails after the deletion.")


@pytest.mark.django_db(transaction=True)
def test_a_deletion_that_is_rolled_back_sends_no_signal(client, visitor, ended, monkeypatch):
    session = sign_in(visitor)
    row = StoredSession.objects.get(owner=str(visitor.pk))
    monkeypatch.setattr(StoredSessionAdmin, "response_delete", crash)
    with pytest.raises(RuntimeError):
        client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})
    assert is_signed_in(session)
    assert ended == []


def test_deleting_expired_damaged_and_anonymous_sessions_sends_no_signal(client, session, ended):
    SessionStore().create()
    get_strategy().insert({"_auth_user_id": "4712"}, datetime.now(UTC) - timedelta(seconds=1))
    StoredSession.objects.filter(owner="4711").update(data="damaged")
    rows = sessions().filter(owner__in=["4711", "4712"])
    act(client, "delete_selected", *rows, *sessions().filter(owner=None))
    assert sessions().count() == 1  # the reader's
    assert ended == []


@pytest.mark.parametrize("selected", [False, True])
def test_staff_who_delete_the_session_they_use_sign_out(client, staff, settings, ended, selected):
    settings.MESSAGE_STORAGE = "django_strategy_sessions.messages.FlashStorage"
    row, used = StoredSession.objects.get(owner=str(staff.pk)), client.session
    if selected:
        assert "Log in" in act(client, "delete_selected", row)
    else:
        page = client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}, follow=True)
        assert "Log in" in page.content.decode()
    assert not is_signed_in(used)
    assert ended == [(str(staff.pk), "logout")]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("selected", [False, True])
def test_a_session_that_is_rotated_meanwhile_still_ends(client, rf, visitor, ended, selected):
    session = sign_in(visitor)
    model_admin, request = admin.site.get_model_admin(StoredSession), rf.get("/")
    request.session = client.session
    rows = model_admin.get_queryset(request).filter(owner=str(visitor.pk))
    (row,) = rows
    session.cycle_key()
    if selected:
        model_admin.delete_queryset(request, rows)
    else:
        model_admin.delete_model(request, row)
    assert not is_signed_in(session)
    assert ended == [(str(visitor.pk), "staff")]


def test_all_sessions_of_the_selected_users_end(client, staff, visitor, session, ended):
    theirs = [sign_in(visitor) for _ in range(3)]
    elsewhere = sign_in(staff)
    row = StoredSession.objects.filter(owner=str(visitor.pk)).first()
    own = StoredSession.objects.filter(owner=str(staff.pk)).first()
    page = act(client, "end_all", row, own)
    assert "Sessions ended: 4." in page
    assert not any(map(is_signed_in, [*theirs, elsewhere]))
    assert is_signed_in(session)
    assert is_signed_in(client.session)  # what the reader uses now
    assert sorted(ended) == sorted([(str(staff.pk), "staff"), *[(str(visitor.pk), "staff")] * 3])
    (entry,) = LogEntry.objects.filter(object_id=str(visitor.pk))
    assert entry.get_edited_object() == visitor
    assert entry.get_change_message() == "Sessions ended: 3."


def test_sessions_of_a_deleted_user_end_too(client, visitor):
    session = sign_in(visitor)
    row = StoredSession.objects.get(owner=str(visitor.pk))
    visitor.delete()
    assert "Sessions ended: 1." in act(client, "end_all", row)
    assert not is_signed_in(session)


def test_only_staff_with_the_permission_may_end_sessions(staff, visitor, session):
    visitor.is_staff = True
    visitor.save()
    visitor.user_permissions.add(Permission.objects.get(codename="view_storedsession"))
    client = Client()
    client.force_login(visitor)
    row = StoredSession.objects.get(owner="4711")
    assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    for action in ("end_all", "delete_selected"):
        assert "Sessions ended" not in act(client, action, row)
    assert is_signed_in(session)


def test_a_strategy_that_cannot_find_users_says_so(client, session, monkeypatch):
    strategy = get_strategy()
    monkeypatch.setattr(strategy, "finds_owners", False)
    row = StoredSession.objects.get(owner="4711")
    assert "cannot find the sessions of a user" in act(client, "end_all", row)
    act(client, "delete_selected", row)
    assert not is_signed_in(session)


class SessionsInPostgres:
    """A database router."""

    def db_for_read(self, model, **hints):
        return "postgres" if model is StoredSession else None

    db_for_write = db_for_read


@in_postgres
def test_postgres_lists_counts_and_ends_sessions_too(settings, transactional_db, ended):
    settings.DATABASE_ROUTERS = [f"{__name__}.SessionsInPostgres"]
    settings.SESSION_STRATEGY = POSTGRES["BACKEND"]
    users = get_user_model().objects
    staff, visitor = users.create_superuser("ada"), users.create_user("visitor")
    client = Client()
    client.force_login(staff)
    devices = [sign_in(visitor) for _ in range(3)]
    rows = set(StoredSession.objects.using("postgres").filter(owner=str(visitor.pk)))
    with CaptureQueriesContext(connections["postgres"]) as queries:
        assert found(client.get(f"{LIST}?state=live&user=signed-in&q=visitor")) == rows
    assert any("LIMIT 10001) subquery" in query["sql"] for query in queries)
    row = rows.pop()
    client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})
    assert [is_signed_in(session) for session in devices].count(True) == 2
    assert "Sessions ended: 2." in act(client, "end_all", rows.pop())
    assert not any(map(is_signed_in, devices))
    assert ended == [(str(visitor.pk), "staff")] * 3


# -- where it signed in ----------------------------------------------------------------------------


def test_the_list_shows_what_the_sign_in_noted(client, visitor, settings):
    settings.SESSION_SIGN_INS = True
    login_request(user_agent=FIREFOX)(visitor)
    row = StoredSession.objects.get(owner=str(visitor.pk))
    for page in (LIST, f"{LIST}{row.pk}/change/"):
        shown = client.get(page).content.decode()
        assert "Firefox on Windows" in shown
        assert "203.0.113.7" in shown
    settings.SESSION_SIGN_INS = False
    for page in (LIST, f"{LIST}{row.pk}/change/"):
        shown = client.get(page).content.decode()
        assert "Firefox" not in shown
        assert "203.0.113.7" not in shown


def test_a_user_agent_is_escaped_and_a_damaged_record_has_none(client, visitor, settings):
    settings.SESSION_SIGN_INS = True
    login_request(user_agent="<script>alert(1)</script>")(visitor)
    assert "<script>alert" not in client.get(LIST).content.decode()
    StoredSession.objects.filter(owner=str(visitor.pk)).update(data="damaged")
    assert client.get(LIST).status_code == 200
