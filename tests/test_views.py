"""The page on which users see their sessions and end them."""

from __future__ import annotations

import re
import sys
import uuid
from types import ModuleType
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils import timezone
from django.utils.formats import date_format

from django_strategy_sessions import CannotListSessions, sessions_of
from django_strategy_sessions.views import SessionsView

from .conftest import DATABASE, run_in_loop
from .test_contract_catches import DictStrategy
from .test_users import FIREFOX, is_signed_in, sign_in

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/account/sessions/"
CHROME = (
    "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/130.0.0.0 Mobile Safari/537.36"
)


@pytest.fixture
def ada(strategy):
    return make_user("ada")


@pytest.fixture
def grace(strategy):
    return make_user("grace")


@pytest.fixture
def in_database(settings):
    """For what no store can change."""
    settings.SESSION_STRATEGY = DATABASE


def make_user(name):
    # A name of its own, because Redis remembers the sessions of earlier tests' users.
    return User.objects.create_user(f"{name}-{uuid.uuid4()}", pk=uuid.uuid4().int % 10**15)


def reference(user, client):
    return next(one.reference for one in sessions_of(user, client.session) if one.is_current)


def end(client, **form):
    """Press a button. Return what the next page says."""
    response = client.post(PAGE, form, follow=True)
    assert response.redirect_chain == [(PAGE, 302)]
    assert response.status_code == 200
    return [str(message) for message in response.context["messages"]]


# -- the four strategies ---------------------------------------------------------------------------


def test_the_page_lists_the_users_sessions_and_marks_this_one(ada, grace):
    phone, desktop, other = sign_in(ada), sign_in(ada), sign_in(grace)
    response = phone.get(PAGE)
    page = response.content.decode()
    assert [one.is_current for one in response.context["sessions"]] == [True, False]
    assert page.count("This device") == 1
    for client in (phone, desktop):
        assert f'value="{reference(ada, client)}"' in page
    assert reference(grace, other) not in page


def test_the_page_shows_no_key_and_no_id(ada):
    clients = [sign_in(ada) for _ in range(2)]
    page = clients[0].get(PAGE).content.decode()
    for client in clients:
        key = client.session.session_key
        assert key not in page
        assert key.partition(".")[0] not in page


def test_a_button_ends_one_session_and_the_others_stay(ada):
    phone, desktop, tablet = (sign_in(ada) for _ in range(3))
    assert end(phone, session=reference(ada, desktop)) == ["That session has ended."]
    assert [is_signed_in(client) for client in (phone, desktop, tablet)] == [True, False, True]


def test_a_button_ends_all_sessions_but_this_one(ada, grace):
    phone, desktop, tablet, other = sign_in(ada), sign_in(ada), sign_in(ada), sign_in(grace)
    assert end(phone, others="all") == ["All other sessions have ended."]
    assert [is_signed_in(client) for client in (phone, desktop, tablet)] == [True, False, False]
    assert is_signed_in(other)
    assert "Sign out everywhere else" not in phone.get(PAGE).content.decode()


def test_the_button_of_this_session_is_a_logout(ada):
    phone, desktop = sign_in(ada), sign_in(ada)
    (button,) = re.findall(r'name="(current)" value="(\w+)"', phone.get(PAGE).content.decode())
    response = phone.post(PAGE, dict([button]))
    assert response.headers["Location"] == PAGE  # which asks for a login
    assert response.cookies["sessionid"]["max-age"] == 0
    assert not is_signed_in(phone)
    assert is_signed_in(desktop)


def test_nobody_ends_a_session_of_another_user(ada, grace):
    phone, other = sign_in(ada), sign_in(grace)
    said = end(other, session=reference(ada, phone))
    assert said == ["That session had already ended."]
    assert is_signed_in(phone)


@pytest.mark.parametrize("made_up", ["", "x", "0" * 32, "'; --", "é" * 32, "\0", "a" * 100_000])
def test_a_reference_that_somebody_made_up_has_already_ended(ada, made_up):
    phone, desktop = sign_in(ada), sign_in(ada)
    assert end(phone, session=made_up) == ["That session had already ended."]
    assert is_signed_in(phone)
    assert is_signed_in(desktop)


