"""Time limits for what waits for PostgreSQL.

A server that hangs keeps its sockets open, so no option of libpq ends the wait. A watchdog does,
by shutting the socket down: the driver, and whatever has been wrapped around it, then sees an
ordinary loss of the connection, in the thread or the event loop that waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread, get_ident
from time import monotonic, sleep
from typing import Any, Protocol

import psycopg
from django.db import OperationalError, connections
from psycopg import AsyncConnection

from .database import sqlstate

_logger = logging.getLogger("django_strategy_sessions")

Row = tuple[Any, ...]
READ_ONLY = "25006"  # a standby, or a primary that was demoted to one
_TICK = 0.05  # seconds
_RESTS_AFTER = 200  # ticks


class Owner(Protocol):
    """`PostgresConnections`, to what it is made of."""

    timeout: float
    lock_timeout: float
    max_idle: float
    pool_size: int
    alias: Callable[[], str]
    demoted: float  # when the server was last seen to be read-only
    instrumented: str | None


class Wait:
    """``with Wait(...):`` gives up on Django's connection after `seconds`.

    A statement that waits for a lock may go on doing so, if the server says that it does.
    """

    __slots__ = (
        "asks_at",
        "cut",
        "cuts_at",
        "owner",
        "seconds",
        "sql",
        "started",
        "target",
        "thread",
    )

    def __init__(self, owner: Owner, target: Any, seconds: float, sql: str | None = None) -> None:
        self.owner: Owner = owner
        self.target: Any = target
        self.seconds: float = seconds
        self.sql: str | None = sql
        self.cut: bool = False

    def __enter__(self) -> None:
        self.thread: int = get_ident()
        self.started: float = monotonic()
        self.cuts_at: float = self.started + self.seconds
        self.asks_at: float = self.started + self.seconds / 2 if self.sql else float("inf")
        _watchdog().add(self)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        _watchdog().remove(self)
        if self.cut or error is not None:
            self.clear_up(error)
        if self.cut and error is not None:
            raise OperationalError(f"There was no answer within {self.seconds:g} s.") from error

    def clear_up(self, error: BaseException | None) -> None:
        """Close a connection that is of no more use, so that the next request connects anew."""
        django = self.target
        read_only = sqlstate(error) == READ_ONLY
        if read_only:
            self.owner.demoted = monotonic()
        if self.cut or getattr(django.connection, "closed", False):
            django.close()
        elif read_only:
            if django.in_atomic_block:
                django.close_at = 0  # by Django, when the request ends
            else:
                django.close()

    def alias(self) -> str:
        return str(self.target.alias)

    def connection(self) -> Any:
        return self.target.connection

    def socket_number(self) -> int | None:
        if (connection := self.connection()) is not None:
            return int(connection.fileno())
        return _connecting_socket(self.thread)

    def shut_down(self) -> None:
        """Make the wait end. The connection may be closed, and its number reused, at any time."""
        if (number := self.socket_number()) is not None:
            with socket.socket(fileno=os.dup(number)) as same:
                if self.socket_number() == number:
                    self.cut = True
                    same.shutdown(socket.SHUT_RDWR)


class AsyncWait(Wait):
    __slots__ = ()

    def connection(self) -> Any:
        return self.target

    def alias(self) -> str:
        return self.owner.alias()

    def clear_up(self, error: BaseException | None) -> None:
        if read_only := getattr(error, "sqlstate", None) == READ_ONLY:
            self.owner.demoted = monotonic()
        if self.cut or read_only:
            self.target.pgconn.finish()


def _connecting_socket(thread: int) -> int | None:
    """What a thread waits for while Django has no connection yet: psycopg connects, perhaps for a
    pool that has no time-out, or a pool tests what it is about to give."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code is psycopg.waiting.wait_conn.__code__:
            number: int | None = frame.f_locals.get("fileno")
            return number
        if isinstance(owner := frame.f_locals.get("self"), psycopg.Connection):
            return owner.fileno()
        frame = frame.f_back
    return None


