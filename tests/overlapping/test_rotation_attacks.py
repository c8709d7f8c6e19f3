"""After a rotation or a logout, the old key is dead for every request that starts later, be it an
attacker's or the owner's.
"""

from __future__ import annotations

import pytest
from django.contrib import auth
from django.contrib.auth import get_user_model

from django_strategy_sessions.engine import SessionStore

from ..in_flight import LOADED, MODIFIED, ask, held, key, loaded, page, with_key

TIMEOUT = 30  # seconds, for requests that wait for each other
NEW_SECRET = "a new secret key that is as long as it should be: 0123456789"

servers = pytest.mark.parametrize("server", ["wsgi", "asgi"])


# -- the old key is dead ---------------------------------------------------------------------------


@servers
def test_a_load_by_the_old_key_finds_nothing(client, middleware, server):
    before = key(client)
    client.get("/login/")
    assert loaded(before) is None
    assert held(before) == {}
    assert not SessionStore().exists(before)
    old = with_key(before)
    response = ask(old, LOADED, ("keys",), server=server)
    assert [list(names) for names in response.seen[1:]] == [[]]
    assert with_key(before).get("/whoami/").content == b""


@servers
@pytest.mark.parametrize("way", ["save", "apply", "cycle_key", "flush", "login"])
def test_a_request_that_starts_after_the_rotation_does_not_reach_the_session(
    client, middleware, server, way
):
    """With a key that an attacker planted in the victim's browser, or stole from it."""
    planted = key(client)
    client.get("/login/")
    client.get("/write/?name=private")
    expected = held(key(client))
    steps = {
        "save": [("update", {"_auth_user_id": "7", "name": "theirs"}), ("save",)],
        "apply": [("apply", "name", lambda value: f"{value} and more", "none")],
        "cycle_key": [("cycle_key",), ("update", {"name": "theirs"})],
        "flush": [("flush",)],
        "login": [lambda request: auth.login(request, other())],
    }[way]
    response = ask(with_key(planted), *steps, server=server)
    assert response.status_code == 200
    assert "private" not in str(response.seen)
    assert held(key(client)) == expected
    assert client.get("/whoami/").content == b"ada"
    sent = response.cookies["sessionid"].value if "sessionid" in response.cookies else ""
    assert sent not in {planted, key(client)}
    assert "private" not in str(held(sent))


def other():
    return get_user_model().objects.create_user("mallory", password="secret")


@servers
@pytest.mark.parametrize("way", ["save", "cycle_key", "modified"])
def test_a_planted_key_that_is_in_flight_at_the_login_learns_nothing(
    client, middleware, server, way
):
    """The attacker's own slow request has loaded the session before the victim logs in.

    What it sees of the session stays what it has loaded, whatever it saves."""

    def login(_request):
        client.get("/login/")
        client.get("/write/?secret=private")

    steps = {
        "save": [("update", {"x": 1}), ("save",), ("update", {"y": 1}), ("save",)],
        "cycle_key": [("cycle_key",)],
        "modified": [MODIFIED, ("save",)],
    }[way]
    seen = {"data": {}, "key": None, "user": ""}  # if its save is refused

    def look(request):
        seen["data"] = dict(request.session.items())
        seen["key"] = request.session.session_key
        seen["user"] = auth.get_user(request).get_username()

    planted = with_key(key(client))
    response = ask(planted, LOADED, login, *steps, look, server=server)
    assert seen["user"] == ""
    assert not {"secret", "_auth_user_id", "_auth_user_hash"} & seen["data"].keys()
    assert seen["key"] != key(client)
    if way == "cycle_key":  # no user was there: it has a session of its own, as every visitor may
        assert held(planted.cookies["sessionid"].value).keys() <= {"name"}
    else:
        assert "sessionid" not in response.cookies
    assert planted.get("/whoami/").content == b""
    assert planted.get("/read/").json()["value"] in (None, "cart")
    assert client.get("/whoami/").content == b"ada"


