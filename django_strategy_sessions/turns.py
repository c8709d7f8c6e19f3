"""A lock for the threads and tasks that share one session object."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextvars import ContextVar
from threading import Lock

# What the code that runs is inside of. It goes along into the threads that this code waits for.
_inside: ContextVar[frozenset[object]] = ContextVar("inside", default=frozenset())


class Turn:
    """A reentrant lock for threads (``with``) and tasks (``async with``) alike.

    A view may use its session from a thread pool, or from tasks that `asyncio.gather` runs. The
    first thread or task loads or creates the session, and the others wait for it.
    """

    __slots__ = ("_by_task", "_depth", "_guard", "_holder", "_waiting")

    def __init__(self) -> None:
        self._guard = Lock()
        self._holder: object = None  # made anew for each, so a task that is left behind has none
        self._by_task = False
        self._depth = 0
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> None:
        while (turn := self._take(by_task=False)) is not None:
            turn.result()

    async def __aenter__(self) -> None:
        while (turn := self._take(by_task=True)) is not None:
            await asyncio.wrap_future(turn)

    def __exit__(self, *error: object) -> None:
        with self._guard:
            self._depth -= 1
            if self._depth:
                return
            holder, self._holder = self._holder, None
            waiting, self._waiting = self._waiting, []
        _inside.set(_inside.get() - {holder})
        for turn in waiting:
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)

    async def __aexit__(self, *error: object) -> None:
        self.__exit__()

    def _take(self, by_task: bool) -> Future[None] | None:
        """``None``, or what tells when to try again."""
        with self._guard:
            if self._holder is None:
                self._holder, self._by_task, self._depth = object(), by_task, 1
                _inside.set(_inside.get() | {self._holder})
                return None
            # Sync code in the thread of an event loop must not wait for a task of that loop.
            passes = self._by_task and not by_task and _is_loop_running()
            if passes or self._holder in _inside.get():
                self._depth += 1
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
