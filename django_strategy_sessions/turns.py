"""One at a time: for threads and tasks that share one session object."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Lock, get_ident


class Turn:
    """A reentrant lock that threads and tasks take in turn: ``with`` and ``async with``.

    A view may use its session from a pool of threads, or from tasks that `asyncio.gather` runs
    side by side. The first one loads the session, or creates it; the others wait for that.
    """

    __slots__ = ("_depth", "_guard", "_holder", "_waiting")

    def __init__(self) -> None:
        self._guard = Lock()
        self._holder: object = None
        self._depth = 0
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> None:
        me = get_ident()
        while (turn := self._take(me)) is not None:
            if isinstance(self._holder, asyncio.Task) and _is_loop_running():
                # Sync code in the thread of an event loop must not wait for a task of that loop.
                turn.cancel()
                self._depth += 1
                return
            turn.result()

    async def __aenter__(self) -> None:
        me = asyncio.current_task()
        while (turn := self._take(me)) is not None:
            await asyncio.wrap_future(turn)

    def __exit__(self, *error: object) -> None:
        with self._guard:
            self._depth -= 1
            if self._depth:
                return
            self._holder, waiting, self._waiting = None, self._waiting, []
        for turn in waiting:
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)

    async def __aexit__(self, *error: object) -> None:
        self.__exit__()

    def _take(self, me: object) -> Future[None] | None:
        """``None``, or what tells when to try again."""
        with self._guard:
            if self._holder is None or self._holder == me:
                self._holder, self._depth = me, self._depth + 1
                return None
            turn: Future[None] = Future()
            self._waiting.append(turn)
            return turn


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
