"""What browsers, proxies, middleware and tests really hand over as the session's cookie."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest
from django.contrib.auth import get_user_model
from django.http import HttpResponse
from django.test import RequestFactory

from django_strategy_sessions import create_session_storage
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.middleware import SessionMiddleware

from .conftest import OURS, run_in_loop
from .in_flight import LOADED, MODIFIED, Browser, ask

servers = pytest.mark.parametrize("server", ["wsgi", "asgi"])
colours = pytest.mark.parametrize("colour", ["sync", "async"])


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = "tests.in_flight"
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]


@pytest.fixture
def ada(strategy):
    return get_user_model().objects.create_user("ada", password="secret")


def saved(**values):
    session = SessionStore()
    session.update(values)
    session.save()
    return session.session_key


def ended():
    """The key of a session that is no more: it still verifies."""
    session_key = saved(name="old")
    SessionStore(session_key).flush()
    return session_key


def expired():
    session_key = saved(name="old")
    session = SessionStore(session_key)
    session.set_expiry(-1)
    session.save()
    return session_key


STALE = {
    "of another site": lambda: f"{'A' * 22}.{'B' * 17}",
    "ended": ended,
    "expired": expired,
}


@pytest.fixture(params=STALE)
def stale(request, strategy):
    return STALE[request.param]()


orders = pytest.mark.parametrize("order", ["stale first", "stale last"])


def both(stale, good, order, name="sessionid"):
    keys = [stale, good] if order == "stale first" else [good, stale]
    return {"cookie": "; ".join(f"{name}={each}" for each in keys)}


# -- two cookies of one name ----------------------------------------------------------------------
# A changed SESSION_COOKIE_DOMAIN or SESSION_COOKIE_PATH leaves the old one in browsers for weeks.


@orders
@servers
def test_the_valid_one_of_two_cookies_is_used_and_none_is_deleted(stale, order, server):
    headers = both(stale, saved(name="good"), order)
    response = ask(Browser(), ("get", "name"), server=server, headers=headers)
    assert response.seen == ["good"]
    assert "sessionid" not in response.cookies


@servers
def test_the_valid_one_of_two_cookies_is_used_where_a_space_follows_a_name(stale, server):
    headers = {"cookie": f"sessionid={saved(name='good')}; sessionid ={stale}"}
    assert ask(Browser(), ("get", "name"), server=server, headers=headers).seen == ["good"]


@orders
@servers
def test_a_save_renews_the_valid_one_of_two_cookies(stale, order, server):
    good = saved(name="good")
    steps = [("update", {"more": 1})]
    response = ask(Browser(), *steps, server=server, headers=both(stale, good, order))
    assert response.cookies["sessionid"].value == good
    assert dict(SessionStore(good).items()) == {"name": "good", "more": 1}


@orders
@servers
def test_a_page_that_only_asks_for_a_cookie_renews_the_valid_one(settings, stale, order, server):
    good = saved(name="good")
    response = ask(Browser(), MODIFIED, server=server, headers=both(stale, good, order))
    assert response.cookies["sessionid"].value == good
    settings.SESSION_SAVE_EVERY_REQUEST = True
    response = ask(Browser(), server=server, headers=both(stale, good, order))
    assert response.cookies["sessionid"].value == good


@orders
@servers
def test_a_user_with_two_cookies_stays_logged_in_and_can_log_out(ada, stale, order, server):
    client = Browser()
    client.force_login(ada)
    good = client.cookies["sessionid"].value
    headers = both(stale, good, order)

    def who(request):
        return HttpResponse(request.user.get_username())

    assert ask(Browser(), who, server=server, headers=headers).content == b"ada"
    response = ask(Browser(), LOADED, ("flush",), server=server, headers=headers)
    assert response.cookies["sessionid"].value == ""
    assert not SessionStore().exists(good)
    assert ask(Browser(), who, server=server, headers=headers).content == b""


@orders
@servers
def test_a_login_with_two_cookies_keeps_the_cart_and_ends_the_old_key(ada, stale, order, server):
    good = saved(name="cart")
    page = "/login/" if server == "wsgi" else "/alogin/"
    client = Browser()
    response = client.get(page, headers=both(stale, good, order))
    fresh = response.cookies["sessionid"].value
    assert fresh not in {stale, good}
    assert SessionStore(fresh)["name"] == "cart"
    assert not SessionStore().exists(good)


@servers
def test_the_first_of_two_live_sessions_is_used(strategy, server):
    """Browsers send the one with the longer path first (RFC 6265, 5.4)."""
    first, last = saved(name="first"), saved(name="last")
    headers = {"cookie": f"sessionid={first}; csrftoken=x; sessionid={last}"}
    assert ask(Browser(), ("get", "name"), server=server, headers=headers).seen == ["first"]


@servers
def test_a_cookie_that_does_not_verify_is_not_deleted_while_another_verifies(strategy, server):
    """Though that one's session has ended: a backup may bring it back."""
    for keys in ([ended(), "x"], ["x", ended()]):
        headers = {"cookie": "; ".join(f"sessionid={each}" for each in keys)}
        response = ask(Browser(), ("get", "name"), server=server, headers=headers)
        assert response.seen == [None]
        assert "sessionid" not in response.cookies


