"""A user's page in the admin leads to the sessions of that user, on every strategy."""

from __future__ import annotations

import re
import uuid

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth import admin as auth_admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection, models
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse

from django_strategy_sessions import sessions_of
from django_strategy_sessions.admin import UserSessionsMixin
from django_strategy_sessions.engine import SessionStore

from .conftest import is_signed_in, sign_in
from .test_contract_catches import DictStrategy
from .test_users import FIREFOX, login_request

User = get_user_model()
LABEL = f"{User._meta.app_label}/{User._meta.model_name}"


class StampMixin:
    """Another app's mixin, with a page and a field."""

    def get_urls(self):
        return [path("stamp/", lambda request: HttpResponse("a stamp")), *super().get_urls()]

    def get_readonly_fields(self, request, obj=None):
        return [*super().get_readonly_fields(request, obj), "stamp"]

    def get_fieldsets(self, request, obj=None):
        return [*super().get_fieldsets(request, obj), ("Stamps", {"fields": ["stamp"]})]

    def stamp(self, user):
        return "approved"


class StampedFirst(StampMixin, UserSessionsMixin, auth_admin.UserAdmin):
    pass


class StampedLast(UserSessionsMixin, StampMixin, auth_admin.UserAdmin):
    pass


class Plain(UserSessionsMixin, admin.ModelAdmin):
    exclude = ("groups", "user_permissions")


class Placed(UserSessionsMixin, admin.ModelAdmin):
    fieldsets = [(None, {"fields": ["username", "user_sessions"]})]


class Hidden(UserSessionsMixin, auth_admin.UserAdmin):
    def has_view_permission(self, request, obj=None):
        return obj is None or obj == request.user


urlpatterns = [path("admin/", admin.site.urls)]
for each in (StampedFirst, StampedLast, Plain, Placed, Hidden):
    site = admin.AdminSite(each.__name__.lower())
    site.register(User, each)
    urlpatterns.append(path(f"{site.name}/", site.urls))

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]


def make(name, **fields):
    if isinstance(User._meta.pk, models.AutoField):
        # A key of its own, because Redis remembers the sessions of earlier tests' users.
        fields["pk"] = uuid.uuid4().int % 10**15
    return User.objects.create_user(name, **fields)


@pytest.fixture
def ada():
    return make("ada")


@pytest.fixture
def staff():
    return make("staff", is_staff=True, is_superuser=True)


@pytest.fixture
def client(staff):
    return sign_in(staff)


def page_of(user, site="stampedlast"):
    return _reverse(site, user, "sessions")


def change_page_of(user, site="stampedlast"):
    return _reverse(site, user, "change")


def _reverse(site, user, page):
    name = f"admin:{User._meta.app_label}_{User._meta.model_name}_{page}"
    return reverse(name, args=[quote(user.pk)], current_app=site)


