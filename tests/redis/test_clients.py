"""How the strategy reaches Redis: idle connections, replicas, tracers, what cannot serve."""

from __future__ import annotations

import asyncio
import functools
import time
from contextlib import closing

import pytest
import redis
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.redis_clients import RedisClients

from ..servers import Tunnel, Valkey
from .conftest import BOUND, connections, watched

KEY = "session:0123456789abcdef0123456789abcdef"


@pytest.fixture
def make(settings):
    """Make clients of a server at `url`, with these `OPTIONS` of its cache."""

    def make_clients(url, OPTIONS=None, **given):
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
        settings.CACHES = {**settings.CACHES, "tested": {**cache, "OPTIONS": OPTIONS or {}}}
        return RedisClients("tested", **given)

    return make_clients


@pytest.fixture
def tunnel(server):
    with Tunnel(server.port) as running:
        yield running


def url(tunnel):
    return f"redis://127.0.0.1:{tunnel.port}/0"


def wait_for(condition):
    ends = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


# -- connections that rest -------------------------------------------------------------------------


def test_a_connection_that_was_idle_too_long_is_replaced_before_it_is_used(tunnel, make, call):
    """A firewall may have dropped it without closing it."""
    clients = make(url(tunnel), timeout=10, idle=0.05)
    for command in (("write", "SET", KEY, "1"), ("execute", "GET", KEY)):
        call(clients, "write", "SET", KEY, "0")
        tunnel.forget()
        rests = time.monotonic()
        wait_for(lambda rests=rests: time.monotonic() - rests > 0.1)
        begins = time.monotonic()
        assert call(clients, *command) in ("OK", "1", "0")
        assert time.monotonic() - begins < 4  # where a time-out is ten seconds


def test_a_load_that_fails_on_a_kept_connection_is_sent_once_more(tunnel, make, call):
    """On a new one, and both within the time-out."""
    clients = make(url(tunnel), timeout=2)
    call(clients, "write", "SET", KEY, "1")
    tunnel.forget()
    begins = time.monotonic()
    assert call(clients, "execute", "GET", KEY) == "1"
    assert time.monotonic() - begins < 2


def test_a_server_that_hangs_keeps_a_load_no_longer_than_the_timeout(make, call):
    with Valkey() as server:
        clients = make(server.url, timeout=1)
        call(clients, "write", "SET", KEY, "1")
        server.pause()
        begins = time.monotonic()
        with pytest.raises(StrategyUnavailable):
            call(clients, "execute", "GET", KEY)
        assert time.monotonic() - begins < 1.9
        server.resume()


def test_a_write_that_fails_on_a_kept_connection_is_not_sent_once_more(server, tunnel, make, call):
    clients = make(url(tunnel), timeout=1)
    call(clients, "write", "SET", KEY, "0")
    tunnel.loses = b"INCR"
    with watched(server) as sent, pytest.raises(StrategyUnavailable):
        call(clients, "write", "INCR", KEY)
    assert sent == [f"INCR {KEY}"]
    assert call(clients, "execute", "GET", KEY) == "1"


def test_an_event_loop_closes_idle_connections_after_a_burst(make):
    with Valkey() as server:
        clients = make(server.url, idle=2)

        async def main():
            await asyncio.gather(*(clients.awrite("SET", f"{KEY}{n}", n) for n in range(40)))
            assert len(connections(server)) > 10
            ends = time.monotonic() + BOUND
            while connections(server):
                assert time.monotonic() < ends
                await asyncio.sleep(0.05)
            assert await clients.aexecute("GET", f"{KEY}7") == "7"

        asyncio.run(main())


