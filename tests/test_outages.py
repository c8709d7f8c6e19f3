"""Stores that are down: real servers, real signals, and the site as a process of its own.

Whatever happens to the store, the answer is a 503 and the cookie stays; when the store is back, so
is every session.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.cookies import SimpleCookie
from operator import methodcaller
from pathlib import Path

import psycopg
import pytest
from django.conf import settings

from .conftest import DJANGOS, OURS, POSTGRES, REDIS
from .servers import Postgres, Server, Valkey, free_port

TIMEOUT = 0.7  # seconds, instead of the default of 5


class Site(Server):
    """`tests.serve`, over a store of its own."""

    def __init__(self, interface: str, environment: dict[str, str], site: dict[str, object]):
        super().__init__()
        self.interface = interface
        self.environment = {**os.environ, **environment, "TEST_SITE": json.dumps(site)}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.serve", self.interface, str(self.port)]

    def identity(self) -> dict[str, object]:
        return {"env": self.environment, "cwd": Path(__file__).parent.parent}

    def answers(self) -> bool:
        with suppress(OSError):
            return Visitor(self).get("untouched/").status == 200
        return False

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


class Visitor:
    """A browser, as far as cookies go."""

    def __init__(self, site: Site) -> None:
        self.site, self.cookies = site, {}

    def get(self, page: str) -> http.client.HTTPResponse:
        with closing(http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=60)) as sent:
            cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            sent.request("GET", f"/{page}", headers={"Cookie": cookie} if cookie else {})
            response = sent.getresponse()
            response.body = response.read()
        response.cookies = SimpleCookie()
        for header in response.headers.get_all("Set-Cookie", []):
            response.cookies.load(header)
        self.cookies.update({name: morsel.value for name, morsel in response.cookies.items()})
        return response


class PostgresStore(Postgres):
    reads_go_on = frozenset({"read_only"})
    logouts_go_on: frozenset[str] = frozenset()

    def start(self):
        super().start()
        self.execute(
            "DO $$ BEGIN CREATE ROLE sessions LOGIN IN ROLE pg_read_all_data, pg_write_all_data;"
            " EXCEPTION WHEN duplicate_object THEN END $$"
        )
        return self

    @property
    def environment(self) -> dict[str, str]:
        return {"TEST_POSTGRES_URL": self.url.replace("postgres@", "sessions@")}

    def site_settings(self) -> dict[str, object]:
        options = {"using": "postgres", "timeout": TIMEOUT, "pool_size": 2, "lock_timeout": 3}
        return {"SESSION_STRATEGY": {**POSTGRES, "OPTIONS": options}}

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def cut(self) -> None:
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE usename = 'sessions'"
        )

    @contextmanager
    def terminated(self):
        """Every connection is cut, and none let in."""
        self.execute("ALTER ROLE sessions NOLOGIN")
        self.cut()
        yield
        self.execute("ALTER ROLE sessions LOGIN")

    @contextmanager
    def read_only(self):
        self.execute("ALTER ROLE sessions SET default_transaction_read_only = on")
        self.cut()
        yield
        self.execute("ALTER ROLE sessions RESET default_transaction_read_only")
        self.cut()

    @contextmanager
    def busy(self):
        """The table is locked. Each request that waits for it keeps a pooled connection."""
        with psycopg.connect(self.url) as holder:
            holder.execute("LOCK TABLE django_strategy_sessions_storedsession")
            yield

    @contextmanager
    def full(self):
        """There is no connection to be had."""
        self.execute("ALTER ROLE sessions CONNECTION LIMIT 0")
        self.cut()
        yield
        self.execute("ALTER ROLE sessions CONNECTION LIMIT -1")


class ValkeyStore(Valkey):
    reads_go_on = frozenset({"read_only", "full"})
    logouts_go_on = frozenset({"full"})  # deleting needs no memory

    @property
    def environment(self) -> dict[str, str]:
        return {"TEST_REDIS_URL": self.url}

    def site_settings(self) -> dict[str, object]:
        options = {"alias": "sessions", "timeout": TIMEOUT}
        pool = {"CONNECTION_POOL_KWARGS": {"max_connections": 4}}
        backend = "django_redis.cache.RedisCache"
        return {
            "SESSION_STRATEGY": {**REDIS, "OPTIONS": options},
            "CACHES": {"sessions": {"BACKEND": backend, "LOCATION": self.url, "OPTIONS": pool}},
        }

    def execute(self, *commands: str) -> None:
        with closing(self.client()) as client:
            for command in commands:
                client.execute_command(*command.split())

    @contextmanager
    def terminated(self):
        """Every connection is cut, and none let in."""
        with closing(self.client()) as holder:
            holder.config_set("maxclients", 1)
            holder.execute_command("CLIENT", "KILL", "TYPE", "NORMAL")
            yield
            holder.config_set("maxclients", 1000)

    @contextmanager
    def read_only(self):
        self.execute(f"REPLICAOF 127.0.0.1 {free_port()}")
        yield
        self.execute("REPLICAOF NO ONE")

    @contextmanager
    def full(self):
        """There is no memory to be had."""
        self.execute("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1")
        yield
        self.execute("CONFIG SET maxmemory 0")

    @contextmanager
    def busy(self):
        """Another client's script does not end."""
        self.execute("CONFIG SET busy-reply-threshold 1")
        with closing(self.client()) as client:
            client.connection_pool.get_connection().send_command("EVAL", "while true do end", 0)
            yield
            self.execute("SCRIPT KILL")


