"""Views whose transaction is rolled back: logouts stay, and sessions go on from what they were.

What is rolled back is what a strategy has written on the view's own connection.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from django.contrib import auth, messages
from django.contrib.auth import get_user_model
from django.db import transaction
from django.http import HttpResponse

from django_strategy_sessions import create_session_storage
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.strategies import get_strategy

from ..conftest import DATABASE, OURS, POSTGRES, in_postgres
from ..in_flight import LOADED, Browser, ask, held, key

servers = pytest.mark.parametrize("server", ["wsgi", "asgi"])
STORAGES = {
    "django": "django.contrib.messages.storage.session.SessionStorage",
    "flash": "django_strategy_sessions.messages.FlashStorage",
}


class Refused(Exception):
    """Of the view: it undoes its transaction."""


@pytest.fixture(
    params=[
        pytest.param(DATABASE, id="database"),
        pytest.param(POSTGRES, id="postgres", marks=in_postgres),
    ]
)
def strategy(request, settings, transactional_db):
    """Those whose writes are part of the view's transaction."""
    settings.SESSION_STRATEGY = request.param
    return get_strategy()


@pytest.fixture
def ours(settings):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]


def using():
    """The database whose transactions the strategy's writes are part of."""
    return get_strategy().alias


# -- ways to undo what was done in a block ---------------------------------------------------------


def exception(act):
    """The block fails, and the view answers."""

    def view(request):
        with suppress(Refused), transaction.atomic(using()):
            act(request)
            raise Refused

    return view


def set_rollback(act):
    """As REST framework does for an exception that it answers."""

    def view(request):
        with transaction.atomic(using()):
            act(request)
            transaction.set_rollback(True, using())

    return view


def savepoint(act):
    """Only an inner block is undone; the view's transaction is committed."""

    def view(request):
        with transaction.atomic(using()):
            exception(act)(request)

    return view


def outer(act):
    """The inner block ends well; the view's transaction does not."""

    def view(request):
        with suppress(Refused), transaction.atomic(using()):
            with transaction.atomic(using()):
                act(request)
            raise Refused

    return view


undone = pytest.mark.parametrize("undone", [exception, set_rollback, savepoint, outer])


def answer(status):
    return lambda _request: HttpResponse("answered", status=status)


def crash(_request):
    raise Refused


# -- a logout is final -----------------------------------------------------------------------------


def say(request):
    messages.success(request, "Signed out.")


def name(request):
    request.session["next"] = "/"


@servers
@undone
@pytest.mark.parametrize(
    ("then", "end"),
    [(say, answer(200)), (name, answer(400)), (name, answer(503)), (say, crash)],
    ids=["200", "400", "503", "crash"],
)
def test_a_logout_that_is_rolled_back_is_final_even_if_the_session_is_used_afterwards(
    client, ours, settings, undone, then, end, server
):
    """`logout(); messages.success(...)`, as allauth does it."""
    settings.MESSAGE_STORAGE = STORAGES["django"]
    client.get("/login/")
    ended = key(client)
    copy = Browser()
    copy.cookies["sessionid"] = ended

    def act(request):
        auth.logout(request)
        then(request)

    ask(client, undone(act), end, server=server)
    assert not SessionStore().exists(ended)
    assert copy.get("/whoami/").content == b""
    assert client.get("/whoami/").content == b""


@servers
@pytest.mark.parametrize("storage", STORAGES)
def test_a_message_after_a_logout_that_is_rolled_back_is_shown(
    client, ours, settings, storage, server
):
    settings.MESSAGE_STORAGE = STORAGES[storage]
    client.get("/login/")
    ended = key(client)

    def act(request):
        auth.logout(request)
        say(request)

    response = ask(client, set_rollback(act), answer(400), server=server)
    assert response.cookies["sessionid"].value not in {"", ended}
    assert client.get("/said/").json() == {"messages": ["Signed out."]}
    assert not SessionStore().exists(ended)


@servers
def test_a_logout_after_a_save_in_the_block_is_final(client, ours, server):
    client.get("/login/")
    ended = key(client)

    def act(request):
        request.session["before"] = 1
        request.session.save()
        auth.logout(request)
        request.session["after"] = 2

    ask(client, exception(act), server=server)
    assert not SessionStore().exists(ended)
    assert client.get("/whoami/").content == b""
    assert "before" not in client.session


