"""Whatever happens to the cache, no session is lost, no write is undone, no logout is either."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing, suppress

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from django_strategy_sessions.strategies import cached, copies, redis_connections
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.breaker import Breaker
from django_strategy_sessions.testing import later

from ..servers import Tunnel, Valkey

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


def queries(strategy, stored):
    """How many a load of this session costs."""
    with CaptureQueriesContext(connections["postgres"]) as captured:
        assert strategy.load(stored.session_id) is not None
    return len(captured)


def reads_copies(strategy, stored):
    """A load that comes more than a second after the last one costs a query."""
    return any(queries(strategy, stored) == 0 for _ in range(5))


@pytest.fixture
def stored(one, other):
    """A session of which the cache has a copy that both processes read."""
    stored = one.insert({"cart": 1}, later())
    one.load(stored.session_id)
    assert reads_copies(one, stored)
    assert reads_copies(other, stored)
    return one.load(stored.session_id)


def change(call, strategy, stored):
    assert call(strategy, "merge", stored, {"cart": 2}, later()) is not None


def end(call, strategy, stored):
    call(strategy, "delete_data", stored.session_id)


def is_done(act, seen):
    return seen is None if act is end else seen.data == {"cart": 2}


acts = pytest.mark.parametrize("act", [change, end])


@acts
def test_a_cache_that_hung_does_not_show_what_was_replaced_meanwhile(
    call, server, one, other, stored, act
):
    server.pause()
    try:
        act(call, one, stored)
    finally:
        server.resume()
    assert is_done(act, call(other, "load", stored.session_id))
    assert is_done(act, call(one, "load", stored.session_id))


@acts
@pytest.mark.parametrize("is_down", [False, True], ids=["running", "down"])
def test_a_cache_that_restarts_with_old_contents_does_not_show_them(
    call, server, one, other, stored, act, is_down
):
    """Whether it was running or down when they were replaced."""
    with closing(server.client()) as client:
        client.save()
    if is_down:
        server.kill()
    act(call, one, stored)
    server.kill()
    server.start()
    with closing(server.client()) as client:
        assert client.dbsize()
    assert is_done(act, call(other, "load", stored.session_id))


@acts
@pytest.mark.parametrize("pool", [{}, {"health_check_interval": 0.05}], ids=["as it is", "checks"])
def test_a_cache_that_restarts_within_a_lease_does_not_show_old_contents(
    call, monkeypatch, make, server, one, stored, act, pool
):
    """Connections that are kept know which process of the server they reach, until they end. With
    health checks, redis-py connects anew in the middle of a command, and says nothing."""
    monkeypatch.setattr(cached, "_PAUSE", 0)
    other = make(server.url, pool=pool)
    lease, _ = one._names("")
    with closing(server.client()) as client:
        client.pexpire(lease, 60_000)
        call(other, "load", stored.session_id)
        client.save()
    act(call, one, stored)
    server.kill()
    server.start()
    for _ in range(3):
        assert is_done(act, call(other, "load", stored.session_id))
    with closing(server.client()) as client:
        assert client.exists(lease)
        client.flushall()


class Proxy(Tunnel):
    """Keeps the connections of its clients when the server behind it ends."""

    def finish_request(self, outer, address):
        while True:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.leads_to)) as inner,
            ):
                self.forward(1, address[0], outer, inner)
            with suppress(BlockingIOError):
                if not outer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    return
            time.sleep(0.01)


def test_copies_are_read_again_through_a_proxy_whose_server_restarted(
    monkeypatch, quick, server, make
):
    monkeypatch.setattr(redis_connections, "_KNOWN_FOR", 1e-9)
    with Proxy(server.port) as proxy:
        one = make(f"redis://127.0.0.1:{proxy.port}/0")
        stored = one.insert({"cart": 1}, later())
        assert reads_copies(one, stored)
        server.kill()
        server.start()
        assert reads_copies(one, stored)


def test_a_replica_that_lags_does_not_show_a_session_after_its_logout(
    call, monkeypatch, server, make, one, stored
):
    """As a demoted primary, to which a process is still connected."""
    monkeypatch.setattr(cached, "_PAUSE", 0)
    lease, _ = one._names("")
    with (
        Tunnel(server.port) as tunnel,
        Valkey("--replicaof", "127.0.0.1", str(tunnel.port), "--appendonly", "no") as replica,
        closing(server.client()) as client,
        closing(replica.client()) as asked,
    ):
        client.config_set("repl-diskless-sync-delay", 0)
        one.load(stored.session_id)
        client.pexpire(lease, 60_000)
        assert client.wait(1, 20_000) == 1
        tunnel.holds = frozenset({"*"})
        end(call, one, stored)
        assert asked.exists(lease)
        assert call(make(replica.url), "load", stored.session_id) is None
        client.flushall()


@acts
def test_a_process_that_cannot_reach_the_cache_is_heard_by_one_that_can(
    call, server, make, other, stored, act
):
    with Tunnel(server.port) as tunnel:
        cut_off = make(f"redis://127.0.0.1:{tunnel.port}/0")
        assert call(cut_off, "load", stored.session_id) is not None
        tunnel.holds = frozenset({"*"})
        act(call, cut_off, stored)
        assert is_done(act, call(other, "load", stored.session_id))


@acts
def test_processes_with_two_caches_see_what_each_other_wrote(call, make, one, stored, act):
    with Valkey() as another:
        moved = make(another.url)
        act(call, moved, stored)
    assert is_done(act, call(one, "load", stored.session_id))


@acts
def test_a_full_cache_drops_copies_that_it_cannot_replace(call, server, one, other, stored, act):
    with closing(server.client()) as client:
        client.config_set("maxmemory", "1")
        try:
            act(call, one, stored)
            assert is_done(act, call(other, "load", stored.session_id))
        finally:
            client.config_set("maxmemory", "0")


def test_an_emptied_cache_fills_again(call, server, one, stored):
    with closing(server.client()) as client:
        client.flushall()
    assert call(one, "load", stored.session_id).data == {"cart": 1}
    assert reads_copies(one, stored)


def test_requests_do_not_wait_for_a_cache_that_hangs_each_time(call, server, one, stored):
    server.pause()
    try:
        change(call, one, stored)
        started = time.monotonic()
        for _ in range(20):
            assert call(one, "load", stored.session_id).data == {"cart": 2}
            assert call(one, "merge", stored, {"cart": 2}, later()) is not None
        # 40 time-outs of the cache would take 10 seconds; one request may try again.
        assert time.monotonic() - started < 5
    finally:
        server.resume()


def test_the_cache_is_used_again_after_an_outage(call, quick, server, one, stored):
    server.kill()
    change(call, one, stored)
    server.start()
    one._breaker.close()  # no need to wait for the end of its rest
    for _ in range(3):
        assert call(one, "load", stored.session_id).data == {"cart": 2}
    assert reads_copies(one, stored)


def test_a_gate_that_was_closed_stays_closed_for_a_while(call, server, one, other, stored):
    server.pause()
    change(call, one, stored)
    server.resume()
    other.load(stored.session_id)
    time.sleep(copies.LEASE)
    other._reads_after = 0
    assert queries(other, stored) == 2  # of the gate, and of the session


def test_a_cache_that_hangs_for_a_moment_does_not_close_the_gate(call, server, one, other, stored):
    """All processes would feel it."""
    server.pause()
    resumed = threading.Timer(1.2, server.resume)  # longer than two time-outs of the cache
    resumed.start()
    try:
        change(call, one, stored)
    finally:
        resumed.join()
    assert reads_copies(other, stored)


def test_a_breaker_that_opens_again_and_again_warns_once(caplog):
    breaker = Breaker()
    for _ in range(3):
        breaker.open(TimeoutError())
        breaker.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_store_that_is_down_is_down_with_a_cache_too(call, monkeypatch, one, stored):
    """But for the second that a lease lasts."""
    connections["postgres"].close()
    monkeypatch.setitem(connections["postgres"].settings_dict, "PORT", 1)
    with pytest.raises(StrategyUnavailable):
        call(one, "merge", stored, {"cart": 3}, later())
    with pytest.raises(StrategyUnavailable):
        call(one, "delete_data", stored.session_id)
    with closing(one.cache.clients._servers()._client) as client:
        client.delete(*one._names("")[:1])
    with pytest.raises(StrategyUnavailable):
        call(one, "load", stored.session_id)
