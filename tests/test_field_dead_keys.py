"""No response sends the key of a session that has ended: it would replace a good one.

A browser that polls while it logs in, in or out, would else be logged out a moment later.
"""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.exceptions import SessionInterrupted
from django.http import HttpResponse

from django_strategy_sessions import create_session_storage
from django_strategy_sessions.engine import SessionStore

from .conftest import DJANGOS, OURS, run_in_loop
from .in_flight import LOADED, MODIFIED, Browser, ask

servers = pytest.mark.parametrize("server", ["wsgi", "asgi"])


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = "tests.in_flight"


@pytest.fixture
def client(strategy):
    get_user_model().objects.create_user("ada", password="secret")
    client = Browser()
    client.get("/write/?name=cart")
    return client


def key(client):
    return client.cookies["sessionid"].value


def follows(response, middleware):
    """Whether it was answered without a cookie. Django's own middleware sends one with every save
    that succeeds: there the only answer without one is its 400."""
    assert "sessionid" not in response.cookies
    return response.status_code in {OURS: [200], DJANGOS: [200, 400]}[middleware]


def log_in(client):
    def elsewhere(_request):
        assert client.get("/login/").status_code == 200

    return elsewhere


def log_out(client):
    def elsewhere(_request):
        assert client.get("/logout/").status_code == 200

    return elsewhere


def end(session_key):
    return lambda _request: SessionStore(session_key).flush()


# -- a browser, whose requests share one jar of cookies ------------------------------------------


@servers
@pytest.mark.parametrize("wish", ["modified", "every request"])
def test_a_poll_that_overlaps_a_login_leaves_the_browser_logged_in(
    client, settings, middleware, server, wish
):
    settings.SESSION_SAVE_EVERY_REQUEST = wish == "every request"
    asked = [MODIFIED] if wish == "modified" else []
    response = ask(client, LOADED, log_in(client), *asked, server=server)
    assert follows(response, middleware)
    assert client.get("/whoami/").content == b"ada"
    assert client.get("/read/").json()["value"] == "cart"


@servers
def test_three_polls_that_overlap_a_login_leave_the_browser_logged_in(
    client, settings, middleware, server
):
    """Each began before the login and is answered after it."""
    settings.SESSION_SAVE_EVERY_REQUEST = True

    def second(request):
        ask(client, LOADED, third)

    def third(request):
        ask(client, LOADED, log_in(client))

    ask(client, LOADED, second, server=server)
    assert client.get("/whoami/").content == b"ada"


@servers
@pytest.mark.parametrize("wish", ["modified", "every request"])
def test_a_poll_that_overlaps_a_logout_sends_no_cookie(client, settings, middleware, server, wish):
    client.get("/login/")
    settings.SESSION_SAVE_EVERY_REQUEST = wish == "every request"
    asked = [MODIFIED] if wish == "modified" else []
    ended = key(client)
    response = ask(client, LOADED, log_out(client), *asked, server=server)
    assert "sessionid" not in response.cookies
    quiet = wish == "every request" and middleware == OURS
    assert response.status_code == (200 if quiet else 400)
    assert not SessionStore().exists(ended)
    assert client.get("/whoami/").content == b""


# -- what ended it does not matter, nor who asked for the cookie -----------------------------------


@servers
def test_a_session_that_was_modified_and_is_gone_is_an_interrupted_request(
    client, middleware, server
):
    """As with Django, also where no value differs."""
    response = ask(client, LOADED, end(key(client)), MODIFIED, server=server)
    assert response.status_code == 400
    assert "sessionid" not in response.cookies


@servers
def test_a_flash_that_was_read_from_a_session_that_is_gone_is_an_interrupted_request(
    client, middleware, server
):
    client.get("/flash/")
    response = ask(client, ("get", "notice"), end(key(client)), server=server)
    assert response.seen == ["saved"]
    assert response.status_code == 400
    assert "sessionid" not in response.cookies


@servers
def test_a_changed_expiry_of_a_session_that_is_gone_is_an_interrupted_request(
    client, middleware, server
):
    response = ask(client, LOADED, end(key(client)), ("set_expiry", 5000), server=server)
    assert response.status_code == 400
    assert "sessionid" not in response.cookies


@servers
def test_a_renewal_that_finds_the_session_gone_is_dropped_quietly(
    client, settings, middleware, server
):
    settings.SESSION_SAVE_EVERY_REQUEST = True
    response = ask(client, LOADED, end(key(client)), server=server)
    assert "sessionid" not in response.cookies
    # Django's middleware knows no other answer without a cookie.
    assert response.status_code == {OURS: 200, DJANGOS: 400}[middleware]


@servers
def test_a_renewal_that_finds_the_session_expired_is_dropped_quietly(
    client, settings, middleware, server
):
    settings.SESSION_SAVE_EVERY_REQUEST = True

    def expire(_request):
        session = SessionStore(key(client))
        session.set_expiry(-1)
        session.save()

    response = ask(client, LOADED, expire, server=server)
    assert "sessionid" not in response.cookies
    assert response.status_code == {OURS: 200, DJANGOS: 400}[middleware]