def test_it_works_in_async_sites(ada):
    phone, desktop = sign_in(ada), sign_in(ada)
    client = AsyncClient()
    client.cookies = phone.cookies

    async def visit():
        page = await client.get(PAGE)
        ended = await client.post(PAGE, {"others": "all"})
        return page, ended

    page, ended = run_in_loop(visit())
    assert page.content.decode().count("Sign out</button>") == 2
    assert ended.headers["Location"] == PAGE
    assert [is_signed_in(phone), is_signed_in(desktop)] == [True, False]


# -- any strategy ----------------------------------------------------------------------------------


def test_a_visitor_has_to_log_in(in_database):
    for response in (Client().get(PAGE), Client().post(PAGE, {"others": "all"})):
        assert response.status_code == 302
        assert response.headers["Location"] == f"/accounts/login/?next={PAGE}"


def test_no_response_may_be_kept_in_a_cache(in_database):
    phone = sign_in(make_user("ada"))
    for response in (phone.get(PAGE), phone.post(PAGE), Client().get(PAGE)):
        assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.parametrize("middleware", ["with", "without"])
def test_another_site_cannot_end_sessions(in_database, settings, middleware):
    if middleware == "without":
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "csrf" not in name]
    ada = make_user("ada")
    phone, desktop = sign_in(ada, enforce_csrf_checks=True), sign_in(ada)
    assert phone.post(PAGE, {"others": "all"}).status_code == 403
    assert is_signed_in(desktop)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', phone.get(PAGE).content.decode())
    phone.post(PAGE, {"others": "all", "csrfmiddlewaretoken": token[1]})
    assert not is_signed_in(desktop)


def test_what_a_session_noted_at_its_sign_in_is_shown(in_database, settings):
    settings.SESSION_SIGN_INS = True
    ada = make_user("ada")
    for agent, address in ((FIREFOX, "203.0.113.7"), (CHROME, "198.51.100.9"), ("<b>", "::1")):
        phone = Client(headers={"user-agent": agent}, REMOTE_ADDR=address)
        request = phone.request().wsgi_request
        login(request, ada, "django.contrib.auth.backends.ModelBackend")
        request.session.save()
        phone.cookies["sessionid"] = request.session.session_key
    page = phone.get(PAGE).content.decode()
    for shown in ("Firefox on Windows", "203.0.113.7", "Chrome Mobile on Android", "&lt;b&gt;"):
        assert shown in page
    assert "<b>" not in page


def test_a_session_that_noted_nothing_is_shown_by_its_dates(in_database):
    ada = make_user("ada")
    page = sign_in(ada).get(PAGE).content.decode()
    (one,) = sessions_of(ada)
    assert one.created.isoformat(timespec="microseconds") in page
    assert one.expires.isoformat() in page
    assert "IP address" not in page


