"""Strategies that sync code and event loops reach alike, neither through threads.

Each verb is written once, as steps (`base.Steps`), out of calls that have an `a` twin each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from typing import Any, Generic, TypeVar

from asgiref.sync import AsyncToSync, sync_to_async

from .base import Data, SessionStrategy, Steps, Stored, arun, run

T = TypeVar("T")


class NativeStrategy(SessionStrategy):
    atomic = True
    keeps_created = True

    # -- what a subclass writes --------------------------------------------------------------------

    def _load_steps(self, session_id: str) -> Steps[Stored | None]:
        raise NotImplementedError

    def _insert_steps(self, data: Data, expires: datetime) -> Steps[Stored]:
        raise NotImplementedError

    def _replace_steps(
        self, stored: Stored, data: Data, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        """`merge`, or `rotate`."""
        raise NotImplementedError

    def _update_steps(self, session_id: str, data: Data, expires: datetime) -> Steps[bool]:
        raise NotImplementedError

    def _delete_steps(self, session_id: str) -> Steps[None]:
        raise NotImplementedError

    # -- the verbs ---------------------------------------------------------------------------------

    def create_data(self, data: Data, expires: datetime) -> str:
        return self.insert(data, expires).session_id

    def read_data(self, session_id: str) -> Data | None:
        stored = self.load(session_id)
        return None if stored is None else stored.data

    def update_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        return run(self, self._update_steps(session_id, data, expires))

    def delete_data(self, session_id: str) -> None:
        run(self, self._delete_steps(session_id))

    def load(self, session_id: str) -> Stored | None:
        return run(self, self._load_steps(session_id))

    def insert(self, data: Data, expires: datetime) -> Stored:
        return run(self, self._insert_steps(data, expires))

    def merge(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        return run(self, self._replace_steps(stored, data, expires, rotating=False))

    def rotate(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        return run(self, self._replace_steps(stored, data, expires, rotating=True))

    async def acreate_data(self, data: Data, expires: datetime) -> str:
        return (await self.ainsert(data, expires)).session_id

    async def aread_data(self, session_id: str) -> Data | None:
        stored = await self.aload(session_id)
        return None if stored is None else stored.data

    async def aupdate_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        return await self._arun(self._update_steps(session_id, data, expires))

    async def adelete_data(self, session_id: str) -> None:
        await self._arun(self._delete_steps(session_id))

    async def aload(self, session_id: str) -> Stored | None:
        return await self._arun(self._load_steps(session_id))

    async def ainsert(self, data: Data, expires: datetime) -> Stored:
        return await self._arun(self._insert_steps(data, expires))

    async def amerge(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        return await self._arun(self._replace_steps(stored, data, expires, rotating=False))

    async def arotate(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        return await self._arun(self._replace_steps(stored, data, expires, rotating=True))

    async def _arun(self, steps: Steps[T]) -> T:
        if _within_sync_code():
            return await sync_to_async(run)(self, steps)
        return await arun(self, steps)


def _within_sync_code() -> bool:
    """Whether this is inside of `async_to_sync`: on WSGI, and in tests.

    The loop may be there for this one call only, so nothing can be kept for it; and the thread that
    waits for it may hold an open transaction, of which only its own connection knows.
    """
    return getattr(AsyncToSync.executors, "current", None) is not None


class PerLoop(Generic[T]):
    """One client for each event loop and process, made when first asked for, closed with the loop.

    Neither can share one: a socket is watched by one loop, and two processes would read each
    other's answers from it.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make, self._close = make, close
        self._kept: dict[tuple[int, asyncio.AbstractEventLoop], tuple[T, Any]] = {}

    async def get(self) -> T:
        key = os.getpid(), asyncio.get_running_loop()
        if (kept := self._kept.get(key)) is not None:
            return kept[0]
        for closed in [other for other in list(self._kept) if other[1].is_closed()]:
            self._kept.pop(closed, None)  # by whoever did not shut its generators down
        client = self._make()
        # A loop that shuts down closes the asynchronous generators that were begun in it.
        keeper = self._keep(key, client)
        self._kept[key] = client, keeper
        await anext(keeper)
        return client

    async def _keep(
        self, key: tuple[int, asyncio.AbstractEventLoop], client: T
    ) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._kept.pop(key, None)
            await self._close(client)