# -- replicas --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """A primary and its replica, which has all of it."""
    options = ("--repl-diskless-sync-delay", "0")
    with (
        Valkey(*options) as primary,
        Valkey("--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        with closing(primary.client()) as client:
            client.set("first", 1)
            assert client.wait(1, BOUND * 1000) == 1
        yield primary, replica


def test_a_write_waits_for_replicas_in_the_same_round_trip(pair, make, call):
    primary, replica = pair
    clients = make(primary.url, replicas=1)
    with watched(primary) as sent:
        assert call(clients, "write", "SET", KEY, "1") == "OK"
    assert [command.split()[0] for command in sent] == ["SET", "WAIT"]
    with closing(replica.client()) as client:
        assert client.get(KEY) == b"1"
    with watched(primary) as sent:
        call(clients, "execute", "GET", KEY)
    assert [command.split()[0] for command in sent] == ["GET"]


WRITES = {
    "a write": ("write", "SET", KEY, "2"),
    "a script": ("script", "return redis.call('SET', KEYS[1], ARGV[1])", [KEY], "2"),
    "a logout": ("write", "DEL", KEY),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_that_no_replica_has_in_time_is_an_outage(pair, make, call, write):
    primary, replica = pair
    clients = make(primary.url, replicas=1, timeout=1)
    call(clients, "write", "SET", KEY, "1")
    replica.pause()
    begins = time.monotonic()
    try:
        with pytest.raises(StrategyUnavailable):
            call(clients, *write)
        assert time.monotonic() - begins < 2
    finally:
        replica.resume()
    assert call(clients, "write", "SET", KEY, "3") == "OK"


def test_a_logout_that_finds_nothing_waits_until_replicas_have_the_earlier_one(pair, make, call):
    """Which no replica may have, so that a failover would undo it."""
    primary, replica = pair
    clients = make(primary.url, replicas=1, timeout=1)
    call(clients, "write", "SET", KEY, "1")
    replica.pause()
    try:
        with closing(primary.client()) as client:
            assert client.delete(KEY) == 1
        with pytest.raises(StrategyUnavailable):
            call(clients, "write", "DEL", KEY)
    finally:
        replica.resume()
    assert call(clients, "write", "DEL", KEY) == 0


# -- tracers ---------------------------------------------------------------------------------------


def wrapped(function, seen):
    @functools.wraps(function)
    def traced(client, *command, **options):
        seen.append(command[0])
        return function(client, *command, **options)

    return traced


def test_commands_go_through_an_instrumented_client(server, make, call, monkeypatch):
    seen = []
    clients = make(server.url)
    assert call(clients, "write", "SET", KEY, "1") == "OK"
    for client in (redis.Redis, redis.asyncio.Redis):
        monkeypatch.setattr(client, "execute_command", wrapped(client.execute_command, seen))
    assert call(clients, "write", "SET", KEY, "2")
    assert call(clients, "execute", "GET", KEY) == "2"
    assert call(clients, "script", "return redis.call('GET', KEYS[1])", [KEY]) == "2"
    assert [name for name in seen if name != "EVAL"] == ["SET", "GET", "EVALSHA"]
    with pytest.raises(redis.ResponseError):
        call(clients, "execute", "LLEN", KEY)


# -- which process of a server replies -------------------------------------------------------------


def test_replies_name_the_process_that_gave_them(make, call, monkeypatch):
    """A client that a tracer wraps does not tell its connection, so it is asked each time."""
    with Valkey() as server:
        clients = make(server.url)
        call(clients, "write", "SET", KEY, "1")
        first = call(clients, "identify", "GET", KEY)
        assert first == call(clients, "identify", "GET", KEY)
        for client in (redis.Redis, redis.asyncio.Redis):
            monkeypatch.setattr(client, "execute_command", wrapped(client.execute_command, []))
        assert first == call(clients, "identify", "GET", KEY)
        monkeypatch.undo()
        reply, process = first
        assert reply == "1"
        server.kill()
        server.start()
        with closing(server.client()) as client:
            replaced = client.info("server")["run_id"]
        assert replaced != process
        for _ in range(3):
            assert call(clients, "identify", "GET", KEY)[1] == replaced


def test_the_process_is_asked_once_per_connection(server, make, call):
    clients = make(server.url)
    with watched(server) as sent:
        for _ in range(3):
            call(clients, "identify", "GET", KEY)
    assert sent == [f"GET {KEY}", "INFO server", f"GET {KEY}", f"GET {KEY}"]


# -- what cannot serve -----------------------------------------------------------------------------


def no_connection(connection):
    """A project's own `redis_connect_func`."""


UNFIT = {
    "a client that spreads keys": (
        "E009",
        {"CLIENT_CLASS": "django_redis.client.ShardClient"},
    ),
    "a client of another kind": ("E009", {"CLIENT_CLASS": "redis.Redis"}),
    "a client that is missing": ("E009", {"CLIENT_CLASS": "django_redis.client.Missing"}),
    "a cache in the client": (
        "E010",
        {"CONNECTION_POOL_KWARGS": {"cache_config": redis.cache.CacheConfig()}},
    ),
    "one connection": ("E010", {"REDIS_CLIENT_KWARGS": {"single_connection_client": True}}),
    "a function that connects": (
        "E010",
        {"CONNECTION_POOL_KWARGS": {"redis_connect_func": no_connection}},
    ),
    "a pool of event loops": ("E010", {"CONNECTION_POOL_CLASS": "redis.asyncio.ConnectionPool"}),
    "a client of event loops": ("E010", {"REDIS_CLIENT_CLASS": "redis.asyncio.Redis"}),
    "a pool that is missing": ("E010", {"CONNECTION_POOL_CLASS": "redis.Missing"}),
    "no Sentinels": (
        "E011",
        {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
        },
    ),
}


@pytest.mark.parametrize(("fault", "options"), UNFIT.values(), ids=UNFIT)
def test_clients_that_cannot_work_are_an_error_of_check_and_of_the_first_use(
    server, make, call, settings, fault, options
):
    clients = make(server.url, options)
    (message,) = [found for found in clients.check() if isinstance(found, checks.Error)]
    assert message.id == f"strategy_sessions.{fault}"
    with pytest.raises(ImproperlyConfigured):
        call(clients, "execute", "GET", KEY)
    caches = {"tested": {**settings.CACHES["tested"], "OPTIONS": dict(options)}}
    for name, value in options.items():
        caches["tested"]["OPTIONS"][name] = dict(value) if isinstance(value, dict) else value
    exec(message.hint, {"CACHES": caches})
    settings.CACHES = {**settings.CACHES, **caches}
    clients = RedisClients("tested" if "tested" in caches else "default")
    assert not [found for found in clients.check() if isinstance(found, checks.Error)]
    if fault != "E011":  # whose hint leads to no server of ours
        call(clients, "execute", "GET", KEY)


HERD = {"CLIENT_CLASS": "django_redis.client.HerdClient", "IGNORE_EXCEPTIONS": True}


def test_options_for_caching_do_not_affect_sessions(server, make, call):
    clients = make(server.url, HERD)
    assert list(clients.check()) == []
    call(clients, "write", "SET", KEY, "1")
    assert call(clients, "execute", "GET", KEY) == "1"


FACTORIES = {
    "Sentinels": {
        "CLIENT_CLASS": "django_redis.client.SentinelClient",
        "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
        "SENTINELS": [("127.0.0.1", 26379)],
    },
    "a cluster": {
        "CONNECTION_FACTORY": "django_strategy_sessions.strategies.redis.ClusterConnectionFactory"
    },
}


@pytest.mark.parametrize("options", FACTORIES.values(), ids=FACTORIES)
def test_check_warns_if_a_failover_may_lose_logouts(make, options):
    (message,) = make("redis://sessions/0", options).check()
    assert isinstance(message, checks.Warning)
    assert message.id == "strategy_sessions.W005"
    namespace = {}
    exec(message.hint, namespace)
    given = namespace["SESSION_STRATEGY"]["OPTIONS"]
    assert list(make("redis://sessions/0", options, replicas=given["replicas"]).check()) == []


@pytest.mark.parametrize(
    "given", [{"replicas": -1}, {"replicas": "1"}, {"idle": 0}, {"timeout": 0}]
)
def test_invalid_options_of_the_strategy_are_refused(make, given):
    with pytest.raises(ImproperlyConfigured):
        make("redis://127.0.0.1/0", **given)
