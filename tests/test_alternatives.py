"""The README's table against Django's own engines: each cell is what happens here."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from django.conf import settings as project
from django.core.cache import caches
from django.db import connections
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django_redis import get_redis_connection
from redis.connection import AbstractConnection, Connection

from django_strategy_sessions.strategies import get_strategy

from .conftest import DJANGOS, OURS, POSTGRES, REDIS
from .servers import free_port

README = (Path(__file__).parent.parent / "README.md").read_text()
ENGINE = "django_strategy_sessions.engine"
COLUMNS = ["this engine", "`db`", "`cached_db`", "`cache`"]
ENGINES = {
    "ours on postgres": ("this engine", OURS, ENGINE, POSTGRES),
    "ours on redis": ("this engine", OURS, ENGINE, REDIS),
    "db": ("`db`", DJANGOS, "django.contrib.sessions.backends.db", POSTGRES),
    "cached_db": ("`cached_db`", DJANGOS, "django.contrib.sessions.backends.cached_db", POSTGRES),
    "cache": ("`cache`", DJANGOS, "django.contrib.sessions.backends.cache", POSTGRES),
}

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


def write(request):
    request.session["name"] = request.session.get("user")
    request.META["take_away"]()
    return HttpResponse()


urlpatterns = [path("write/", write)]


class Router:
    def db_for_read(self, model, **hints):
        return "postgres" if model._meta.app_label == "sessions" else None

    db_for_write = db_for_read


@pytest.fixture(params=ENGINES)
def column(request, settings):
    """Each engine as the project's, on the same two servers; its column in the table."""
    column, middleware, engine, strategy = ENGINES[request.param]
    settings.SESSION_ENGINE, settings.SESSION_STRATEGY = engine, strategy
    settings.MIDDLEWARE = [middleware, *settings.MIDDLEWARE[1:]]
    settings.SESSION_CACHE_ALIAS = "sessions"
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    settings.ROOT_URLCONF = __name__
    yield column
    caches["sessions"].clear()


def cell(title, column):
    row = re.search(rf"^\| {re.escape(title)} \|(.*)\|$", README, re.MULTILINE)
    return dict(zip(COLUMNS, row[1].split("|"), strict=True))[column].strip()


def session(key=None):
    return import_module(project.SESSION_ENGINE).SessionStore(key)


def saved(**data):
    made = session()
    made.update(data)
    made.save()
    return made.session_key


@pytest.fixture
def client():
    return Client(raise_request_exception=False)


@pytest.fixture
def take_away(column, monkeypatch):
    """Make the servers refuse connections."""
    database = connections["postgres"]
    pools = [get_redis_connection("sessions").connection_pool]
    if clients := getattr(get_strategy(), "clients", None):
        pools.append(clients._servers().find("").connection_pool)

    def take_away():
        database.close()
        monkeypatch.setitem(database.settings_dict, "PORT", free_port())
        monkeypatch.setattr(Connection, "_connect", refused)
        for pool in pools:
            pool.disconnect()

    def refused(connection):
        raise ConnectionRefusedError

    yield take_away
    monkeypatch.undo()


@pytest.fixture
def trips(column, monkeypatch):
    """Count what is sent to the servers while something is done."""
    first = session(saved())
    first.cycle_key()  # by now all are connected, and know our scripts
    sent = []
    send = AbstractConnection.send_packed_command

    def counted(connection, *given, **more):
        sent.append(given)
        return send(connection, *given, **more)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)

    def trips(do):
        sent.clear()
        with CaptureQueriesContext(connections["postgres"]) as queries:
            do()
        return len(queries) + len(sent)

    return trips


def test_requests_at_the_same_time(column):
    key = saved(cart=1)
    one, other = session(key), session(key)
    for each, name in (one, "a"), (other, "b"):
        each.get("cart")
        each[name] = 1
    one.save()
    other.save()
    names = session(key).keys() & {"a", "b"}
    seen = "both stay" if len(names) == 2 else "the first is lost"
    assert seen == cell("Two requests at once write different names", column)


def test_a_logout_in_the_middle_of_a_save(column, monkeypatch):
    """At the moment that each engine has: between its two steps, where it has two."""
    key = saved(user="ada")
    late = session(key)
    late["seen"] = 1
    cache = type(caches["sessions"])
    put = cache.set

    def logout():
        monkeypatch.undo()
        session(key).flush()

    def interrupted(*given, **more):
        logout()
        return put(*given, **more)

    monkeypatch.setattr(cache, "set", interrupted)
    if column in {"this engine", "`db`"}:
        logout()
    try:
        late.save()
    except Exception as error:
        assert type(error).__name__ == "UpdateError"  # noqa: PT017
    seen = "logged in again" if session(key).get("user") else "logged out"
    assert seen == cell("A save meets a logout", column)


def test_a_store_that_is_down(column, client, take_away):
    client.cookies[project.SESSION_COOKIE_NAME] = saved(user="ada")
    response = client.get("/write/", take_away=take_away)
    assert str(response.status_code) == cell("The store goes down before the save", column)


def test_a_nested_change(column):
    key = saved(cart=["tea"])
    one = session(key)
    one["cart"].append("pot")
    if one.modified:
        one.save()
    seen = "saved" if session(key)["cart"] == ["tea", "pot"] else "lost"
    assert seen == cell('`session["cart"].append(x)`', column)


def test_a_forged_cookie(column, settings, trips):
    def visit():
        assert session("a" * 40).get("user") is None

    seen = {0: "none"}.get(trips(visit), "yes")
    assert seen == cell("Queries for a forged cookie", column)


def test_what_the_store_holds(column):
    key = saved(user="ada")
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT session_key FROM django_session")
        held = {held for (held,) in cursor.fetchall()}
        cursor.execute("SELECT id::text FROM django_strategy_sessions_storedsession")
        held |= {held for (held,) in cursor.fetchall()}
    held |= {held.decode() for held in get_redis_connection("sessions").scan_iter()}
    assert held
    shown = any(key in each or key.split(".")[0] in each for each in held)
    assert ("the cookie" if shown else "a hash") == cell(
        "Someone who can read the store learns", column
    )


def test_round_trips(column, trips):
    def create():
        made.update({"a": 1})
        made.save()

    def save():
        made["a"] = 2
        made.save()

    def login():
        made.cycle_key()
        made["user"] = "ada"
        made.save()

    made = session()
    counts = [trips(create)]
    made = session(made.session_key)
    made.get("a")
    counts += [trips(save), trips(login)]
    made = session(made.session_key)
    made.get("a")
    counts += [trips(made.flush)]
    seen = " / ".join(map(str, counts))
    assert seen == cell("Round trips: create / save / log in / log out", column)
