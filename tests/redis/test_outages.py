"""What happens when Redis, or the way to it, fails."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from django.core.cache import caches
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_strategy_sessions.strategies.base import Apply, StrategyUnavailable
from django_strategy_sessions.testing import later

from ..servers import Tunnel, Valkey, free_port
from .conftest import BOUND, connections, execute, watched


@contextmanager
def refusing(server, verbs, on, off):
    """Change how the server is set up; it is a connection of before that changes it back."""
    with closing(server.client()) as client:
        for command in on:
            client.execute_command(*command.split())
        try:
            yield verbs
        finally:
            for command in off:
                client.execute_command(*command.split())


WRITES = {"insert", "merge", "rotate"}
REFUSALS = {
    "OOM": (WRITES, ["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"]),
    "READONLY": (
        WRITES | {"delete_data"},
        [f"REPLICAOF 127.0.0.1 {free_port()}"],
        ["REPLICAOF NO ONE"],
    ),
    "NOREPLICAS": (
        WRITES | {"delete_data"},
        ["CONFIG SET min-replicas-to-write 1"],
        ["CONFIG SET min-replicas-to-write 0"],
    ),
    "MASTERDOWN": (
        WRITES | {"delete_data", "load"},
        [f"REPLICAOF 127.0.0.1 {free_port()}", "CONFIG SET replica-serve-stale-data no"],
        ["CONFIG SET replica-serve-stale-data yes", "REPLICAOF NO ONE"],
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_server_that_refuses_is_unavailable_and_says_why(server, strategy, call, refusal):
    stored = call(strategy, "insert", {"a": 1}, later())
    verbs = {
        "insert": ({"b": 1}, later()),
        "load": (stored.session_id,),
        "merge": (stored, {"a": 2}, later()),
        "rotate": (stored, {"a": 3}, later()),
        "delete_data": (stored.session_id,),
    }
    with refusing(server, *refusal) as refused:
        for verb, given in verbs.items():
            if verb in refused:
                with pytest.raises(StrategyUnavailable) as error:
                    call(strategy, verb, *given)
                assert isinstance(error.value.__cause__, Exception)
                assert stored.session_id not in f"{error.value} {error.value.__cause__}"
            elif verb == "load":
                assert call(strategy, verb, *given).data == {"a": 1}
    assert call(strategy, "load", stored.session_id).data == {"a": 1}


# redis-py forgets to close a connection that is refused right after it was made.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_refuses_the_login_is_unavailable(server, make, call):
    stored = call(make(server.url), "insert", {"a": 1}, later())
    on, off = ["ACL SETUSER default resetpass >secret"], ["ACL SETUSER default nopass"]
    with refusing(server, ..., on, off):
        for options in ({}, {"PASSWORD": "wrong"}):
            with pytest.raises(StrategyUnavailable) as error:
                call(make(server.url, options), "load", stored.session_id)
            assert error.value.__cause__ is not None
        let_in = make(server.url, {"PASSWORD": "secret"})
        assert call(let_in, "load", stored.session_id).data == {"a": 1}


TIMEOUTS = {
    "the strategy's": ({}, {"timeout": 1}),
    "the alias's": (
        {"SOCKET_TIMEOUT": 1, "SOCKET_CONNECT_TIMEOUT": 1},
        {"timeout": 3600},
    ),
}


@pytest.mark.parametrize(("options", "given"), TIMEOUTS.values(), ids=TIMEOUTS)
def test_a_server_that_hangs_is_unavailable_after_the_timeout(server, make, call, options, given):
    strategy, begins = make(server.url, options, **given), time.monotonic()
    stored = call(strategy, "insert", {"a": 1}, later())
    server.pause()
    try:
        for verb in (("load", stored.session_id), ("merge", stored, {"a": 2}, later())):
            with pytest.raises(StrategyUnavailable):
                call(strategy, *verb)
    finally:
        server.resume()
    assert time.monotonic() - begins < BOUND
    assert call(strategy, "load", stored.session_id).session_id == stored.session_id


def test_after_a_hang_met_by_many_requests_the_next_request_waits_only_once(make):
    with Valkey() as server, ThreadPoolExecutor(8) as pool:
        strategy = make(server.url, timeout=1)
        stored, together = strategy.insert({"a": 1}, later()), threading.Barrier(8)

        def load(when):
            when()
            return strategy.load(stored.session_id).data

        assert list(pool.map(load, [together.wait] * 8)) == [{"a": 1}] * 8
        server.pause()
        for ended in [pool.submit(load, together.wait) for _ in range(8)]:
            assert isinstance(ended.exception(), StrategyUnavailable)
        begins = time.monotonic()
        with pytest.raises(StrategyUnavailable):
            strategy.load(stored.session_id)
        assert time.monotonic() - begins < 4
        server.resume()
        assert list(pool.map(load, [together.wait] * 8)) == [{"a": 1}] * 8


def test_a_request_that_meets_a_demoted_primary_reconnects(make, call):
    """Where a name leads to the new one by now."""
    with Valkey() as server:
        strategy = make(server.url)
        stored = call(strategy, "insert", {"a": 1}, later())
        before = connections(server)
        execute(server, "REPLICAOF", "127.0.0.1", str(free_port()))
        for verb in (("merge", stored, {"a": 2}, later()), ("delete_data", stored.session_id)):
            with pytest.raises(StrategyUnavailable):
                call(strategy, *verb)
            assert not before & connections(server)
        execute(server, "REPLICAOF", "NO", "ONE")
        assert call(strategy, "merge", stored, {"a": 2}, later()).data == {"a": 2}


def test_connections_that_the_cache_opened_do_not_lengthen_the_wait(server, make):
    strategy = make(server.url, timeout=0.5)
    cache = caches[strategy.clients.alias]
    cache.set("cached", 1)
    stored = strategy.insert({"a": 1}, later())
    server.pause()
    begins = time.monotonic()
    try:
        with pytest.raises(StrategyUnavailable):
            strategy.load(stored.session_id)
    finally:
        server.resume()
    assert time.monotonic() - begins < 4  # redis-py's own time-out is five seconds
    assert cache.get("cached") == 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_was_restarted_answers_at_once_on_every_connection(make, end):
    with Valkey() as own:
        strategy = make(own.url)

        async def main():
            stored = await strategy.ainsert({"a": 1}, later())

            async def together():
                return await asyncio.gather(*(strategy.aload(stored.session_id) for _ in range(8)))

            await together()
            await asyncio.to_thread(getattr(own, end))
            await asyncio.to_thread(own.start)
            assert [loaded.data for loaded in await together()] == [{"a": 1}] * 8

        asyncio.run(main())


def test_the_timeout_of_the_alias_overrides_the_strategys(server, make, call):
    options = {"SOCKET_TIMEOUT": 60, "SOCKET_CONNECT_TIMEOUT": 60}
    strategy = make(server.url, options, timeout=0.05)
    stored = call(strategy, "insert", {"a": 1}, later())
    server.pause()
    threading.Timer(0.5, server.resume).start()
    assert call(strategy, "load", stored.session_id).data == {"a": 1}


@pytest.mark.parametrize("verb", ["merge", "rotate"])
@pytest.mark.parametrize("retry", [{}, {"retry": Retry(NoBackoff(), 3)}], ids=["", "retry"])
def test_a_write_whose_reply_was_lost_is_not_sent_again(server, make, call, verb, retry):
    with Tunnel(server.port) as tunnel:
        url = f"redis://127.0.0.1:{tunnel.port}/0"
        strategy = make(url, {"CONNECTION_POOL_KWARGS": retry})
        stored = call(strategy, "insert", {}, later())
        stored = call(strategy, "merge", stored, {"count": 1}, later())  # loads the script
        tunnel.loses = b"EVALSHA"
        once_more = {"count": Apply(lambda count: count + 1)}
        with watched(server) as sent, pytest.raises(StrategyUnavailable):
            call(strategy, verb, stored, once_more, later())
        assert len(sent) == 1
        held = call(strategy, "load", stored.session_id)
        assert held is None if verb == "rotate" else held.data == {"count": 2}