@servers
def test_a_session_that_is_alive_is_renewed(client, settings, middleware, server):
    settings.SESSION_SAVE_EVERY_REQUEST = True
    assert ask(client, LOADED, server=server).cookies["sessionid"].value == key(client)
    settings.SESSION_SAVE_EVERY_REQUEST = False
    assert ask(client, LOADED, MODIFIED, server=server).cookies["sessionid"].value == key(client)


@servers
def test_a_session_that_ended_after_an_early_save_sends_no_cookie(client, middleware, server):
    """The save at the end has nothing left to write."""
    steps = [("update", {"name": "early"}), ("save",), end(key(client))]
    response = ask(client, *steps, server=server)
    assert response.status_code == 400
    assert "sessionid" not in response.cookies


@servers
def test_a_session_that_ended_after_its_own_rotation_sends_no_cookie(client, middleware, server):
    def end_the_new(request):
        SessionStore(request.session.session_key).flush()

    response = ask(client, ("cycle_key",), end_the_new, server=server)
    assert response.status_code == 400
    assert "sessionid" not in response.cookies


@servers
def test_only_a_cookie_without_a_write_costs_another_load(
    client, settings, middleware, calls, server
):
    """A request that writes anyway, or sends no cookie, costs what it did."""

    def cost(*steps):
        calls.clear()
        assert ask(client, *steps, server=server).status_code == 200
        return len(calls)

    assert cost() == 0
    assert cost(LOADED) == 1
    assert cost(LOADED, ("update", {"a": 1})) == 2
    assert cost(LOADED, MODIFIED) == 2
    settings.SESSION_SAVE_EVERY_REQUEST = True
    # Ours looks for the first time when the response is there; Django's has looked before.
    assert cost() == (1 if middleware == OURS else 2)
    assert cost(LOADED) == 2
    assert cost(LOADED, ("update", {"a": 2})) == 2


# -- explicit storages -----------------------------------------------------------------------------


@pytest.fixture(params=["sync", "async"])
def storage(request, strategy):
    """The project's strategy as an explicit storage; its calls by their plain names."""
    return Calls(create_session_storage(strategy), request.param)


class Calls:
    def __init__(self, storage, colour):
        self.storage, self.colour = storage, colour

    def __getattr__(self, name):
        if self.colour == "sync":
            return getattr(self.storage, name)
        return lambda *given, **options: run_in_loop(
            getattr(self.storage, f"a{name}")(*given, **options)
        )

    def opened(self, **values):
        """The header of a session with these values."""
        session = self.get_session()
        for name, value in values.items():
            session.set(name, value)
        return self.commit_session(session).partition(";")[0]


@pytest.mark.parametrize("ended", ["destroyed", "rotated"])
def test_a_commit_without_a_change_sends_no_dead_key(storage, ended):
    cookie = storage.opened(cart=1)
    session, other = storage.get_session(cookie), storage.get_session(cookie)
    if ended == "destroyed":
        storage.destroy_session(other)
    else:
        storage.commit_session(other, rotate=True)
    response = HttpResponse()
    assert "__session=" not in storage.commit_session(session, response)
    assert not response.cookies


def test_a_commit_with_a_change_to_a_destroyed_session_is_interrupted(storage):
    cookie = storage.opened(cart=1)
    session = storage.get_session(cookie)
    storage.destroy_session(storage.get_session(cookie))
    session.set("cart", 2)
    response = HttpResponse()
    with pytest.raises(SessionInterrupted):
        storage.commit_session(session, response)
    assert not response.cookies


def test_a_second_commit_of_a_session_that_was_destroyed_in_between_sends_no_dead_key(storage):
    session = storage.get_session()
    session.set("cart", 1)
    cookie = storage.commit_session(session).partition(";")[0]
    storage.destroy_session(storage.get_session(cookie))
    response = HttpResponse()
    assert "__session=" not in storage.commit_session(session, response)
    assert not response.cookies


def test_a_commit_of_a_session_that_is_alive_renews_its_cookie(storage):
    cookie = storage.opened(cart=1)
    response = HttpResponse()
    assert storage.commit_session(storage.get_session(cookie), response).startswith(cookie)
    assert f"__session={response.cookies['__session'].value}" == cookie


def test_four_plain_functions_send_no_dead_key():
    rows = {}

    def update_data(session_id, data, expires):
        return session_id in rows and (rows.update({session_id: data}) or True)

    storage = create_session_storage(
        cookie={"secrets": ["s" * 32]},
        create_data=lambda data, expires: rows.update(id=data) or "id",
        read_data=rows.get,
        update_data=update_data,
        delete_data=lambda session_id: rows.pop(session_id, None),
    )
    session = storage.get_session()
    session.set("cart", 1)
    cookie = storage.commit_session(session).partition(";")[0]
    session = storage.get_session(cookie)
    rows.clear()
    response = HttpResponse()
    assert "__session=" not in storage.commit_session(session, response)
    assert not response.cookies
