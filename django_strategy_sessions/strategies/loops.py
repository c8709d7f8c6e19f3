"""Event loops: one client per loop, and whether a loop outlives its call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from asgiref.sync import AsyncToSync

T = TypeVar("T")


def within_sync_code() -> bool:
    """Whether this runs inside `async_to_sync`, as on WSGI and in tests.

    The loop may exist for this one call only, so keeping a client for it is useless. And the
    waiting thread may have an open transaction, which only its own connection sees.
    """
    return getattr(AsyncToSync.executors, "current", None) is not None


class PerLoop(Generic[T]):
    """One client per event loop and process, made on first use and closed with the loop.

    Loops cannot share a client, because only one loop can watch a socket. Processes cannot either,
    because they would read each other's replies.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make, self._close = make, close
        self._kept: dict[tuple[int, asyncio.AbstractEventLoop], tuple[T, Any]] = {}

    async def get(self) -> T:
        key = os.getpid(), asyncio.get_running_loop()
        if (kept := self._kept.get(key)) is not None:
            return kept[0]
        for closed in [other for other in list(self._kept) if other[1].is_closed()]:
            self._kept.pop(closed, None)  # code closed the loop without shutdown_asyncgens()
        client = self._make()
        # A loop that shuts down closes the asynchronous generators that started in it.
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