@servers
def test_two_cookies_that_do_not_verify_are_deleted(strategy, server):
    headers = {"cookie": "sessionid=x; sessionid=y"}
    response = ask(Browser(), ("get", "name"), server=server, headers=headers)
    assert response.cookies["sessionid"].value == ""


@orders
@colours
@pytest.mark.parametrize("given", ["request", "header"])
def test_an_explicit_storage_uses_the_valid_one_of_two_cookies(strategy, order, colour, given):
    storage = create_session_storage(strategy)

    def opened(source):
        if colour == "sync":
            return storage.get_session(source)
        return run_in_loop(storage.aget_session(source))

    session = storage.get_session()
    session.set("name", "good")
    good = storage.commit_session(session).partition(";")[0].partition("=")[2]
    old = storage.get_session()
    old.set("name", "old")
    dead = storage.commit_session(old).partition(";")[0].partition("=")[2]
    storage.destroy_session(old)
    for stale in (dead, "x", "", f"{'A' * 22}.{'B' * 17}"):
        headers = both(stale, good, order, "__session")
        source = headers["cookie"]
        if given == "request":
            source = RequestFactory().get("/", headers=headers)
        session = opened(source)
        assert session.get("name") == "good"
        header = storage.commit_session(session)
        assert header.startswith(f"__session={good};")


# -- cookies that no browser sent -----------------------------------------------------------------


@colours
@pytest.mark.parametrize("header", [None, "stale"])
def test_a_storage_reads_the_cookies_of_the_request(strategy, colour, header):
    """Where a test or a middleware has set them."""
    storage = create_session_storage(strategy)
    session = storage.get_session()
    session.set("name", "good")
    good = storage.commit_session(session).partition(";")[0].partition("=")[2]
    other = storage.get_session()
    other.set("name", "of the header")
    sent = storage.commit_session(other).partition(";")[0]
    request = RequestFactory().get("/", headers={"cookie": sent} if header else None)
    request.COOKIES["__session"] = good
    opened = (
        storage.get_session(request)
        if colour == "sync"
        else run_in_loop(storage.aget_session(request))
    )
    assert opened.get("name") == "good"


@pytest.mark.parametrize("header", [None, "stale"])
def test_the_middleware_reads_the_cookies_of_the_request(strategy, header):
    good, sent = saved(name="good"), saved(name="of the header")
    headers = {"cookie": f"sessionid={sent}"} if header else None
    request = RequestFactory().get("/", headers=headers)
    request.COOKIES["sessionid"] = good
    response = SessionMiddleware(lambda r: HttpResponse(r.session.get("name")))(request)
    assert response.content == b"good"


# -- keys that are no strings ---------------------------------------------------------------------

NO_KEYS = {
    "a morsel": lambda key: SimpleCookie({"sessionid": key})["sessionid"],
    "bytes": lambda key: key.encode(),
    "a number": lambda key: 5,
    "a list": lambda key: [key],
    "an object": lambda key: object(),
}


@pytest.mark.parametrize("kind", NO_KEYS)
@colours
def test_a_key_that_is_not_a_string_is_unknown(strategy, colour, kind):
    alive = saved(name="private")
    given = NO_KEYS[kind](alive)
    session = SessionStore(given)
    assert session.is_empty()
    assert session.session_key is None
    if colour == "sync":
        assert session.get("name") is None
        assert session.load() == {}
        assert not session.exists(given)
        session.delete(given)
        session["a"] = 1
        session.save()
    else:
        assert run_in_loop(session.aget("name")) is None
        assert run_in_loop(session.aload()) == {}
        assert not run_in_loop(session.aexists(given))
        run_in_loop(session.adelete(given))
        run_in_loop(session.aset("a", 1))
        run_in_loop(session.asave())
    assert SessionStore(session.session_key).load() == {"a": 1}
    assert SessionStore(alive).load() == {"name": "private"}


def test_a_request_whose_cookie_is_not_a_string_is_anonymous(strategy):
    """Some tests put a morsel there, as `response.cookies` has it."""
    client = Browser()
    client.cookies["sessionid"] = saved(name="private")
    request = RequestFactory().get("/")
    request.COOKIES["sessionid"] = client.cookies["sessionid"]
    assert isinstance(request.COOKIES["sessionid"], type(SimpleCookie("a=b")["a"]))
    response = SessionMiddleware(lambda r: HttpResponse(f"{r.session.get('name')}"))(request)
    assert response.content == b"None"


# -- another name for the cookie ------------------------------------------------------------------

NEW = "__Host-sessionid"