def clerk(*codenames):
    user = make("clerk", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return sign_in(user)


VIEW_USER = f"view_{User._meta.model_name}"


# -- on every strategy -----------------------------------------------------------------------------


def test_the_page_lists_the_sessions_without_ids_and_data(strategy, client, ada):
    session = sign_in(ada).session
    session["canary"] = "CANARY"
    session.save()
    shown = client.get(page_of(ada)).content.decode()
    assert "Sessions of ada" in shown
    assert shown.count(">End<") == 1
    assert shown.count(sessions_of(ada)[0].reference) == 1
    assert "CANARY" not in shown
    assert session.session_key.partition(".")[0] not in shown


def test_staff_end_one_session(strategy, client, staff, ada, ended):
    phone, desktop = sign_in(ada), sign_in(ada)
    gone = sessions_of(ada, current=phone.session)[0]
    page = client.post(page_of(ada), {"reference": gone.reference}, follow=True)
    assert "Sessions ended: 1." in page.content.decode()
    assert is_signed_in(phone)
    assert not is_signed_in(desktop)
    assert ended == [(str(ada.pk), "staff")]
    (entry,) = LogEntry.objects.all()
    assert (entry.user, entry.get_edited_object()) == (staff, ada)
    assert entry.get_change_message() == "Sessions ended: 1."
    history = client.get(change_page_of(ada).replace("change", "history"))
    assert "Sessions ended: 1." in history.content.decode()


def test_staff_end_all_sessions(strategy, client, ada, ended):
    devices = [sign_in(ada) for _ in range(3)]
    page = client.post(page_of(ada), {"all": "yes"}, follow=True).content.decode()
    assert "Sessions ended: 3." in page
    assert "This user is not signed in anywhere." in page
    assert not any(map(is_signed_in, devices))
    assert ended == [(str(ada.pk), "staff")] * 3
    assert LogEntry.objects.get().get_change_message() == "Sessions ended: 3."


def test_staff_who_end_all_of_their_own_stay_signed_in_here(strategy, client, staff):
    elsewhere = sign_in(staff)
    assert "your own" in client.get(page_of(staff)).content.decode()
    page = client.post(page_of(staff), {"all": "yes"}, follow=True).content.decode()
    assert "Sessions ended: 1." in page
    assert not is_signed_in(elsewhere)


def test_a_rotation_after_the_page_was_shown_is_followed(strategy, client, ada):
    session = sign_in(ada).session
    (entry,) = sessions_of(ada)
    session.cycle_key()
    client.post(page_of(ada), {"reference": entry.reference})
    assert SessionStore(session.session_key).get("_auth_user_id") is None


# -- on one of them --------------------------------------------------------------------------------


def test_a_stale_or_foreign_reference_ends_nothing_and_is_not_logged(client, staff, ada):
    device = sign_in(ada)
    (entry,) = sessions_of(ada)
    page = client.post(page_of(staff), {"reference": entry.reference}, follow=True)
    assert "Sessions ended: 0." in page.content.decode()
    assert is_signed_in(device)
    client.post(page_of(ada), {})
    client.post(page_of(ada), {"reference": "\0"})
    assert is_signed_in(device)
    assert not LogEntry.objects.exists()


def test_the_page_shows_where_the_user_signed_in(client, ada, settings):
    assert "Device" not in client.get(page_of(ada)).content.decode()
    settings.SESSION_SIGN_INS = True
    login_request(user_agent=FIREFOX)(ada)
    login_request(user_agent="<script>alert(1)</script>")(ada)
    shown = client.get(page_of(ada)).content.decode()
    assert "Firefox on Windows" in shown
    assert "203.0.113.7" in shown
    assert "<script>alert" not in shown


def test_impersonation_is_shown(client, staff, ada):
    session = sign_in(ada).session
    session["hijack_history"] = [str(staff.pk)]
    session.save()
    assert "(impersonation)" in client.get(page_of(ada)).content.decode()


def test_more_sessions_cost_no_more_queries(client, ada):
    def queries():
        with CaptureQueriesContext(connection) as captured:
            client.get(page_of(ada))
        return len(captured)

    sign_in(ada)
    few = queries()
    for _ in range(20):
        sign_in(ada)
    assert queries() == few


def test_the_permission_to_view_sessions_does_not_allow_ending_them(ada):
    device, reader = sign_in(ada), clerk(VIEW_USER, "view_storedsession")
    shown = reader.get(page_of(ada)).content.decode()
    assert "Sessions of ada" in shown
    assert "<button" not in shown.partition("<table>")[2].partition("</form>")[0]
    for post in ({"all": "yes"}, {"reference": sessions_of(ada)[0].reference}):
        assert reader.post(page_of(ada), post).status_code == 403
    assert is_signed_in(device)


def test_the_permission_to_delete_sessions_lets_staff_end_them(ada):
    device, reader = sign_in(ada), clerk(VIEW_USER, "delete_storedsession")
    assert ">End<" in reader.get(page_of(ada)).content.decode()
    assert page_of(ada) in reader.get(change_page_of(ada)).content.decode()
    reader.post(page_of(ada), {"all": "yes"})
    assert not is_signed_in(device)


def test_staff_without_either_permission_see_neither_link_nor_page(ada):
    device, reader = sign_in(ada), clerk(VIEW_USER)
    shown = reader.get(change_page_of(ada))
    assert shown.status_code == 200
    assert page_of(ada) not in shown.content.decode()
    assert reader.get(page_of(ada)).status_code == 403
    assert reader.post(page_of(ada), {"all": "yes"}).status_code == 403
    assert is_signed_in(device)


def test_staff_who_may_not_view_the_user_may_not_end_their_sessions(client, ada):
    device = sign_in(ada)
    reader = clerk("view_storedsession", "delete_storedsession")
    assert reader.get(page_of(ada)).status_code == 403
    assert reader.post(page_of(ada), {"all": "yes"}).status_code == 403
    assert client.post(page_of(ada, "hidden"), {"all": "yes"}).status_code == 403
    assert is_signed_in(device)


def test_visitors_who_are_not_staff_are_sent_to_the_sign_in_page(ada):
    device = sign_in(ada)
    for visitor in (device, Client()):
        for answer in (visitor.get(page_of(ada)), visitor.post(page_of(ada), {"all": "yes"})):
            assert answer.status_code == 302
            assert "/login/" in answer["Location"]
    assert is_signed_in(device)


def test_another_site_cannot_end_sessions(staff, ada):
    device = sign_in(ada)
    reader = sign_in(staff, enforce_csrf_checks=True)
    assert reader.post(page_of(ada), {"all": "yes"}).status_code == 403
    assert is_signed_in(device)
    shown = reader.get(page_of(ada)).content.decode()
    (token,) = re.findall(r'method="post">.*name="csrfmiddlewaretoken" value="(\w+)"', shown)[:1]
    reader.post(page_of(ada), {"all": "yes", "csrfmiddlewaretoken": token})


def test_a_user_who_does_not_exist_has_no_page(client, ada):
    page = page_of(ada)
    ada.delete()
    assert client.get(page).status_code == 404


def test_a_strategy_that_cannot_find_users_says_so(client, ada, monkeypatch):
    monkeypatch.setattr("django_strategy_sessions.users.get_strategy", DictStrategy)
    assert "DictStrategy cannot find" in client.get(page_of(ada)).content.decode()
    page = client.post(page_of(ada), {"all": "yes"}, follow=True).content.decode()
    assert "DictStrategy cannot find" in page


@pytest.mark.parametrize("site", ["stampedfirst", "stampedlast", "plain", "placed"])
def test_the_page_of_a_user_has_one_link(client, ada, site):
    shown = client.get(change_page_of(ada, site)).content.decode()
    assert shown.count(f'href="{page_of(ada, site)}"') == 1
    assert client.get(page_of(ada, site)).status_code == 200
    assert client.get(f"/{site}/{LABEL}/add/").status_code == 200
    if site.startswith("stamped"):
        assert "approved" in shown
        assert client.get(f"/{site}/{LABEL}/stamp/").content == b"a stamp"


def test_a_user_is_still_saved_beside_the_link(client, ada):
    form = client.get(change_page_of(ada)).context["adminform"].form
    values = {name: value for name, value in form.initial.items() if value not in (None, False)}
    values |= {"first_name": "Augusta", "date_joined_0": "2026-01-01", "date_joined_1": "00:00"}
    client.post(change_page_of(ada), {**values, "groups": [], "user_permissions": []})
    ada.refresh_from_db()
    assert ada.first_name == "Augusta"