@servers
def test_a_planted_key_that_is_in_flight_cannot_end_the_victims_session(client, middleware, server):
    """A logout ends what it knows: the key that it was given, which is dead already."""
    planted = with_key(key(client))
    ask(planted, LOADED, page(client, "/login/"), ("flush",), server=server)
    assert client.get("/whoami/").content == b"ada"


@servers
def test_a_login_in_flight_never_joins_the_session_of_another_login(client, middleware, server):
    """Bringing a user into a session makes a session of its own, as it did before."""
    bob = get_user_model().objects.create_user("bob", password="secret")
    tab = with_key(key(client))

    def login(_request):
        client.get("/login/")
        client.get("/write/?secret=private")

    def login_as_bob(request):
        auth.login(request, bob, "django.contrib.auth.backends.ModelBackend")

    response = ask(tab, LOADED, login, login_as_bob, server=server)
    assert response.status_code == 200
    assert tab.get("/whoami/").content == b"bob"
    assert client.get("/whoami/").content == b"ada"
    assert key(tab) != key(client)
    assert held(key(tab))["name"] == "cart"
    assert "secret" not in held(key(tab))


@servers
def test_a_user_in_flight_never_reaches_the_session_of_a_login_by_a_plain_save(
    client, middleware, server
):
    """Code that sets the user's names without a rotation brings a user in, too."""
    bob = get_user_model().objects.create_user("bob", password="secret")
    change = {
        "_auth_user_id": str(bob.pk),
        "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
        "_auth_user_hash": bob.get_session_auth_hash(),
    }
    planted = with_key(key(client))
    response = ask(planted, LOADED, page(client, "/login/"), ("update", change), server=server)
    assert response.status_code in (200, 400)
    assert client.get("/whoami/").content == b"ada"


@servers
@pytest.mark.parametrize("way", ["save", "cycle_key"])
def test_a_stolen_key_that_is_in_flight_at_a_rotation_gets_no_new_key(
    client, settings, middleware, server, way
):
    """The thief has a key of the victim's session; a password change rotates it."""
    client.get("/login/")
    stolen = with_key(key(client))

    def rotate(_request):
        ask(client, ("cycle_key",), ("update", {"secret": "private"}))

    seen = {"data": {}, "key": None}  # if its save is refused

    def look(request):
        seen["data"] = dict(request.session.items())
        seen["key"] = request.session.session_key

    steps = {"save": [("update", {"x": 1}), ("save",)], "cycle_key": [("cycle_key",)]}[way]
    response = ask(stolen, LOADED, rotate, *steps, look, server=server)
    assert "sessionid" not in response.cookies
    assert seen["key"] != key(client)
    assert not SessionStore().exists(seen["key"])
    assert "secret" not in seen["data"]
    assert stolen.get("/whoami/").content == b""
    assert client.get("/whoami/").content == b"ada"


# -- a logout leaves no marker --------------------------------------------------------------------


@servers
@pytest.mark.parametrize("ends", ["/logout/", "a flush", "another user's login"])
def test_after_a_logout_a_save_in_flight_is_refused(client, middleware, server, ends):
    get_user_model().objects.create_user("bob", password="secret")
    client.get("/login/")
    before = key(client)

    def end(_request):
        if ends == "/logout/":
            client.get(ends)
        elif ends == "a flush":
            SessionStore(before).flush()
        else:
            client.force_login(get_user_model().objects.get(username="bob"))

    late = with_key(before)
    response = ask(late, LOADED, end, ("update", {"late": 1}), server=server)
    assert response.status_code == 400
    assert "sessionid" not in response.cookies
    assert loaded(before) is None
    assert "late" not in client.session


@servers
def test_after_a_login_and_a_logout_a_save_in_flight_is_refused(client, middleware, server):
    before = key(client)

    def meanwhile(_request):
        client.get("/login/")
        client.get("/logout/")

    late = with_key(before)
    response = ask(late, LOADED, meanwhile, ("update", {"late": 1}), server=server)
    assert response.status_code == 400
    assert "sessionid" not in response.cookies
    assert held(before) == {}