@pytest.fixture
def renamed(settings):
    """Call it, and the site's cookie has the new name."""

    def rename():
        settings.SESSION_COOKIE_NAME, settings.SESSION_COOKIE_SECURE = NEW, True
        settings.SESSION_COOKIE_NAME_FALLBACKS = ["sessionid"]

    return rename


@servers
def test_a_new_name_of_the_cookie_logs_nobody_out(ada, renamed, server):
    client = Browser()
    client.force_login(ada)
    client.get("/write/?name=cart")
    old = client.cookies["sessionid"].value
    renamed()

    def who(request):
        return HttpResponse(request.user.get_username())

    response = ask(client, who, server=server)
    assert response.content == b"ada"
    assert response.cookies["sessionid"].value == ""
    assert response.cookies["sessionid"]["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    new = response.cookies[NEW].value
    assert new
    assert new != old, "a key is bound to the name of its cookie"
    del client.cookies["sessionid"]
    response = ask(client, ("get", "name"), server=server)
    assert response.seen == ["cart"]
    assert not response.cookies


@servers
def test_a_write_under_the_old_name_is_answered_under_the_new(strategy, renamed, server):
    client = Browser()
    client.get("/write/?name=cart")
    renamed()
    response = ask(client, ("update", {"more": 1}), server=server)
    assert response.cookies["sessionid"].value == ""
    assert SessionStore(response.cookies[NEW].value).load() == {"name": "cart", "more": 1}


@servers
def test_a_login_under_the_old_name_rotates_the_session(ada, renamed, server):
    client = Browser()
    client.get("/write/?name=cart")
    old = client.cookies["sessionid"].value
    renamed()
    response = client.get("/login/" if server == "wsgi" else "/alogin/")
    assert response.cookies["sessionid"].value == ""
    assert SessionStore(response.cookies[NEW].value)["name"] == "cart"
    stolen = Browser()
    stolen.cookies["sessionid"] = old
    assert stolen.get("/read/").json()["value"] is None


@servers
def test_a_logout_under_the_old_name_is_final(ada, renamed, server):
    client = Browser()
    client.force_login(ada)
    old = client.cookies["sessionid"].value
    renamed()
    response = ask(client, LOADED, ("flush",), server=server)
    assert response.cookies["sessionid"].value == ""
    assert NEW not in response.cookies or response.cookies[NEW].value == ""
    copy = Browser()
    copy.cookies["sessionid"] = old
    assert copy.get("/whoami/").content == b""


@servers
def test_the_new_name_wins_over_the_old(strategy, renamed, server):
    old = saved(name="old")
    renamed()
    new = saved(name="new")
    headers = {"cookie": f"sessionid={old}; {NEW}={new}"}
    response = ask(Browser(), ("get", "name"), server=server, headers=headers)
    assert response.seen == ["new"]


@servers
def test_the_old_name_is_used_if_the_session_of_the_new_name_has_ended(strategy, renamed, server):
    old = saved(name="old")
    renamed()
    headers = {"cookie": f"{NEW}={ended()}; sessionid={old}"}
    response = ask(Browser(), ("get", "name"), server=server, headers=headers)
    assert response.seen == ["old"]


@servers
def test_without_fallbacks_the_old_name_is_ignored(strategy, settings, renamed, server):
    client = Browser()
    client.get("/write/?name=cart")
    renamed()
    settings.SESSION_COOKIE_NAME_FALLBACKS = []
    response = ask(client, ("get", "name"), server=server)
    assert response.seen == [None]
    assert not response.cookies


def test_a_key_of_the_old_name_does_not_verify_under_the_new_name(strategy, renamed):
    client = Browser()
    client.get("/write/?name=cart")
    old = client.cookies["sessionid"].value
    renamed()
    moved = Browser()
    moved.cookies[NEW] = old
    assert moved.get("/read/").json()["value"] is None


# -- partitioned cookies (CHIPS) ------------------------------------------------------------------


@servers
def test_a_partitioned_cookie_is_set_and_deleted_as_partitioned(strategy, settings, server):
    """A browser deletes it only where the deletion has the attribute, too."""
    settings.SESSION_COOKIE_PARTITIONED = settings.SESSION_COOKIE_SECURE = True
    settings.SESSION_COOKIE_SAMESITE = "None"
    client = Browser()
    response = ask(client, ("update", {"a": 1}), server=server)
    sent = response.cookies["sessionid"].OutputString()
    assert "; partitioned" in sent.lower()
    assert "; secure" in sent.lower()
    response = ask(client, ("flush",), server=server)
    gone = response.cookies["sessionid"].OutputString()
    assert response.cookies["sessionid"].value == ""
    assert "; partitioned" in gone.lower()
    assert "; secure" in gone.lower()


@servers
def test_a_cookie_is_not_partitioned_unless_the_setting_says_so(strategy, server):
    response = ask(Browser(), ("update", {"a": 1}), server=server)
    assert "partitioned" not in response.cookies["sessionid"].OutputString().lower()