@contextmanager
def stopped(store):
    store.stop()
    yield
    store.start()


@contextmanager
def killed(store):
    store.kill()
    yield
    store.start()


@contextmanager
def hanging(store):
    store.pause()
    yield
    store.resume()


FAULTS = {
    "stopped": stopped,
    "killed": killed,
    "hanging": hanging,
    **{name: methodcaller(name) for name in ("terminated", "read_only", "busy", "full")},
}
# What a client sent before the store hung may be carried out when it goes on: a write, a logout.
LATE = {"hanging", "busy"}

SITES = {
    f"{store.__name__}-{interface}-{name}": (store, interface, middleware)
    for store in (PostgresStore, ValkeyStore)
    for interface, name, middleware in (
        ("wsgi", "ours", OURS),
        ("asgi", "ours", OURS),
        ("wsgi", "djangos", DJANGOS),
    )
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "DEBUG"},
}
SET_UP = """
import django
django.setup()
from django.contrib.auth import get_user_model
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("migrate", "django_strategy_sessions", database="postgres", verbosity=0)
get_user_model().objects.create_user("ada", password="secret")
"""


@pytest.fixture(scope="module")
def site(request, tmp_path_factory):
    kind, interface, middleware = SITES[request.param]
    with kind() as store:
        environment = {
            "TEST_DATABASE": str(tmp_path_factory.mktemp("site") / "site.sqlite3"),
            "DJANGO_SETTINGS_MODULE": "tests.settings",
        }
        set_up = {**os.environ, **environment}
        if kind is PostgresStore:
            set_up["TEST_POSTGRES_URL"] = store.url
        subprocess.run([sys.executable, "-c", SET_UP], env=set_up, check=True)
        changes = {
            **store.site_settings(),
            "MIDDLEWARE": [middleware, *settings.MIDDLEWARE[1:]],
            "DEBUG": False,
            "LOGGING": LOGGING,
        }
        with Site(interface, {**environment, **store.environment}, changes) as site:
            site.store, site.middleware = store, middleware
            yield site


@pytest.mark.parametrize("site", SITES, indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_logs_nobody_out(site, fault):
    a = "a" if site.interface == "asgi" else ""
    # One for each thing that is tried, and one who is away meanwhile.
    visitors = {name: Visitor(site) for name in ("read", "write", "login", "logout", "away")}
    for name, visitor in visitors.items():
        visitor.get(f"{a}write/?name=cart")
        if name != "login":
            assert visitor.get(f"{a}login/").body == b"hello"
    held = {name: dict(visitor.cookies) for name, visitor in visitors.items()}
    pages = {
        "read": f"{a}read/",
        "write": f"{a}write/?name=changed",
        "login": f"{a}login/",
        "logout": f"{a}logout/",
    }
    before = len(site.log)

    with FAULTS[fault](site.store):
        with ThreadPoolExecutor(4) as threads:
            answers = dict(
                zip(pages, threads.map(lambda n: visitors[n].get(pages[n]), pages), strict=True)
            )
        assert visitors["away"].get("untouched/").status == 200

    works = set()
    if fault in site.store.reads_go_on:
        works.add("read")
    if fault in site.store.logouts_go_on:
        works.add("logout")
    for name, response in answers.items():
        if name in works:
            assert response.status == 200
            continue
        assert response.status == (503 if site.middleware == OURS else 500), name
        assert site.middleware != OURS or response.headers["Retry-After"]
        assert "sessionid" not in response.cookies
        assert visitors[name].cookies["sessionid"] == held[name]["sessionid"]
    logged = site.log[before:]
    assert "StrategyUnavailable" in logged
    assert "The above exception was the direct cause" in logged
    for cookies in held.values():
        assert cookies["sessionid"][:22] not in logged

    for name, visitor in visitors.items():
        if name in works - {"read"} or (fault in LATE and name not in ("read", "away")):
            continue
        assert json.loads(visitor.get(f"{a}read/").body)["value"] == "cart"
        assert visitor.get(f"{a}whoami/").body == (b"" if name == "login" else b"ada")
        assert visitor.cookies["sessionid"] == held[name]["sessionid"]
        assert visitor.get(f"{a}write/?name=again").status == 200
