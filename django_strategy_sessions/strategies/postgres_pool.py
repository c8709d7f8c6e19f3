"""The connections to PostgreSQL of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import psycopg
from django.db import connections
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from .postgres_timeouts import AsyncWait, Owner, Row, open_connection


class LoopPool:
    """The connections of one event loop, made when needed and closed when idle.

    psycopg's own pool connects in background tasks. In an outage its users wait out the time
    instead of being told, and a task that is cancelled while it connects can keep a loop from
    ending.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._idle: list[tuple[AsyncConnection[Row], float]] = []  # and since when
        self._slots = asyncio.Semaphore(owner.pool_size)
        self._cleaning: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def connection(
        self, deadline: float | None = None, new: bool = False
    ) -> AsyncIterator[tuple[AsyncConnection[Row], bool]]:
        """A connection, and whether it was kept."""
        deadline = deadline or monotonic() + self._owner.timeout
        try:
            async with asyncio.timeout(deadline - monotonic() if self._slots.locked() else None):
                await self._slots.acquire()
        except TimeoutError as error:
            raise psycopg.OperationalError("All connections for sessions are in use.") from error
        try:
            kept = None if new else self._living()
            connection = kept or await self._connect(deadline - monotonic())
            try:
                yield connection, kept is not None
            finally:
                if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                    self._idle.append((connection, monotonic()))
                    self._clean_later()
                else:
                    await connection.close()
        finally:
            self._slots.release()

    def _living(self) -> AsyncConnection[Row] | None:
        while self._idle:
            connection, since = self._idle.pop()
            trusted = max(self._owner.demoted, monotonic() - self._owner.max_idle)
            if since > trusted and not has_ended(connection):
                return connection
            connection.pgconn.finish()
        return None

    async def _connect(self, seconds: float) -> AsyncConnection[Row]:
        django = connections[self._owner.alias()]
        self._owner.instrumented = None  # ask again: tracers may begin late, and wrap this
        try:
            async with asyncio.timeout(seconds):
                connection = await open_connection(django)
        except TimeoutError as error:
            raise psycopg.OperationalError(f"No connection within {seconds:.1f} s.") from error
        try:
            with AsyncWait(self._owner, connection, seconds):
                await _configure(connection, django)
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    def _clean_later(self) -> None:
        if self._cleaning is None:
            loop = asyncio.get_running_loop()
            self._cleaning = loop.call_later(self._owner.max_idle, self._clean)

    def _clean(self) -> None:
        """A burst has passed: its connections are the server's to have back."""
        self._cleaning = None
        trusted = monotonic() - self._owner.max_idle
        for connection, since in self._idle:
            if since <= trusted:
                connection.pgconn.finish()
        self._idle = [(one, since) for one, since in self._idle if since > trusted]
        if self._idle:
            self._clean_later()

    async def aclose(self) -> None:
        if self._cleaning is not None:
            self._cleaning.cancel()
        for connection, _ in self._idle:
            connection.pgconn.finish()
        self._idle.clear()


async def _configure(connection: AsyncConnection[Row], django: Any) -> None:
    """As Django does it."""
    options = django.settings_dict["OPTIONS"]
    if (level := options.get("isolation_level")) is not None:
        await connection.set_isolation_level(psycopg.IsolationLevel(level))
    zone = django.timezone_name
    if zone and connection.info.parameter_status("TimeZone") != zone:
        await connection.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
    if role := options.get("assume_role"):
        await connection.execute(SQL("SET ROLE {}").format(Identifier(role)))


def has_ended(connection: Any) -> bool:
    """Whether the server has closed it, without asking: one call reads its goodbye, the next finds
    it gone."""
    try:
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False
