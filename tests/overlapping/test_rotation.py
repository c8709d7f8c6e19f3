"""Requests in flight when their session gets a new key keep their writes, and learn nothing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
import time_machine
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.management import call_command
from django.db import connections
from django.http import HttpResponse

from django_strategy_sessions import create_session_storage
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import get_strategy

from ..conftest import DATABASE, OURS, POSTGRES, in_postgres, run_in_loop
from ..in_flight import LOADED, MODIFIED, aask, ask, followed, held, key, loaded, page, with_key
from ..racers import rounds

TIMEOUT = 30  # seconds, for requests that wait for each other
NEW_SECRET = "a new secret key that is as long as it should be: 0123456789"

servers = pytest.mark.parametrize("server", ["wsgi", "asgi"])


# -- a request in flight follows ------------------------------------------------------------------


@servers
def test_a_write_in_flight_survives_a_login_in_another_tab(client, middleware, server):
    write = ("update", {"late": 1})
    response = ask(client, LOADED, page(client, "/login/"), write, server=server)
    if followed(response, middleware):
        assert held(key(client))["late"] == 1
    assert client.get("/whoami/").content == b"ada"
    assert held(key(client))["name"] == "cart"


@servers
def test_it_merges_as_every_save_does(client, settings, server):
    """Different names all survive; of one name the last write wins; a removal wins."""
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    client.get("/write/?one=0&two=0&three=0&four=0")

    def meanwhile(_request):
        client.get("/login/")
        client.get("/write/?one=theirs&two=theirs&three=theirs&five=theirs")

    steps = [("update", {"two": "mine"}), ("pop", "three"), ("pop", "four")]
    response = ask(client, LOADED, meanwhile, *steps, server=server)
    assert response.status_code == 200
    data = held(key(client))
    names = {name: data.get(name) for name in ("one", "two", "three", "four", "five")}
    assert names == {"one": "theirs", "two": "mine", "three": None, "four": None, "five": "theirs"}


@servers
def test_an_explicit_save_in_flight_follows_as_well(client, settings, server):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    write, again = ("update", {"late": 1}), ("update", {"later": 2})
    steps = [LOADED, page(client, "/login/"), write, ("save",), again, ("save",)]
    response = ask(client, *steps, server=server)
    assert response.status_code == 200
    assert "sessionid" not in response.cookies
    data = held(key(client))
    assert (data["late"], data["later"]) == (1, 2)


@servers
@pytest.mark.parametrize("wish", ["modified", "every request"])
def test_a_renewal_in_flight_sends_no_cookie(client, settings, middleware, server, wish):
    settings.SESSION_SAVE_EVERY_REQUEST = wish == "every request"
    asked = [MODIFIED] if wish == "modified" else []
    followed(ask(client, LOADED, page(client, "/login/"), *asked, server=server), middleware)
    assert client.get("/whoami/").content == b"ada"


@servers
def test_a_write_in_flight_follows_one_rotation_after_another(client, settings, server):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]

    def meanwhile(_request):
        client.get("/login/")
        ask(client, ("cycle_key",))
        ask(client, ("cycle_key",))

    response = ask(client, LOADED, meanwhile, ("update", {"late": 1}), server=server)
    assert response.status_code == 200
    assert "sessionid" not in response.cookies
    assert held(key(client))["late"] == 1


@servers
def test_after_a_change_of_the_secret_key_six_requests_at_once_all_succeed(
    client, settings, middleware, server
):
    """Each has loaded the session when the first, to check the user, gives it a new key."""
    client.get("/login/")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = NEW_SECRET
    before = key(client)
    responses = at_once(before, 6, server)
    statuses = [response.status_code for response in responses]
    cookies = [r.cookies["sessionid"].value for r in responses if "sessionid" in r.cookies]
    assert len(cookies) == 1  # only the one that rotated knows the new key
    data = held(cookies[0])
    for number, status in enumerate(statuses):
        assert status != 200 or data[f"tab {number}"] == number
    if middleware == OURS:
        assert statuses == [200] * 6
        assert [response.content for response in responses] == [b"ada"] * 6
    assert with_key(cookies[0]).get("/whoami/").content == b"ada"
    assert not SessionStore().exists(before)


def at_once(session_key, count, server):
    """As many requests with one key: none rotates before all have loaded."""
    if server == "wsgi":
        everyone = Barrier(count)

        def tab(number):
            def look(request):
                everyone.wait(TIMEOUT)
                request.session[f"tab {number}"] = number
                return HttpResponse(request.user.get_username())

            try:
                return ask(with_key(session_key), LOADED, look)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(tab, range(count)))

    async def tabs():
        everyone = asyncio.Barrier(count)

        async def tab(number):
            async def look(request):
                async with asyncio.timeout(TIMEOUT):
                    await everyone.wait()
                await request.session.aset(f"tab {number}", number)
                return HttpResponse((await request.auser()).get_username())

            return await aask(with_key(session_key), LOADED, look)

        return await asyncio.gather(*map(tab, range(count)))

    return run_in_loop(tabs())


@servers
def test_a_request_of_a_user_that_rotates_in_flight_joins_and_makes_no_second_session(
    client, settings, server
):
    """As `auth.get_user` does after a change of the secret key, and a change of the password."""
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    client.get("/login/")

    def rotate(_request):
        assert ask(client, ("cycle_key",)).status_code == 200

    steps = [LOADED, rotate, ("update", {"before": 1}), ("cycle_key",), ("update", {"after": 2})]
    response = ask(client, *steps, server=server)
    assert response.status_code == 200
    assert "sessionid" not in response.cookies
    data = held(key(client))
    assert (data["before"], data["after"], data["name"]) == (1, 2, "cart")
    assert client.get("/whoami/").content == b"ada"


def test_the_marker_is_there_for_sixty_seconds(client, settings):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]
    for seconds, status in ((50, 200), (70, 400)):
        client.cookies.clear()
        client.get("/write/?name=cart")
        with time_machine.travel(datetime.now(UTC)) as clock:

            def wait(_request, clock=clock, seconds=seconds):
                clock.shift(timedelta(seconds=seconds))

            steps = [LOADED, page(client, "/login/"), wait, ("update", {"late": 1})]
            response = ask(client, *steps)
        assert response.status_code == status
        assert "sessionid" not in response.cookies
        assert held(key(client)).get("late") == (1 if status == 200 else None)


# -- what is stored -------------------------------------------------------------------------------

IN_TABLES = [
    pytest.param(DATABASE, id="database"),
    pytest.param(POSTGRES, id="postgres", marks=in_postgres),
]


def rows():
    alias = getattr(get_strategy(), "alias", "default")
    return StoredSession.objects.using(alias)


@pytest.mark.parametrize("strategy", IN_TABLES, indirect=True)
def test_a_marker_names_no_user_and_is_cleared_as_expired_sessions_are(client, ada):
    before = key(client)
    client.get("/login/")
    assert rows().count() == 2, "the session and the marker"
    assert rows().filter(owner=str(ada.pk)).count() == 1
    assert rows().filter(expires__gt=datetime.now(UTC) + timedelta(seconds=61)).count() == 1
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        call_command("clearexpiredsessions")
        assert rows().count() == 1
    assert client.get("/whoami/").content == b"ada"
    assert loaded(before) is None


@pytest.mark.parametrize("strategy", IN_TABLES, indirect=True)
def test_a_marker_holds_nothing_of_the_session(client, ada):
    client.get("/write/?name=private")
    old = set(rows().values_list("pk", flat=True))
    client.get("/login/")
    (marker,) = rows().filter(pk__in=old)
    (session,) = rows().exclude(pk__in=old)
    assert "private" not in str(marker.data)
    new_id = key(client).partition(".")[0]
    assert new_id not in str(marker.data)
    assert session.pk != marker.pk
    assert len(str(marker.data)) < 200


@pytest.mark.parametrize("strategy", IN_TABLES, indirect=True)
def test_ending_every_session_of_a_user_ends_what_a_marker_leads_to(client, ada, settings):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]

    def meanwhile(_request):
        client.get("/login/")
        rows().filter(owner=str(ada.pk)).delete()

    response = ask(client, LOADED, meanwhile, ("update", {"late": 1}))
    assert response.status_code == 400
    assert "sessionid" not in response.cookies
    assert rows().filter(owner=str(ada.pk)).count() == 0


@pytest.mark.parametrize("strategy", IN_TABLES, indirect=True)
def test_a_logout_leaves_no_row(client, ada):
    client.get("/login/")
    ended = key(client)
    client.get("/logout/")
    assert loaded(ended) is None
    assert rows().filter(owner=str(ada.pk)).count() == 0


# -- explicit storages ----------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_commit_in_flight_follows_a_rotation(strategy, colour):
    storage = create_session_storage(strategy)

    def commit(session, response=None, **options):
        if colour == "sync":
            return storage.commit_session(session, response, **options)
        return run_in_loop(storage.acommit_session(session, response, **options))

    session = storage.get_session()
    session.set("cart", 1)
    old = commit(session).partition(";")[0]
    late, other = storage.get_session(old), storage.get_session(old)
    new = commit(other, rotate=True).partition(";")[0]
    assert new != old
    late.set("late", 1)
    response = HttpResponse()
    assert "__session=" not in commit(late, response)
    assert not response.cookies
    assert storage.get_session(new).data == {"cart": 1, "late": 1}
    assert storage.get_session(old).data == {}
    late.set("later", 2)
    assert "__session=" not in commit(late, response)
    assert storage.get_session(new).data == {"cart": 1, "late": 1, "later": 2}


def test_a_commit_after_a_rotation_and_an_end_is_refused(strategy):
    storage = create_session_storage(strategy)
    session = storage.get_session()
    session.set("cart", 1)
    old = storage.commit_session(session).partition(";")[0]
    late, other = storage.get_session(old), storage.get_session(old)
    storage.commit_session(other, rotate=True)
    storage.destroy_session(other)
    late.set("late", 1)
    with pytest.raises(SessionInterrupted):
        storage.commit_session(late)
    assert storage.get_session(old).data == {}


# -- many -----------------------------------------------------------------------------------------

WRITERS = 8  # of one session, in one round
ROUNDS = rounds(10, full=20_000 // WRITERS)


def saved(**values):
    session = SessionStore()
    session.update(values)
    session.save()
    return session.session_key


def race_in_threads(requests):
    """Each is two functions: all have done the first when any does the second."""
    everyone = Barrier(len(requests))

    def run(request):
        first, second = request
        try:
            first()
            everyone.wait(TIMEOUT)
            return second()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(run, requests))


class Tab:
    """One request: it loads, then rotates or not, writes a name of its own, and saves."""

    def __init__(self, session_key, name, rotates=False, logs_in=False):
        # As our middleware makes it: a store that is made by a key never follows, because whoever
        # made it, as Django's middleware does, sends that key with every save.
        self.session, self.name = SessionStore.of_cookies([("sessionid", session_key)]), name
        self.rotates, self.change = rotates, {name: name}
        if logs_in:
            self.change["_auth_user_id"] = "1"

    def load(self):
        assert self.session["kept"] == "kept"

    def write(self):
        if self.rotates:
            self.session.cycle_key()
        self.session.update(self.change)
        self.session.save()

    async def aload(self):
        assert await self.session.aget("kept") == "kept"

    async def awrite(self):
        if self.rotates:
            await self.session.acycle_key()
        await self.session.aupdate(self.change)
        await self.session.asave()


def race(tabs, way):
    if way == "threads":
        race_in_threads([(tab.load, tab.write) for tab in tabs])
    else:

        async def main():
            await asyncio.gather(*(tab.aload() for tab in tabs))
            await asyncio.gather(*(tab.awrite() for tab in tabs))

        run_in_loop(main())
    return {tab.session.session_key for tab in tabs}


ways = pytest.mark.parametrize("way", ["threads", "tasks"])


@ways
def test_no_write_that_races_a_login_is_lost(strategy, way):
    for number in range(ROUNDS):
        before = saved(kept="kept")
        tabs = [Tab(before, f"name {n}") for n in range(WRITERS)]
        login = Tab(before, "login", rotates=True, logs_in=True)
        race([*tabs[: number % 9], login, *tabs[number % 9 :]], way)
        now = held(login.session.session_key)
        names = {"kept", "login", "_auth_user_id", *(tab.name for tab in tabs)}
        assert now.keys() == names
        assert loaded(before) is None


@ways
def test_no_write_that_races_rotations_of_one_user_is_lost_and_one_session_is_left(strategy, way):
    """All of them rotate, as all tabs do after a change of the secret key."""
    for _ in range(ROUNDS):
        before = saved(kept="kept", _auth_user_id="1")
        tabs = [Tab(before, f"name {n}", rotates=True) for n in range(WRITERS)]
        keys = race(tabs, way)
        alive = [each for each in keys if each and SessionStore().exists(each)]
        assert len(alive) == 1
        names = {"kept", "_auth_user_id", *(tab.name for tab in tabs)}
        assert held(alive[0]).keys() == names
        assert loaded(before) is None
