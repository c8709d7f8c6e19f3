"""Event loops: clients that belong to one, and the question whether there is one to speak of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from asgiref.sync import AsyncToSync

T = TypeVar("T")


def within_sync_code() -> bool:
    """Whether this runs inside of `async_to_sync`: on WSGI, and in tests.

    The loop may exist for this one call only, so nothing can be kept for it. And the thread that
    waits for it may hold an open transaction, which only its own connection knows.
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