@servers
def test_a_logout_of_a_session_that_was_rotated_in_the_block_is_final(client, ours, server):
    """What is rolled back brings the old key back."""
    client.get("/login/")
    ended = key(client)

    def act(request):
        request.session.cycle_key()
        auth.logout(request)
        request.session["after"] = 2

    ask(client, exception(act), server=server)
    assert not SessionStore().exists(ended)
    assert client.get("/whoami/").content == b""


@servers
def test_the_login_of_another_user_in_a_block_that_is_rolled_back_ends_the_first(
    client, ours, server
):
    """`auth.login` flushes the session of another user."""
    bob = get_user_model().objects.create_user("bob", password="secret")
    client.get("/login/")
    ended = key(client)

    def act(request):
        auth.login(request, bob, "django.contrib.auth.backends.ModelBackend")

    ask(client, LOADED, set_rollback(act), answer(400), server=server)
    assert not SessionStore().exists(ended)
    assert client.get("/whoami/").content != b"ada"


# -- a rotation ------------------------------------------------------------------------------------


@servers
@undone
@pytest.mark.parametrize("status", [200, 400])
def test_after_a_rotation_that_is_rolled_back_the_session_keeps_its_old_key(
    client, middleware, undone, status, server
):
    client.get("/login/")
    before = key(client)
    response = ask(client, undone(lambda r: r.session.cycle_key()), answer(status), server=server)
    assert response.status_code == status
    assert SessionStore().exists(before)
    assert key(client) == before
    assert client.get("/whoami/").content == b"ada"
    assert client.get("/read/").json()["value"] == "cart"


@servers
@undone
def test_what_was_written_around_a_rotation_that_is_rolled_back_is_kept(
    client, middleware, undone, server
):
    def act(request):
        request.session["before"] = 1
        request.session.cycle_key()
        request.session["after"] = 2

    steps = [("update", {"first": 0}), undone(act), ("update", {"last": 3}), answer(400)]
    response = ask(client, *steps, server=server)
    assert response.status_code == 400
    expected = {"name": "cart", "first": 0, "before": 1, "after": 2, "last": 3}
    assert held(key(client)) == expected


@servers
@undone
@pytest.mark.parametrize("status", [200, 400])
def test_a_login_that_is_rolled_back_keeps_the_cart(client, middleware, undone, status, server):
    response = ask(client, undone(log_in), answer(status), server=server)
    assert response.status_code == status
    assert SessionStore().exists(key(client))
    assert client.get("/read/").json()["value"] == "cart"


@servers
@undone
@pytest.mark.parametrize("status", [200, 400])
def test_a_login_that_is_rolled_back_puts_no_user_under_the_key_from_before(
    client, middleware, undone, status, server
):
    """It may have been planted in the visitor's browser."""
    planted = Browser()
    planted.cookies["sessionid"] = key(client)
    ask(client, undone(log_in), answer(status), server=server)
    assert planted.get("/whoami/").content == b""


def log_in(request):
    auth.login(request, get_user_model().objects.get(username="ada"))


@servers
@undone
def test_a_first_session_in_a_block_that_is_rolled_back_is_created_at_the_end(
    strategy, middleware, undone, server
):
    def act(request):
        request.session["a"] = 1
        request.session.save()

    client = Browser()
    response = ask(client, undone(act), answer(400), server=server)
    assert response.status_code == 400
    assert held(response.cookies["sessionid"].value) == {"a": 1}


# -- an early save ---------------------------------------------------------------------------------


@servers
@undone
@pytest.mark.parametrize("later", [True, False])
def test_names_that_were_saved_in_a_block_that_is_rolled_back_are_saved_at_the_end(
    client, middleware, undone, later, server
):
    """Counters of failed logins, say."""

    def act(request):
        request.session["failed"] = 1
        request.session.save()

    steps = [("update", {"after": 2})] if later else []
    response = ask(client, undone(act), *steps, answer(400), server=server)
    assert response.status_code == 400
    expected = {"name": "cart", "failed": 1} | ({"after": 2} if later else {})
    assert held(key(client)) == expected


@servers
def test_an_early_save_that_is_rolled_back_is_followed_by_another(client, middleware, server):
    def act(request):
        request.session["failed"] = 1
        request.session.save()

    def again(request):
        request.session["again"] = 2
        request.session.save()

    ask(client, exception(act), again, server=server)
    assert held(key(client)) == {"name": "cart", "failed": 1, "again": 2}


