"""Our middleware: native in async code, and careful with cookies."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import SyncToAsync
from django.contrib.auth import get_user_model
from django.contrib.sessions.exceptions import SessionInterrupted
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.views.debug import ExceptionReporter

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.middleware import SessionMiddleware
from django_strategy_sessions.signing import sign
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.unavailable import RETRY_AFTER

from .conftest import DATABASE, OURS, POSTGRES, REDIS, in_postgres, run_in_loop


@pytest.fixture(autouse=True)
def ours(settings):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]


@pytest.fixture
def client():
    return Client(raise_request_exception=False)


@pytest.fixture
def user(transactional_db):
    return get_user_model().objects.create_user("ada", password="secret")


def test_another_object_in_place_of_the_session_is_left_alone():
    def view(request):
        request.session = {}
        return HttpResponse("fine")

    async def aview(request):
        return view(request)

    assert SessionMiddleware(view)(RequestFactory().get("/")).content == b"fine"
    response = asyncio.run(SessionMiddleware(aview)(AsyncRequestFactory().get("/")))
    assert response.content == b"fine"


# -- async ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [pytest.param(POSTGRES, marks=in_postgres), REDIS])
@pytest.mark.parametrize("save_every_request", [True, False])
def test_async_requests_use_no_thread(store, save_every_request, settings, db, monkeypatch):
    settings.SESSION_STRATEGY = store
    settings.SESSION_SAVE_EVERY_REQUEST = save_every_request
    hops = []
    real = SyncToAsync.__call__

    async def hop(self, *args, **kwargs):
        hops.append(self.func)
        return await real(self, *args, **kwargs)

    async def view(request):
        count = await request.session.aget("count", 0)
        await request.session.aset("count", count + 1)
        return HttpResponse(str(count))

    async def visits():
        middleware, cookies = SessionMiddleware(view), {}
        for expected in range(3):
            request = AsyncRequestFactory().get("/")
            request.COOKIES = cookies
            monkeypatch.setattr(SyncToAsync, "__call__", hop)
            response = await middleware(request)
            monkeypatch.undo()
            assert response.content == str(expected).encode()
            cookies = {"sessionid": response.cookies["sessionid"].value}

    run_in_loop(visits())
    assert hops == []


# -- cookies --------------------------------------------------------------------------------------

pages = pytest.mark.parametrize("page", ["read", "aread"])


@pages
@pytest.mark.parametrize("every", [True, False])
def test_a_cookie_that_verifies_is_never_deleted_because_its_record_is_gone(
    client, strategy, settings, page, every
):
    settings.SESSION_SAVE_EVERY_REQUEST = every
    client.get("/write/?name=1")
    SessionStore(client.cookies["sessionid"].value).delete()
    response = client.get(f"/{page}/")
    assert response.json() == {"value": None, "key": None}
    assert response.headers["Vary"] == "Cookie"
    assert "sessionid" not in response.cookies


@pages
def test_a_cookie_that_does_not_verify_is_deleted(client, strategy, page):
    client.cookies["sessionid"] = sign("A" * 22, "sessionid", (b"x" * 40,))
    assert client.get(f"/{page}/").cookies["sessionid"].value == ""


@pytest.mark.parametrize("page", ["logout", "alogout"])
def test_logging_out_deletes_the_cookie(client, strategy, user, page):
    client.force_login(user)
    response = client.get(f"/{page}/")
    assert response.cookies["sessionid"].value == ""
    assert response.headers["Vary"] == "Cookie"


def test_an_error_after_a_login_keeps_the_cart(client, strategy, user):
    client.get("/write/?name=cart")
    before = client.cookies["sessionid"].value
    response = client.get("/logincrash/")
    assert response.status_code == 500
    assert response.cookies["sessionid"].value != before
    assert client.get("/read/").json()["value"] == "cart"
    assert client.get("/whoami/").content == b""  # nothing of a request that failed is saved


def test_an_error_without_a_login_sends_no_cookie(client, strategy):
    client.get("/write/?name=cart")
    assert not client.get("/fail/").cookies
    assert not Client().get("/fail/").cookies


@pytest.mark.parametrize("page", ["logincrash", "loginundone"])
def test_a_login_that_is_rolled_back_leaves_the_old_cookie_good(
    settings, client, user, monkeypatch, page
):
    settings.SESSION_STRATEGY = DATABASE
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    client.get("/write/?name=cart")
    response = client.get(f"/{page}/")
    assert response.status_code == {"logincrash": 500, "loginundone": 409}[page]
    assert "sessionid" not in response.cookies
    assert client.get("/read/").json()["value"] == "cart"


def test_a_first_login_that_is_rolled_back_is_the_views_answer(settings, client, user):
    settings.SESSION_STRATEGY = DATABASE
    response = client.get("/loginundone/")
    assert (response.status_code, response.content) == (409, b"no")
    assert "sessionid" not in response.cookies


@pytest.mark.parametrize("page", ["logoutundone", "logoutcrash"])
def test_a_logout_is_final_though_its_view_is_rolled_back(
    settings, client, user, monkeypatch, page
):
    settings.SESSION_STRATEGY = DATABASE
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    client.get("/login/")
    key = client.cookies["sessionid"].value
    response = client.get(f"/{page}/")
    assert response.cookies["sessionid"].value == ""
    assert SessionStore(key).get("_auth_user_id") is None


@pytest.mark.parametrize("page", ["interrupted", "down"])
def test_an_error_report_shows_no_key(strategy, monkeypatch, page):
    def view(request):
        request.session["name"] = "more"
        if page == "interrupted":
            SessionStore(request.session.session_key).flush()
        else:
            monkeypatch.setattr(strategy, "merge", down)
        return HttpResponse()

    def down(*given):
        raise StrategyUnavailable("down")

    session = SessionStore()
    session["name"] = "private"
    session.save()
    cookie = {"cookie": f"sessionid={session.session_key}"}
    request = RequestFactory().get("/", headers=cookie)
    del cookie  # for this frame is in the report
    caught = []
    monkeypatch.setattr(
        "django_strategy_sessions.middleware.response_for_exception",
        lambda request, error: caught.append(error) or HttpResponse(status=500),
    )
    try:
        SessionMiddleware(view)(request)
    except SessionInterrupted as error:
        caught.append(error)
    (error,) = caught
    report = ExceptionReporter(request, type(error), error, error.__traceback__)
    html = report.get_traceback_html()
    assert "_finish" in html
    assert session.session_key not in html


def test_a_logout_in_another_tab_interrupts_a_save(strategy, user):
    session = SessionStore()
    session["name"] = "cart"
    session.save()

    def view(request):
        request.session["name"] = "more"
        SessionStore(session.session_key).flush()
        return HttpResponse()

    request = RequestFactory().get("/")
    request.COOKIES = {"sessionid": session.session_key}
    with pytest.raises(SessionInterrupted):
        SessionMiddleware(view)(request)


# -- a store that is down, whichever layer meets it (real outages: test_outages.py) ---------------

FAILING = {
    "load": ["read/", "write/?name=2", "login/", "logout/", "whoami/"],
    "merge": ["write/?name=2", "login/"],
    "rotate": ["login/"],
    "end": ["logout/"],
}
CASES = [
    pytest.param(verb, a + page, id=f"{verb}-{a}{page}")
    for verb, pages in FAILING.items()
    for page in pages
    for a in ("", "a")
]


def visit(asynchronous, page, cookie):
    """One request through the whole stack; its errors are answered, as in production."""
    if not asynchronous:
        client = Client(raise_request_exception=False)
        client.cookies["sessionid"] = cookie
        return client.get(f"/{page}")
    client = AsyncClient(raise_request_exception=False)
    client.cookies["sessionid"] = cookie
    return run_in_loop(client.get(f"/{page}"))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("verb", "page"), CASES)
def test_an_outage_is_a_503_that_leaves_the_cookie_alone(
    strategy, user, client, monkeypatch, caplog, verb, page, asynchronous
):
    client.get("/write/?name=cart")
    cookie = client.cookies["sessionid"].value

    def unavailable(*given):
        raise StrategyUnavailable("down") from OSError("no route to host")

    async def aunavailable(*given):
        unavailable()

    with monkeypatch.context() as patch:
        patch.setattr(strategy, verb, unavailable)
        patch.setattr(strategy, f"a{verb}", aunavailable)
        response = visit(asynchronous, page, cookie)
        assert response.status_code == 503
        assert response.headers["Retry-After"] == RETRY_AFTER
        if (verb, page) in {("merge", "login/"), ("merge", "alogin/")}:
            # The rotation was done: the old key leads nowhere, the new one to the cart.
            cookie = response.cookies["sessionid"].value
        else:
            assert not response.cookies
        assert visit(asynchronous, "untouched/", cookie).status_code == 200
    (error,) = {record.exc_info[1] for record in caplog.records if record.exc_info}
    assert isinstance(error.__cause__, OSError)
    assert cookie[:22] not in caplog.text
    assert visit(asynchronous, "read/", cookie).json()["value"] == "cart"


def test_a_view_may_handle_an_outage_itself(strategy, client, monkeypatch):
    client.get("/write/?name=cart")

    def view(request):
        with pytest.raises(StrategyUnavailable):
            request.session["name"]
        return HttpResponse("without")

    def unavailable(session_id):
        raise StrategyUnavailable("down") from OSError("no route to host")

    monkeypatch.setattr(strategy, "load", unavailable)
    request = RequestFactory().get("/")
    request.COOKIES = {"sessionid": client.cookies["sessionid"].value}
    response = SessionMiddleware(view)(request)
    assert (response.status_code, response.content) == (200, b"without")
    assert "sessionid" not in response.cookies