def test_times_are_those_of_the_projects_time_zone(in_database, settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    phone = sign_in(make_user("ada"))
    for settings.USE_TZ in (True, False):
        response = phone.get(PAGE)
        (one,) = response.context["sessions"]
        in_tokyo = timezone.localtime(one.expires, ZoneInfo("Asia/Tokyo"))
        assert date_format(in_tokyo, "DATETIME_FORMAT") in response.content.decode()


def test_who_impersonates_a_user_is_not_told_where_from(in_database, settings):
    settings.SESSION_SIGN_INS = True
    ada, grace = make_user("ada"), make_user("grace")
    phone = sign_in(ada)
    session = sign_in(ada).session
    sign_in_note = {"at": "2026-11-27T12:00:00+00:00", "agent": FIREFOX, "address": "10.9.8.7"}
    session.update({"hijack_history": [str(grace.pk)], "_sign_in": sign_in_note})
    session.save()
    page = phone.get(PAGE).content.decode()
    assert "Used by staff" in page
    assert "10.9.8.7" not in page


TITLES = {
    "en": ("en", "Where you are signed in", "All other sessions have ended."),
    "de": ("de", "Wo Sie angemeldet sind", "Alle anderen Sitzungen sind beendet."),
    "fr": ("fr", "Où vous êtes connecté", "Toutes les autres sessions sont terminées."),
    "es": ("es", "Dónde ha iniciado sesión", "Todas las demás sesiones han terminado."),
    "it": ("en", "Where you are signed in", "All other sessions have ended."),
}


@pytest.mark.parametrize("language", TITLES)
def test_the_page_speaks_the_language_of_the_request(in_database, settings, language):
    settings.LANGUAGE_CODE = language
    spoken, title, said = TITLES[language]
    phone = sign_in(make_user("ada"))
    page = phone.post(PAGE, {"others": "all"}, follow=True).content.decode()
    assert f'<html lang="{spoken}">' in page
    assert f"<title>{title}</title>" in page
    assert said in page


def test_the_page_needs_no_messages(in_database, settings):
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if "messages" not in name]
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "messages" not in name]
    ada = make_user("ada")
    phone, desktop = sign_in(ada), sign_in(ada)
    assert phone.post(PAGE, {"others": "all"}).status_code == 302
    assert not is_signed_in(desktop)


def test_a_logout_leads_where_the_projects_own_does(in_database, settings):
    settings.LOGOUT_REDIRECT_URL = "/goodbye/"
    response = sign_in(make_user("ada")).post(PAGE, {"current": ""})
    assert response.headers["Location"] == "/goodbye/"


def test_a_path_of_two_slashes_leads_to_no_other_site(in_database, settings, monkeypatch):
    site = ModuleType("catch_all_urls")
    site.urlpatterns = [path("<path:any>/sessions/", SessionsView.as_view())]
    monkeypatch.setitem(sys.modules, "catch_all_urls", site)
    settings.ROOT_URLCONF = "catch_all_urls"
    response = sign_in(make_user("ada")).post("/", PATH_INFO="//example.org/sessions/")
    assert response.headers["Location"].startswith("/%2Fexample.org")


class AsksAgain(SessionsView):
    def reauthenticate(self):
        if "password" in self.request.POST:
            return None
        return HttpResponse("Who are you?", status=401)


def test_a_project_can_ask_for_the_password_again(in_database, settings, monkeypatch):
    site = ModuleType("asking_urls")
    site.urlpatterns = [path("account/sessions/", AsksAgain.as_view())]
    monkeypatch.setitem(sys.modules, "asking_urls", site)
    settings.ROOT_URLCONF = "asking_urls"
    ada = make_user("ada")
    phone, desktop = sign_in(ada), sign_in(ada)
    of_desktop = reference(ada, desktop)
    for form in ({"others": "all"}, {"session": of_desktop}):
        assert phone.post(PAGE, form).status_code == 401
        assert is_signed_in(desktop)
    end(phone, session=of_desktop, password="secret")
    assert not is_signed_in(desktop)
    # A logout needs no password.
    assert phone.post(PAGE, {"current": ""}).status_code == 302
    assert not is_signed_in(phone)


def test_a_project_can_replace_the_templates(in_database, settings, tmp_path):
    folder = tmp_path / "django_strategy_sessions"
    folder.mkdir()
    (folder / "base.html").write_text("<p>of the project</p>{% block content %}{% endblock %}")
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    page = sign_in(make_user("ada")).get(PAGE).content.decode()
    assert page.startswith("<p>of the project</p>")
    assert "<h1>Where you are signed in</h1>" in page


def test_a_strategy_that_cannot_list_sessions_says_so(in_database, monkeypatch):
    phone = sign_in(make_user("ada"))
    monkeypatch.setattr("django_strategy_sessions.users.get_strategy", DictStrategy)
    with pytest.raises(CannotListSessions, match="DictStrategy cannot find the sessions"):
        phone.get(PAGE)