@servers
def test_a_removal_that_was_saved_in_a_block_that_is_rolled_back_is_kept(
    client, middleware, server
):
    def act(request):
        del request.session["name"]
        request.session.save()

    ask(client, exception(act), ("update", {"after": 2}), server=server)
    assert held(key(client)) == {"after": 2}


@servers
def test_what_apply_wrote_in_a_block_that_is_rolled_back_is_saved_at_the_end(
    client, middleware, server
):
    def act(request):
        assert request.session.apply("failed", lambda count: count + 1, 0) == 1

    ask(client, exception(act), server=server)
    assert held(key(client)) == {"name": "cart", "failed": 1}


@servers
def test_a_changed_expiry_in_a_block_that_is_rolled_back_is_kept(client, middleware, server):
    def act(request):
        request.session.set_expiry(5000)
        request.session.save()

    response = ask(client, exception(act), server=server)
    assert response.cookies["sessionid"]["max-age"] == 5000
    assert held(key(client))["_session_expiry"] == 5000


@servers
def test_names_of_other_requests_survive_a_save_after_a_rollback(client, middleware, server):
    """It merges, as every save does."""

    def act(request):
        request.session["failed"] = 1
        request.session.save()

    def elsewhere(_request):
        client.get("/write/?name=theirs&more=theirs")

    ask(client, exception(act), elsewhere, ("update", {"after": 2}), server=server)
    expected = {"name": "theirs", "more": "theirs", "failed": 1, "after": 2}
    assert held(key(client)) == expected


@servers
def test_what_was_committed_is_not_written_again(client, middleware, server):
    """Another request has overwritten it before the response: the last write wins."""

    def act(request):
        with transaction.atomic(using()):
            request.session["name"] = "mine"
            request.session.save()

    def elsewhere(_request):
        client.get("/write/?name=theirs")

    ask(client, act, elsewhere, ("update", {"after": 2}), server=server)
    assert held(key(client)) == {"name": "theirs", "after": 2}


@servers
def test_a_server_error_still_saves_nothing(client, middleware, server):
    def act(request):
        request.session["failed"] = 1
        request.session.save()

    ask(client, exception(act), ("update", {"after": 2}), crash, server=server)
    assert held(key(client)) == {"name": "cart"}


# -- without a request -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["save", "create", "cycle_key"])
def test_a_session_in_a_script_can_be_saved_after_a_rollback(strategy, verb):
    session = SessionStore()
    if verb != "create":
        session["first"] = 0
        session.save()
    before = session.session_key
    with suppress(Refused), transaction.atomic(using()):
        session["failed"] = 1
        getattr(session, verb)()
        session["failed"] = 1
        session.save()
        raise Refused
    session["after"] = 2
    session.save()
    first = {} if verb == "create" else {"first": 0}
    assert held(session.session_key) == {**first, "failed": 1, "after": 2}
    if verb == "cycle_key":
        old = held(before)
        assert old == {} or session.session_key == before


# -- explicit storages -----------------------------------------------------------------------------


def test_a_commit_in_a_block_that_is_rolled_back_is_provisional(strategy):
    storage = create_session_storage(strategy)
    session = storage.get_session()
    session.set("first", 0)
    cookie = storage.commit_session(session).partition(";")[0]
    session = storage.get_session(cookie)
    with suppress(Refused), transaction.atomic(using()):
        session.set("failed", 1)
        storage.commit_session(session)
        raise Refused
    session.set("after", 2)
    header = storage.commit_session(session)
    assert header.startswith(f"{cookie};")
    assert storage.get_session(cookie).data == {"first": 0, "failed": 1, "after": 2}


def test_a_first_commit_in_a_block_that_is_rolled_back_is_provisional(strategy):
    storage = create_session_storage(strategy)
    session = storage.get_session()
    with suppress(Refused), transaction.atomic(using()):
        session.set("failed", 1)
        storage.commit_session(session)
        raise Refused
    header = storage.commit_session(session)
    assert storage.get_session(header.partition(";")[0]).data == {"failed": 1}


def test_a_rotating_commit_in_a_block_that_is_rolled_back_is_provisional(strategy):
    storage = create_session_storage(strategy)
    session = storage.get_session()
    session.set("first", 0)
    cookie = storage.commit_session(session).partition(";")[0]
    session = storage.get_session(cookie)
    with suppress(Refused), transaction.atomic(using()):
        storage.commit_session(session, rotate=True)
        raise Refused
    session.set("after", 2)
    header = storage.commit_session(session).partition(";")[0]
    assert storage.get_session(header).data == {"first": 0, "after": 2}
