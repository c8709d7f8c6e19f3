"""The connections of event loops, threads and processes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_strategy_sessions.testing import later

from ..servers import Valkey
from .conftest import BOUND, connections


def wait_until_nobody_is_connected(server):
    ends = time.monotonic() + BOUND
    while connections(server):
        assert time.monotonic() < ends


def test_each_event_loop_has_one_client_that_is_closed_with_it(make):
    with Valkey() as server:
        strategy = make(server.url)
        with asyncio.Runner() as one, asyncio.Runner() as other:
            stored = one.run(strategy.ainsert({"a": 1}, later()))
            (first,) = connections(server)
            for _ in range(5):
                assert one.run(strategy.aload(stored.session_id)).data == {"a": 1}
            assert connections(server) == {first}
            assert other.run(strategy.aload(stored.session_id)).data == {"a": 1}
            assert len(connections(server)) == 2
        wait_until_nobody_is_connected(server)


@pytest.mark.parametrize("pool", [{}, {"max_connections": 5}], ids=["by default", "five"])
def test_hundreds_of_requests_at_once_wait_for_a_connection(make, pool):
    async def all_at_once(server):
        strategy = make(server.url, {"CONNECTION_POOL_KWARGS": pool})
        stored = await asyncio.gather(*(strategy.ainsert({"n": n}, later()) for n in range(300)))
        assert len(connections(server)) <= pool.get("max_connections", 300)
        return await asyncio.gather(*(strategy.aload(one.session_id) for one in stored))

    with Valkey() as server:
        assert [one.data["n"] for one in asyncio.run(all_at_once(server))] == list(range(300))


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 16),
        ({"CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool"}, 3),
    ],
    ids=["by default", "a pool that lets them wait"],
)
def test_threads_share_connections_and_get_their_own_replies(make, options, most):
    def visit(strategy, n):
        stored = strategy.insert({"n": n}, later())
        return [strategy.load(stored.session_id).data["n"] for _ in range(20)] == [n] * 20

    with Valkey() as server, ThreadPoolExecutor(16) as pool:
        options = {**options, "CONNECTION_POOL_KWARGS": {"max_connections": most}}
        strategy = make(server.url, options)
        assert all(pool.map(lambda n: visit(strategy, n), range(200)))
        assert len(connections(server)) <= most


def test_cancelled_calls_leave_no_reply_for_other_calls(server, strategy):
    async def cancel_all():
        stored = await asyncio.gather(*(strategy.ainsert({"n": n}, later()) for n in range(200)))
        server.pause()
        calls = [asyncio.create_task(strategy.aload(one.session_id)) for one in stored[::2]]
        calls += [
            asyncio.create_task(strategy.amerge(one, {**one.data, "late": 1}, later()))
            for one in stored[1::2]
        ]
        await asyncio.sleep(0.1)  # they have been sent
        for each in calls:
            each.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in ended} == {asyncio.CancelledError}
        server.resume()
        for _ in range(3):
            loads = (strategy.aload(one.session_id) for one in stored)
            assert [one.data["n"] for one in await asyncio.gather(*loads)] == list(range(200))

    try:
        asyncio.run(cancel_all())
    finally:
        server.resume()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # is multi-threaded
def test_a_forked_process_has_sockets_of_its_own(make, call):
    with Valkey() as server:  # so that all connections are this test's
        strategy = make(server.url)
        parents = call(strategy, "insert", {"of": "parent"}, later())
        childs = call(strategy, "insert", {"of": "child"}, later())
        here, there = socket.socketpair()
        before = connections(server)
        if (child := os.fork()) == 0:
            status = 1
            try:
                here.close()
                with asyncio.Runner() as loop:
                    loop.run(strategy.aload(childs.session_id))
                    strategy.load(childs.session_id)
                    there.sendall(b".")
                    for _ in range(300):
                        assert strategy.load(childs.session_id).data == {"of": "child"}
                        assert loop.run(strategy.aload(childs.session_id)).data == {"of": "child"}
                there.recv(1)
                status = 0
            finally:
                os._exit(status)
        there.close()
        with here:
            assert here.recv(1) == b"."
            for _ in range(600):
                assert call(strategy, "load", parents.session_id).data == {"of": "parent"}
            assert before < connections(server)
            here.sendall(b".")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