class _Watchdog:
    """A thread that cuts the connections of what takes too long; one for each process."""

    def __init__(self) -> None:
        self._waits: dict[int, Wait] = {}
        self._lock = Lock()
        self._resting, self._wake = False, Event()

    def start(self) -> None:
        _start(self._run)

    def add(self, wait: Wait) -> None:
        self._waits[id(wait)] = wait
        if self._resting:
            self._wake.set()

    def remove(self, wait: Wait) -> None:
        with self._lock:
            self._waits.pop(id(wait), None)

    def _run(self) -> None:
        quiet = 0
        while True:
            quiet = 0 if self._waits else quiet + 1
            if quiet > _RESTS_AFTER:
                self._resting = True
                if not self._waits:
                    self._wake.wait()
                self._resting = False
                self._wake.clear()
                quiet = 0
            sleep(_TICK)
            try:
                self._look()
            except Exception:
                _logger.exception("The watchdog over PostgreSQL's time-outs failed.")

    def _look(self) -> None:
        now = monotonic()
        asking: dict[str, list[Wait]] = {}
        for key, wait in self._waits.copy().items():
            if now >= wait.cuts_at:
                with self._lock, suppress(psycopg.Error, OSError):
                    if key in self._waits:
                        wait.shut_down()
            elif now >= wait.asks_at:
                wait.asks_at = float("inf")
                asking.setdefault(wait.alias(), []).append(wait)
        for alias, waits in asking.items():
            _start(_extend_lock_waits, alias, waits)


def _start(work: Callable[..., None], *arguments: Any) -> None:
    with suppress(RuntimeError):  # the interpreter is shutting down
        Thread(target=work, args=arguments, name=f"sessions{work.__name__}", daemon=True).start()


_watchdogs: dict[int, _Watchdog] = {}  # by process; a forked one inherits its parent's entry


def _watchdog() -> _Watchdog:
    """Return the process's own watchdog, the same one to all threads.

    If two threads made one each, a wait could be added to one and removed from the other. The first
    would then cut that thread's connections for ever. A lock might be held at a fork.
    """
    if (found := _watchdogs.get(pid := os.getpid())) is None:
        made = _Watchdog()
        if (found := _watchdogs.setdefault(pid, made)) is made:
            made.start()
    return found


def _extend_lock_waits(alias: str, waits: list[Wait]) -> None:
    """Ask the server, over a new connection, which of the statements wait for a lock."""
    seconds = max(wait.cuts_at for wait in waits) - monotonic()
    try:
        active = asyncio.run(asyncio.wait_for(_active(connections[alias]), seconds))
    except Exception:
        return  # it does not answer: they are cut
    by_pid = {pid: locked for pid, locked, _ in active}
    now = monotonic()
    for wait in waits:
        with suppress(psycopg.Error, AttributeError):
            pid = wait.connection().info.backend_pid
            locked = by_pid.get(pid)
            if locked is None:  # behind a pooler, which has numbers of its own
                locked = any(
                    locked and query.startswith(str(wait.sql).partition("%s")[0])
                    for _, locked, query in active
                )
            if locked:
                end = wait.started + max(wait.seconds, wait.owner.lock_timeout)
                wait.cuts_at = min(now + wait.seconds, end)
                wait.asks_at = now + wait.seconds / 2


async def _active(django: Any) -> list[Row]:
    async with await open_connection(django) as connection:
        cursor = await connection.execute(
            "SELECT pid, wait_event_type = 'Lock', query FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()"
        )
        return await cursor.fetchall()


async def open_connection(django: Any) -> AsyncConnection[Row]:
    options = django.settings_dict["OPTIONS"]
    binding = options.get("server_side_binding") is True
    params = {
        **django.get_connection_params(),
        "cursor_factory": psycopg.AsyncCursor if binding else psycopg.AsyncClientCursor,
        "autocommit": True,
    }
    return await AsyncConnection[Row].connect(**params)
