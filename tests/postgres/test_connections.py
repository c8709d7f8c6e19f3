"""The connections of event loops and of forked processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from random import Random
from threading import Barrier

import pytest
from django.db import connections

from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import later

from ..conftest import in_postgres, run_in_loop
from ..servers import database
from .conftest import PATIENCE, TABLE, asked, backends, borrowed, outside, pointed, wait_until

pytestmark = in_postgres

# -- the pools of event loops ---------------------------------------------------------------------


def test_a_pool_opens_at_most_pool_size_connections(server):
    strategy = PostgresStrategy("postgres", timeout=PATIENCE, pool_size=3)

    async def main():
        stored = await strategy.ainsert({"a": 1}, later())
        loaded = await asyncio.gather(*(strategy.aload(stored.session_id) for _ in range(100)))
        assert [one.data for one in loaded] == [{"a": 1}] * 100
        assert len(backends()) == 3

    run_in_loop(main())


def test_a_pool_in_full_use_is_an_outage_until_a_connection_is_free(server):
    strategy = PostgresStrategy("postgres", timeout=0.5, pool_size=2)

    async def main():
        stored = await strategy.ainsert({"a": 1}, later())
        async with borrowed(strategy), borrowed(strategy):
            with pytest.raises(StrategyUnavailable) as error:
                await strategy.aload(stored.session_id)
        assert "in use" in str(error.value.__cause__)
        assert (await strategy.aload(stored.session_id)).data == {"a": 1}

    run_in_loop(main())


def test_each_event_loop_has_its_own_connections_and_closes_them(server, strategy):
    both = Barrier(2)

    async def visit(number):
        stored = await strategy.ainsert({"number": number}, later())
        both.wait(PATIENCE)
        assert (await strategy.aload(stored.session_id)).data == {"number": number}
        (pid,) = await strategy.connections.afetch("SELECT pg_backend_pid()")
        both.wait(PATIENCE)
        assert pid in backends()
        return pid

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda number: run_in_loop(visit(number)), range(2))
    assert one != other
    wait_until(lambda: not backends())


def test_cancelled_calls_leave_a_working_pool(server):
    strategy = PostgresStrategy("postgres", timeout=PATIENCE, pool_size=4)
    random = Random(0)

    async def visit(stored):
        loaded = await strategy.aload(stored.session_id)
        assert loaded.data["number"] == stored.data["number"]
        merged = await strategy.amerge(loaded, {**loaded.data, "seen": random.random()}, later())
        assert merged.data["number"] == stored.data["number"]

    async def cancelled(stored, pause):
        tasks = [asyncio.create_task(visit(one)) for one in stored]
        for task in tasks:
            await asyncio.sleep(pause())
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def main():
        stored = [await strategy.ainsert({"number": number}, later()) for number in range(20)]
        answers = []
        for _ in range(5):
            answers += await cancelled(stored, lambda: random.expovariate(1000))
        with outside() as holder:
            holder.execute(f"SELECT * FROM {TABLE} FOR UPDATE")  # now most of them wait
            for _ in range(5):
                answers += await cancelled(stored, lambda: random.expovariate(500))
        assert {type(answer) for answer in answers} <= {type(None), asyncio.CancelledError}
        assert sum(answer is not None for answer in answers) > 100
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(borrowed(strategy))
        wait_until(lambda: len(backends()) <= 4)
        await asyncio.gather(*map(visit, stored * 5))

    with asked(server) as _:
        run_in_loop(main())
    assert "canceling statement" in (server.folder / "log").read_text()
    wait_until(lambda: not backends())


# -- forks ----------------------------------------------------------------------------------------


@contextmanager
def in_child(work):
    """A list, to hold what `work` answers in a forked process."""
    read, write = os.pipe()
    if not (pid := os.fork()):
        signal.alarm(PATIENCE)
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    answer = []
    yield answer
    with os.fdopen(read) as pipe:
        answer.append(json.loads(pipe.read()))
    os.waitpid(pid, 0)


forking = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
PID = "SELECT pg_backend_pid()"


@forking
def test_a_forked_process_has_a_connection_of_its_own(server, strategy):
    stored = [strategy.insert({"number": number}, later()) for number in range(2)]

    def visits(number):
        read = [strategy.read_data(stored[number].session_id) for _ in range(50)]
        return [*strategy.connections.fetch(PID), read]

    with in_child(lambda: visits(1)) as answer:
        mine, read = visits(0)
        assert read == [{"number": 0}] * 50
    ((theirs, read),) = answer
    assert read == [{"number": 1}] * 50
    assert theirs != mine
    assert visits(0)[0] == mine


@forking
def test_a_forked_process_has_a_pool_of_its_own(server):
    """Where Django keeps one."""
    pooled = database(server.url, pool={"min_size": 2, "max_size": 2})
    with pointed(**{**pooled, "CONN_MAX_AGE": 0}):
        strategy = PostgresStrategy("postgres", timeout=PATIENCE)
        stored = [strategy.insert({"number": number}, later()) for number in range(2)]
        connections["postgres"].close()  # gives it back

        def visits(number):
            read = [strategy.read_data(stored[number].session_id) for _ in range(50)]
            connections["postgres"].close()
            return read

        try:
            with in_child(lambda: visits(1)) as answer:
                assert visits(0) == [{"number": 0}] * 50
        finally:
            connections["postgres"].close_pool()
    assert answer == [[{"number": 1}] * 50]


@forking
def test_the_first_requests_of_a_process_leave_no_time_out_behind(server):
    """It would cut what the same threads ask the database later."""
    strategy, count = PostgresStrategy("postgres", timeout=2), 16
    stored = strategy.insert({"a": 1}, later())
    together = Barrier(count)

    def visit(_):
        with connections["postgres"].cursor() as cursor:
            together.wait(PATIENCE)
            loaded = strategy.read_data(stored.session_id)
            cursor.execute("SELECT pg_sleep(3)")
            return loaded

    def visits():
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(visit, range(count)))

    with in_child(visits) as answer:
        pass
    assert answer == [[{"a": 1}] * count]


@forking
def test_a_forked_event_loop_has_connections_of_its_own(server, strategy):
    async def visits(stored):
        read = [await strategy.aread_data(stored.session_id) for _ in range(50)]
        return [*(await strategy.connections.afetch(PID)), read]

    async def main():
        stored = [await strategy.ainsert({"number": number}, later()) for number in range(2)]
        with in_child(lambda: asyncio.run(visits(stored[1]))) as answer:
            mine, read = await visits(stored[0])
            assert read == [{"number": 0}] * 50
        ((theirs, read),) = answer
        assert read == [{"number": 1}] * 50
        assert theirs != mine
        assert (await visits(stored[0]))[0] == mine

    run_in_loop(main())
