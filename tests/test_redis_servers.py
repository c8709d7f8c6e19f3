"""Redis behind Sentinels, and as a Cluster: real ones."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, closing

import pytest
from django.test import override_settings

from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.redis import RedisStrategy
from django_strategy_sessions.testing import AtomicStrategyContract, later

from .servers import Cluster, Redis, Sentinel, Valkey
from .test_contract import InEventLoops

PATIENCE = 30  # seconds, for what takes a moment


@pytest.fixture(scope="module")
def redis():
    if Redis.installed is None:
        pytest.skip("There is no redis-server here. On Debian: apt install redis-server")
    with Redis() as running:
        yield running


class TestRedisStrategyOnRedis(AtomicStrategyContract):
    """The other stores of the suite are Valkey's, which PyPI has."""

    @pytest.fixture(autouse=True)
    def _a_redis(self, redis, settings):
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis.url}
        settings.CACHES = {"sessions": cache}

    def make_strategy(self):
        return RedisStrategy("sessions")

    def make_unavailable_strategy(self):
        return None


class TestRedisStrategyOnRedisInEventLoops(InEventLoops, TestRedisStrategyOnRedis):
    pass


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as running:
        yield running


def clustered(url, **options):
    factory = "django_strategy_sessions.strategies.redis.ClusterConnectionFactory"
    cache = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": url,
        "OPTIONS": {"CONNECTION_FACTORY": factory, **options},
    }
    with override_settings(CACHES={"sessions": cache}):
        return RedisStrategy("sessions")


class TestRedisStrategyOnACluster(AtomicStrategyContract):
    @pytest.fixture(autouse=True)
    def _a_cluster(self, cluster):
        self.cluster = cluster

    def make_strategy(self):
        return clustered(self.cluster.url)

    def make_unavailable_strategy(self):
        return None


class TestRedisStrategyOnAClusterInEventLoops(InEventLoops, TestRedisStrategyOnACluster):
    pass


def test_the_doctor_examines_every_primary_of_a_cluster(cluster):
    strategy = clustered(cluster.url)
    assert not list(strategy.examine())
    with ExitStack() as stack:
        for node in cluster.nodes[1:]:
            cluster.execute(node, "CONFIG SET", "maxmemory-policy", "allkeys-lru")
            stack.callback(cluster.execute, node, "CONFIG SET", "maxmemory-policy", "noeviction")
        found = [message.msg for message in strategy.examine()]
    assert [f"127.0.0.1:{node.port} evicts" in "".join(found) for node in cluster.nodes] == [
        *(False, True, True)
    ]
    assert len(found) == 2


@pytest.fixture
def sentinels():
    """A primary, its replica, and three that watch them."""
    with ExitStack() as stack:
        primary = stack.enter_context(Valkey())
        stack.enter_context(Valkey("--replicaof", "127.0.0.1", str(primary.port)))
        yield primary, [stack.enter_context(Sentinel(primary.port)) for _ in range(3)]


def watched(sentinels):
    cache = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": "redis://sessions/0",
        "OPTIONS": {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "CONNECTION_POOL_CLASS": "redis.sentinel.SentinelConnectionPool",
            "SENTINELS": [("127.0.0.1", each.port) for each in sentinels],
        },
    }
    with override_settings(
        CACHES={"sessions": cache},
        DJANGO_REDIS_CONNECTION_FACTORY="django_redis.pool.SentinelConnectionFactory",
    ):
        strategy = RedisStrategy("sessions", timeout=1)
        strategy.clients.is_cluster()  # The client is made while the settings are these.
        return strategy


def reached(sentinel, name, enough):
    ends = time.monotonic() + PATIENCE
    with closing(sentinel.client()) as client:
        while int(client.sentinel_master("sessions")[name]) < enough:
            assert time.monotonic() < ends, f"{name} is below {enough} for too long."
            time.sleep(0.05)


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("end", ["kill", "pause"])
def test_a_failover_logs_nobody_out(sentinels, end, way):
    """While there is no primary the answer is an outage; afterwards the session is there.

    And the next request gets no late reply to an earlier one.
    """
    primary, watchers = sentinels
    for each in watchers:
        reached(each, "num-other-sentinels", 2)
        reached(each, "num-slaves", 1)
    strategy = watched(watchers)
    with asyncio.Runner() as loop:

        def call(verb, *given):
            if way == "sync":
                return getattr(strategy, verb)(*given)
            return loop.run(getattr(strategy, f"a{verb}")(*given))

        stored, other = call("insert", {"a": 1}, later()), call("insert", {"b": 1}, later())
        with closing(primary.client()) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            evicts = f"127.0.0.1:{primary.port} evicts"
            assert any(evicts in message.msg for message in strategy.examine())
            client.set("last", 1)  # Valkey waits for what this connection wrote.
            assert client.wait(1, PATIENCE * 1000) == 1
        getattr(primary, end)()
        with pytest.raises(StrategyUnavailable):
            call("load", stored.session_id)
        ends = time.monotonic() + PATIENCE

        def in_the_end(verb, *given):  # the Sentinels do not learn it all at the same moment
            while True:
                try:
                    return call(verb, *given)
                except StrategyUnavailable:
                    assert time.monotonic() < ends, "The replica is never promoted."

        assert in_the_end("merge", stored, {"a": 2}, later()).data == {"a": 2}
        if end == "pause":
            primary.resume()
        for _ in range(10):
            assert in_the_end("load", "A" * 22) is None
            assert in_the_end("load", stored.session_id).data == {"a": 2}
            assert in_the_end("load", other.session_id).data == {"b": 1}
        assert not [message for message in strategy.examine() if "evicts" in message.msg]
