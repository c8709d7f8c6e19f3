"""Whole requests: Django's middleware, auth, messages, CSRF and test client, over the engine."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.signing import sign

from .conftest import DJANGOS, OURS, run_in_loop

pytestmark = pytest.mark.usefixtures("strategy", "middleware")


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user("ada", password="secret")


@pytest.fixture
def client():
    return Client()


def key(client):
    cookie = client.cookies.get("sessionid")
    return cookie.value if cookie else None


def test_a_page_that_leaves_the_session_alone_costs_nothing(client, calls):
    client.get("/write/?name=1")
    calls.clear()
    response = client.get("/untouched/")
    assert calls == []
    assert not response.cookies
    assert "Vary" not in response.headers


def test_a_page_that_reads_costs_one_load(client, calls):
    client.get("/write/?name=1")
    calls.clear()
    response = client.get("/read/")
    assert response.json()["value"] == "1"
    assert response.headers["Vary"] == "Cookie"
    assert not response.cookies
    assert calls == ["load"]


def test_the_cookie_is_djangos(client, settings):
    settings.SESSION_COOKIE_SAMESITE, settings.SESSION_COOKIE_PATH = "Strict", "/read/"
    cookie = client.get("/write/?name=1").cookies["sessionid"]
    assert len(cookie.value) == 40
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/read/"
    assert cookie["max-age"] == settings.SESSION_COOKIE_AGE


def test_a_nested_change_is_saved(client):
    session = client.session
    session["cart"] = {"items": []}
    session.save()
    client.get("/nested/?item=tea")
    client.get("/nested/?item=pot")
    assert client.session["cart"] == {"items": ["tea", "pot"]}


def test_a_server_error_saves_nothing(client):
    client.get("/write/?name=before")
    client.get("/fail/")
    assert client.get("/read/").json()["value"] == "before"


def test_a_value_that_cannot_be_serialized_fails_and_saves_nothing(client):
    client.get("/write/?name=before")
    with pytest.raises(TypeError, match="'broken'"):
        client.get("/unserializable/")
    assert "kept" not in client.session
    assert client.get("/read/").json()["value"] == "before"


def test_a_session_emptied_by_its_view_stays(client):
    client.get("/write/?name=1")
    before = key(client)
    client.get("/clear/")
    assert key(client) == before
    assert client.get("/read/").json() == {"value": None, "key": before}


# -- what clients send ----------------------------------------------------------------------------

FORGED = [
    "", "x", "sessionid", "A" * 40, "A" * 22 + "." + "B" * 17, "x" * 8000, "\\000aaaaaaaa", '"',
    '"quoted"', "a;b", "ключ", "%00", "..", "null", "{}", "é" * 40,
    sign("A" * 22, "another"), sign("A" * 22, "sessionid", (b"x" * 40,)),
]  # fmt: skip
PAGES = ["untouched", "read", "whoami", "csrf", "said", "show", "aread", "awhoami"]


def get(client, page, cookie):
    client.cookies.clear()
    return client.get(f"/{page}/", headers={"cookie": f"sessionid={cookie}"})


@pytest.mark.parametrize("save_every_request", [False, True])
def test_forged_cookies_cost_no_call_and_make_no_record(
    client, calls, settings, save_every_request
):
    settings.SESSION_SAVE_EVERY_REQUEST = save_every_request
    for cookie in FORGED:
        for page in PAGES:
            response = get(client, page, cookie.encode().decode("latin-1"))
            assert response.status_code == 200
            assert not response.cookies.get("sessionid", SimpleCookie()) or (
                response.cookies["sessionid"].value == ""
            )
    assert calls == []


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_cookie_fails_a_page(text):
    header = "sessionid=" + text.encode("utf-8", "replace").decode("latin-1")
    for page in ("read", "write"):
        response = Client(headers={"cookie": header}).get(f"/{page}/")
        assert response.status_code == 200


def test_a_forged_cookie_is_an_anonymous_visitor_who_may_write(client, user):
    forged = sign("A" * 22, "sessionid", (b"x" * 40,))
    response = client.get("/write/?name=1", headers={"cookie": f"sessionid={forged}"})
    assert response.cookies["sessionid"].value != forged
    assert client.get("/read/").json()["value"] == "1"


@pytest.mark.parametrize("save_every_request", [False, True])
@pytest.mark.parametrize("page", PAGES)
def test_an_ended_session_is_not_made_again_by_reading(
    client, strategy, calls, settings, middleware, page, save_every_request
):
    settings.SESSION_SAVE_EVERY_REQUEST = save_every_request
    client.get("/write/?name=1")
    ended = key(client)
    SessionStore(ended).delete()
    calls.clear()
    response = client.get(f"/{page}/")
    assert response.status_code == 200
    assert "insert" not in calls
    assert "ainsert" not in calls
    # Ours keeps every cookie that we signed, unless the request itself logs out.
    touched = save_every_request or page not in ("untouched", "csrf", "said")
    deleted = touched and middleware == DJANGOS
    assert ("sessionid" in response.cookies) == deleted
    assert not deleted or response.cookies["sessionid"].value == ""


def test_saving_on_every_request_writes_only_when_the_step_moves(
    client, calls, settings, middleware
):
    settings.SESSION_SAVE_EVERY_REQUEST = True
    client.get("/write/?name=1")
    calls.clear()
    response = client.get("/untouched/")
    # Django's middleware looks whether there is a session before the save does.
    assert calls == ["load"] * (1 if middleware == OURS else 2)
    assert response.cookies["sessionid"].value == key(client)
    anonymous = Client()
    anonymous.get("/untouched/")
    assert not anonymous.cookies
    assert "insert" not in calls


# -- auth -----------------------------------------------------------------------------------------


def test_login_and_logout(client, user, calls, middleware):
    client.get("/write/?name=cart")
    before = key(client)
    calls.clear()
    client.get("/login/")
    assert calls == ["load", "rotate", "merge"]
    after = key(client)
    assert after != before
    assert client.get("/whoami/").content == b"ada"
    assert client.session["name"] == "cart"
    assert SessionStore(before).get("name") is None
    calls.clear()
    client.get("/logout/")
    assert [verb for verb in calls if verb != "load"] == ["end"]
    assert key(client) == ""
    assert SessionStore(after).get("_auth_user_id") is None
    assert client.get("/whoami/").content == b""


def test_login_without_a_session(client, user, calls):
    client.get("/login/")
    assert calls == ["insert", "merge"]
    assert client.get("/whoami/").content == b"ada"


def test_another_user_gets_nothing_of_the_first(client, user):
    other = get_user_model().objects.create_user("bob", password="secret")
    client.force_login(other)
    client.get("/write/?name=private")
    client.get("/login/")
    assert client.get("/whoami/").content == b"ada"
    assert client.get("/read/").json()["value"] is None


def test_a_password_change_ends_the_other_sessions(client, user):
    other = Client()
    client.force_login(user)
    other.force_login(user)
    user.set_password("changed")
    user.save()
    assert other.get("/whoami/").content == b""


def test_a_password_change_in_the_admin_keeps_this_session(client, user):
    user.is_staff = True
    user.save()
    client.force_login(user)
    before = key(client)
    response = client.post(
        "/admin/password_change/",
        {"old_password": "secret", "new_password1": "Nq83-Zz1!", "new_password2": "Nq83-Zz1!"},
    )
    assert response.status_code == 302
    assert key(client) != before
    assert client.get("/whoami/").content == b"ada"


def test_changing_the_secret_key_logs_nobody_out(client, user, settings):
    client.force_login(user)
    old = key(client)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a new secret key that is as long as it should be: 0123456789"
    assert client.get("/whoami/").content == b"ada"  # Django cycles the key here
    assert key(client) != old
    settings.SECRET_KEY_FALLBACKS = []
    assert client.get("/whoami/").content == b"ada"


def test_changing_the_cookie_secrets_signs_the_cookie_anew(client, user, settings):
    settings.SESSION_COOKIE_SECRETS = ["o" * 32]
    client.force_login(user)
    old = key(client)
    settings.SESSION_COOKIE_SECRETS = ["n" * 32, "o" * 32]
    assert client.get("/whoami/").content == b"ada"
    assert key(client) == old  # no response set the cookie
    client.get("/write/?name=1")
    assert key(client) != old
    settings.SESSION_COOKIE_SECRETS = ["n" * 32]
    assert client.get("/whoami/").content == b"ada"
    settings.SESSION_COOKIE_SECRETS = ["x" * 32]
    assert client.get("/whoami/").content == b""


def test_a_save_after_a_logout_elsewhere_is_interrupted(client, user):
    client.force_login(user)
    late = SessionStore(key(client))
    late["a"] = 1
    client.logout()
    request = RequestFactory().get("/")
    request.session = late
    with pytest.raises(SessionInterrupted):
        SessionMiddleware(lambda request: HttpResponse()).process_response(request, HttpResponse())


def test_the_test_client_has_a_session(client, user):
    session = client.session
    session["a"] = 1
    session.save()
    assert client.session["a"] == 1
    assert client.login(username="ada", password="secret")
    assert client.get("/whoami/").content == b"ada"
    client.logout()
    assert client.get("/whoami/").content == b""


# -- messages, CSRF, flash ------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["session.SessionStorage", "fallback.FallbackStorage"])
def test_messages(client, settings, storage):
    settings.MESSAGE_STORAGE = f"django.contrib.messages.storage.{storage}"
    client.get("/say/")
    assert client.get("/said/").json() == {"messages": ["well done"]}
    assert client.get("/said/").json() == {"messages": []}


def test_csrf_tokens_in_the_session(settings):
    settings.CSRF_USE_SESSIONS = True
    client = Client(enforce_csrf_checks=True)
    token = client.get("/csrf/").content.decode()
    assert client.post("/untouched/").status_code == 403
    assert client.post("/untouched/", {"csrfmiddlewaretoken": token}).status_code == 200


def test_a_flash_is_shown_once(client):
    client.get("/flash/")
    assert client.get("/show/").json() == {"seen": ["saved", "saved"]}
    assert client.get("/show/").json() == {"seen": [None, None]}


# -- async ----------------------------------------------------------------------------------------


def test_async_views(user, settings):
    async def visit():
        client = AsyncClient()
        await client.get("/awrite/?name=cart")
        before = client.cookies["sessionid"].value
        await client.get("/alogin/")
        assert client.cookies["sessionid"].value != before
        assert (await client.get("/awhoami/")).content == b"ada"
        assert (await client.get("/aread/")).json()["value"] == "cart"
        assert (await client.get("/read/")).json()["value"] == "cart"
        await client.get("/alogout/")
        assert (await client.get("/awhoami/")).content == b""
        await client.aforce_login(user)
        assert (await client.get("/awhoami/")).content == b"ada"
        session = await client.asession()
        await session.aset("name", "direct")
        await session.asave()
        assert (await client.get("/aread/")).json()["value"] == "direct"

    run_in_loop(visit())


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("save_every_request", [True, False])
def test_a_visit_with_every_setting(client, user, settings, use_tz, save_every_request):
    settings.USE_TZ, settings.SESSION_SAVE_EVERY_REQUEST = use_tz, save_every_request
    client.get("/write/?name=cart")
    client.get("/login/")
    assert client.get("/whoami/").content == b"ada"
    assert client.get("/read/").json()["value"] == "cart"
    client.get("/logout/")
    assert client.get("/read/").json()["value"] is None


def test_requests_at_the_same_time_lose_nothing(client, strategy):
    client.get("/write/?first=0")
    cookie = key(client)
    names = [f"name{number}" for number in range(40)]
    random.shuffle(names)

    def write(name):
        try:
            Client(headers={"cookie": f"sessionid={cookie}"}).get(f"/write/?{name}=1")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, names))
    assert set(client.session.keys()) == {"first", *names}
