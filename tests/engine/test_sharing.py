"""One session object that several tasks or threads of its request use."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError, Event

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from django_strategy_sessions import create_session_storage, draft
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.lines import Lines
from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.turns import Turn
from django_strategy_sessions.values import decode

from ..conftest import MEMORY, run_in_loop

COUNT = 4
TIMEOUT = 20  # seconds, after which a test that waits for ever fails


def bounded(work):
    return run_in_loop(asyncio.wait_for(work, TIMEOUT))


def in_threads(work):
    """In a pool of threads, all at once, as some views do."""
    everyone = Barrier(COUNT)

    def one(number):
        everyone.wait(TIMEOUT)
        try:
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(COUNT) as threads:
        return list(threads.map(one, range(COUNT), timeout=TIMEOUT))


def saved(**data):
    session = SessionStore()
    session.update(data)
    session.save()
    return session.session_key


def held(session):
    return SessionStore(session.session_key).load()


NUMBERS = {str(number): number for number in range(COUNT)}


@pytest.mark.parametrize("exists", [False, True])
def test_tasks_that_gather_load_once_create_once_and_lose_nothing(strategy, calls, exists):
    key = saved(old=1) if exists else None
    calls.clear()
    session = SessionStore(key)

    async def main():
        await asyncio.gather(*(session.aset(*item) for item in NUMBERS.items()))
        assert calls == ["aload"] * exists
        await asyncio.gather(*(session.asave() for _ in NUMBERS))
        assert calls.count("ainsert") == (not exists)

    bounded(main())
    assert held(session) == {**({"old": 1} if exists else {}), **NUMBERS}


@pytest.mark.parametrize("exists", [False, True])
def test_a_pool_of_threads_loads_once_creates_once_and_loses_nothing(strategy, calls, exists):
    key = saved(old=1) if exists else None
    calls.clear()
    session = SessionStore(key)

    in_threads(lambda number: session.update({str(number): number}))
    assert calls == ["load"] * exists
    in_threads(lambda _number: session.save())
    assert calls.count("insert") == (not exists)
    assert held(session) == {**({"old": 1} if exists else {}), **NUMBERS}


def test_threads_beside_tasks_share_what_was_loaded(strategy):
    """As resolvers of GraphQL, some async and some in threads."""
    session = SessionStore(saved(cart=[]))

    def in_thread(name):
        try:
            session["cart"].append(name)
            session.save()
        finally:
            connections.close_all()

    async def in_task(name):
        (await session.aget("cart")).append(name)
        await session.asave()

    async def main():
        thread = sync_to_async(in_thread, thread_sensitive=False)
        await asyncio.gather(in_task("a"), thread("b"), in_task("c"), thread("d"))

    bounded(main())
    assert sorted(session["cart"]) == ["a", "b", "c", "d"]
    session.save()
    assert sorted(held(session)["cart"]) == ["a", "b", "c", "d"]


def test_threads_that_first_read_a_name_get_one_object(strategy, monkeypatch):
    """Or what one of them appends is lost."""
    session = SessionStore(saved(cart=[]))
    session.get("other")  # loads
    both = Barrier(2)

    def decode_together(text):
        with suppress(BrokenBarrierError):
            both.wait(0.2)
        return decode(text)

    monkeypatch.setattr(draft, "decode", decode_together)
    in_threads(lambda number: session["cart"].append(number))
    assert sorted(session["cart"]) == [0, 1, 2, 3]


COMPLETE = {"user": "ada", "cart": [1], "visits": 12}


@pytest.mark.parametrize(
    "use",
    [
        dict,
        copy.copy,
        copy.deepcopy,
        lambda data: json.loads(json.dumps(data)),
        lambda data: pickle.loads(pickle.dumps(data)),
        lambda data: {**data},
        lambda data: {name: data[name] for name in reversed([*reversed(data)])},
        lambda data: data if len(data) == 3 and bool(data) else {},
        lambda data: data if data == COMPLETE else {},
    ],
    ids=["dict", "copy", "deepcopy", "json", "pickle", "stars", "order", "len", "equals"],
)
def test_what_other_code_gets_is_complete_after_threads_read_one_name(settings, use):
    settings.SESSION_STRATEGY = MEMORY
    session = SessionStore(saved(**COMPLETE))

    def read_and_use(number):
        assert session["user"] == session.get("user") == "ada"
        data = session._session if number % 2 else session._session_cache
        return data, use(data)

    (data, _), *_ = results = in_threads(read_and_use)
    for each, used in results:
        assert each is data  # or what one of them changes is lost
        assert [*used] == [*COMPLETE]
        assert used == COMPLETE


def test_threads_that_first_use_all_data_get_one_dict(settings, monkeypatch):
    """Or what one of them changes is lost."""
    settings.SESSION_STRATEGY = MEMORY
    session = SessionStore(saved(user="ada"))
    assert session["user"] == "ada"
    both, split = Barrier(2), Lines.split

    def make_together(texts):
        with suppress(BrokenBarrierError):
            both.wait(0.2)
        return split(texts)

    monkeypatch.setattr(Lines, "split", make_together)
    in_threads(lambda number: session.update({str(number): number}))
    assert dict(session.items()) == {"user": "ada", **NUMBERS}


def test_data_that_is_cleared_while_another_thread_first_uses_it_stays_cleared(
    settings, monkeypatch
):
    settings.SESSION_STRATEGY = MEMORY
    session = SessionStore(saved(user="ada"))
    assert session["user"] == "ada"
    started, cleared, split = Event(), Event(), Lines.split

    def make_slowly(texts):
        started.set()
        cleared.wait(0.2)
        return split(texts)

    monkeypatch.setattr(Lines, "split", make_slowly)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(session.keys)
        started.wait(TIMEOUT)
        session.clear()
        cleared.set()
        reading.result(TIMEOUT)
    assert list(session.keys()) == []


def test_a_function_of_apply_may_use_the_session(strategy):
    session = SessionStore(saved(count=1, step=2))

    def nested(count):
        session["seen"] = True
        return count + session["step"]

    assert session.apply("count", nested) == 3
    assert session["seen"]


def test_a_function_of_aapply_may_use_the_session(strategy):
    session = SessionStore(saved(count=1, step=2))

    def nested(count):
        session["seen"] = True
        return count + session["step"]

    async def main():
        return await session.aapply("count", nested)

    assert bounded(main()) == 3
    assert session["seen"]


def test_a_storages_session_is_created_once(strategy):
    storage = create_session_storage(get_strategy())
    session = storage.get_session()

    async def one(name, value):
        session.set(name, value)
        return await storage.acommit_session(session)

    async def main():
        return await asyncio.gather(*(one(*item) for item in NUMBERS.items()))

    cookies = {cookie.partition(";")[0] for cookie in bounded(main())}
    assert len(cookies) == 1
    assert storage.get_session(cookies.pop()).data == NUMBERS


def test_a_storages_session_is_created_once_by_threads(strategy):
    storage = create_session_storage(get_strategy())
    session = storage.get_session()

    def one(number):
        session.set(str(number), number)
        return storage.commit_session(session).partition(";")[0]

    (cookie,) = {*in_threads(one)}
    assert storage.get_session(cookie).data == NUMBERS


# -- the turn itself -------------------------------------------------------------------------------


def test_a_task_cancelled_while_it_waits_does_not_block_others():
    turn, order = Turn(), []

    async def one(name, go):
        async with turn:
            order.append(name)
            await go.wait()

    async def main():
        go = asyncio.Event()
        tasks = [asyncio.create_task(one(name, go)) for name in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[1].cancelled()

    bounded(main())
    assert order == ["a", "c"]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_an_exception_in_the_holder_gives_the_turn_back(error):
    turn = Turn()

    async def main():
        with pytest.raises(error):
            async with turn:
                raise error
        async with turn:
            pass
        with pytest.raises(error), turn:
            raise error
        with turn:
            pass

    bounded(main())


def test_two_event_loops_take_turns():
    turn, inside = Turn(), []

    async def main(number):
        for _ in range(50):
            async with turn:
                inside.append(number)
                await asyncio.sleep(0)
                assert inside == [number]
                inside.pop()

    in_threads(lambda number: asyncio.run(asyncio.wait_for(main(number), TIMEOUT)))


def test_sync_code_in_the_loops_thread_does_not_wait_for_a_task_of_the_loop():
    turn = Turn()

    async def main():
        held, go = asyncio.Event(), asyncio.Event()

        async def hold():
            async with turn:
                held.set()
                await go.wait()

        task = asyncio.create_task(hold())
        await held.wait()
        with turn:  # or the loop would stand still
            pass
        go.set()
        await task
        async with turn:
            pass

    bounded(main())


def test_the_turn_is_reentrant_in_threads_that_the_holder_waits_for():
    """As of `sync_to_async`, where a strategy is not native to event loops."""
    turn = Turn()

    def nested():
        with turn:
            return "done"

    async def main():
        async with turn:
            return await sync_to_async(nested)()

    assert bounded(main()) == "done"


def test_a_task_that_the_holder_left_behind_waits_as_others_do():
    turn, order = Turn(), []

    async def later():
        await asyncio.sleep(0)
        async with turn:
            order.append("later")

    async def main():
        async with turn:
            task = asyncio.create_task(later())
        async with turn:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            order.append("holder")
        await task

    bounded(main())
    assert order == ["holder", "later"]
