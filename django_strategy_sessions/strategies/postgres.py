"""Sessions in PostgreSQL, one statement a verb: over Django's connection, or an async pool.

The table is `DatabaseStrategy`'s, so either strategy can take over from the other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from .. import records
from ..models import StoredSession
from .base import CONFLICTS, Data, Steps, Stored, StrategyUnavailable, arun, reconcile, run
from .database import DatabaseStrategy, answers, owner, sqlstate
from .native import NativeStrategy, PerLoop

# Ids go as hex and times as text: to the server both are literals, and nothing need be adapted.
# The time is the application's, not now(): what one clock wrote, the other must not judge.
_TABLE = StoredSession._meta.db_table
_MAC = f"left(data, {records.MAC_LENGTH})"
_SELECT = (
    "SELECT id::text, data, date_part('epoch', expires), date_part('epoch', created)"
    f' FROM "{_TABLE}" WHERE id = %s'
)
_LOCK = f"{_SELECT} FOR UPDATE"
_INSERT = (
    f'INSERT INTO "{_TABLE}" (id, data, expires, owner, created) VALUES (%s, %s, %s, %s, %s)'
    " ON CONFLICT (id) DO NOTHING RETURNING true"
)
_LIVE = "WHERE id = %s AND expires > %s"
_UPDATE = f'UPDATE "{_TABLE}" SET data = %s, expires = %s, owner = %s {_LIVE} RETURNING true'
_SWAP = (
    f'UPDATE "{_TABLE}" SET data = %s, expires = %s, owner = %s'
    f" {_LIVE} AND {_MAC} = %s RETURNING true"
)
_ROTATE = (
    f'UPDATE "{_TABLE}" SET data = %s, expires = %s, owner = %s, id = %s'
    f" {_LIVE} AND {_MAC} = %s RETURNING true"
)
_RENEW = f'UPDATE "{_TABLE}" SET expires = %s {_LIVE} AND {_MAC} = %s RETURNING true'
_DELETE = f'DELETE FROM "{_TABLE}" WHERE id = %s RETURNING true'
# SKIP LOCKED passes rows that others hold. FOR UPDATE tests `expires` again on each row it locks,
# so one that was just renewed stays. A locked row cannot move: its ctid finds it in half the time.
# Rows of other partitions may have the same, hence the second test.
_CLEAR = (
    f'WITH gone AS (DELETE FROM "{_TABLE}" WHERE ctid = ANY(ARRAY(SELECT ctid FROM "{_TABLE}"'
    " WHERE expires <= %s ORDER BY expires LIMIT %s FOR UPDATE SKIP LOCKED))"
    " AND expires <= %s RETURNING true)"
    " SELECT count(*) FROM gone"
)

Row = tuple[Any, ...]


class PostgresStrategy(NativeStrategy, DatabaseStrategy):
    """`using`: an alias in ``DATABASES``; by default, where the router sends the model's writes.

    `timeout`: seconds after which a statement, or an attempt to connect, counts as an outage.
    `pool_size`: the most connections of an event loop's own pool.
    """

    def __init__(self, using: str | None = None, timeout: float = 5.0, pool_size: int = 10) -> None:
        super().__init__(using)
        self.timeout: float = timeout
        self._pool_size = pool_size
        if self.connection.vendor != "postgresql":
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}] is {self.connection.display_name}, not PostgreSQL."
            )
        # libpq's own is two minutes. Whole seconds, and it takes 1 for 2.
        options = self.connection.settings_dict["OPTIONS"]
        options.setdefault("connect_timeout", max(2, round(timeout)))
        self._pools = PerLoop(self._make_pool, _Pool.close)
        _aliases.add(self.alias)

    # -- the verbs, as steps -----------------------------------------------------------------------

    def _load_steps(self, session_id: str) -> Steps[Stored | None]:
        row = yield "_fetch", _SELECT, records.hashed(session_id)
        return _opened(session_id, row)

    def _insert_steps(self, data: Data, expires: datetime) -> Steps[Stored]:
        created = datetime.now(UTC)
        while True:
            session_id = records.new_id()
            record = records.seal(session_id, data)
            values = record, expires.isoformat(), owner(data), created.isoformat()
            if (yield "_fetch", _INSERT, records.hashed(session_id), *values):
                return Stored(session_id, data, expires, created, record)

    def _update_steps(self, session_id: str, data: Data, expires: datetime) -> Steps[bool]:
        values = records.seal(session_id, data), expires.isoformat(), owner(data)
        held = records.hashed(session_id), _now()
        return bool((yield from self._until_serialized("_fetch", _UPDATE, *values, *held)))

    def _delete_steps(self, session_id: str) -> Steps[None]:
        yield from self._until_serialized("_fetch", _DELETE, records.hashed(session_id))

    def _clear_batch(self, batch_size: int) -> tuple[int, int]:
        now = _now()
        clearing = self._until_serialized("_fetch", _CLEAR, now, batch_size, now)
        (count,) = run(self, clearing)
        return count, count

    def _replace_steps(
        self, stored: Stored, data: Data, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        wanted = reconcile(stored, data, expires, stored)
        try:
            if written := (yield from self._swap_steps(stored, *wanted, rotating)):
                return written
        except StrategyUnavailable as error:
            if not self._is_conflict(error):
                raise
        answer: Stored | None = yield from self._until_serialized(
            "_under_lock", stored, data, expires, rotating
        )
        return answer

    def _until_serialized(self, *call: Any) -> Steps[Any]:
        for _ in range(CONFLICTS):
            try:
                return (yield call)
            except StrategyUnavailable as error:
                if not self._is_conflict(error):
                    raise
                conflict = error
        raise StrategyUnavailable("Other requests changed the session all the time.") from conflict

    def _is_conflict(self, error: StrategyUnavailable) -> bool:
        """Stricter isolation than PostgreSQL's default calls a conflict a failure.

        It ends the transaction: that of a caller is not ours to repeat.
        """
        return sqlstate(error.__cause__) == "40001" and not self.connection.in_atomic_block

    def _locked_steps(
        self, stored: Stored, data: Data, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        row = yield "_fetch", _LOCK, records.hashed(stored.session_id)
        if (current := _opened(stored.session_id, row)) is None:
            return None
        wanted = reconcile(stored, data, expires, current)
        return (yield from self._swap_steps(current, *wanted, rotating))

    def _swap_steps(
        self, current: Stored, data: Data, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        """Compare and set, in one statement; ``None`` if the record is another by now."""
        session_id, record = current.session_id, str(current.token)
        held = records.hashed(session_id), _now(), record[: records.MAC_LENGTH]
        if rotating:
            session_id = records.new_id()
            record = records.seal(session_id, data)
            values = record, expires.isoformat(), owner(data), records.hashed(session_id)
            row = yield "_fetch", _ROTATE, *values, *held
        elif data is current.data and records.is_current(session_id, record):
            row = yield "_fetch", _RENEW, expires.isoformat(), *held
        else:
            record = records.seal(session_id, data)
            row = yield "_fetch", _SWAP, record, expires.isoformat(), owner(data), *held
        return Stored(session_id, data, expires, current.created, record) if row else None

    # -- over Django's connection ------------------------------------------------------------------

    def _fetch(self, sql: str, *values: Any) -> Row | None:
        connection = self.connection
        with answers, _Limited(connection, self.timeout), connection.cursor() as cursor:
            cursor.execute(sql, values)
            row: Row | None = cursor.fetchone()
            return row

    def _under_lock(self, *change: Any) -> Stored | None:
        limited = _Limited(self.connection, self.timeout)
        with answers, limited, transaction.atomic(using=self.alias):
            return run(self, self._locked_steps(*change))

    # -- over an event loop's own pool -------------------------------------------------------------

    async def a_fetch(self, sql: str, *values: Any) -> Row | None:
        async with self._borrowed() as connection:
            return await connection.a_fetch(sql, *values)

    async def a_under_lock(self, *change: Any) -> Stored | None:
        async with self._borrowed() as connection, connection.transaction():
            return await arun(connection, self._locked_steps(*change))

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[_Connection]:
        pool = await self._pools.get()
        with answers, self.connection.wrap_database_errors:
            async with pool.connection() as connection:
                yield connection

    def _make_pool(self) -> _Pool:
        settings = self.connection.settings_dict["OPTIONS"]
        binding = settings.get("server_side_binding")
        cursor = psycopg.AsyncCursor if binding else psycopg.AsyncClientCursor
        params = {
            **self.connection.get_connection_params(),
            "cursor_factory": cursor,
            "autocommit": True,
        }

        async def connect() -> _Connection:
            connection = await _Connection.connect(**params)
            connection.timeout = self.timeout
            if role := settings.get("assume_role"):
                await connection.execute(SQL("SET ROLE {}").format(Identifier(role)))
            return connection

        return _Pool(connect, self._pool_size, self.timeout)


class _Pool:
    """Up to `size` connections of one event loop, made when needed.

    psycopg's own connects in background tasks. In an outage whoever asks it waits out the time
    instead of being told; and a task that is cancelled while it connects can keep a loop from ever
    ending.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[_Connection]], size: int, timeout: float
    ) -> None:
        self._connect, self._timeout = connect, timeout
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(size)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[_Connection]:
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            raise psycopg.OperationalError("All connections for sessions are in use.") from error
        try:
            connection = await self._living() or await self._connect()
            try:
                yield connection
            finally:
                if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:
                    await connection.close()
        finally:
            self._slots.release()

    async def _living(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not _has_ended(connection):
                return connection
            await connection.close()
        return None

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()


def _has_ended(connection: Any) -> bool:
    """Whether the server has closed it, without asking: one call reads its goodbye, the next finds
    it gone."""
    try:
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False


class _Connection(psycopg.AsyncConnection[Row]):
    timeout: float

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().wait(_until(gen, self, self.timeout), *args, **kwargs)

    async def a_fetch(self, sql: str, *values: Any) -> Row | None:
        cursor = await self.execute(sql.encode(), values)
        return await cursor.fetchone()


def _opened(session_id: str, row: Row | None) -> Stored | None:
    if row is None:
        return None
    key, record, expires, created = row
    if key.replace("-", "") != records.hashed(session_id):
        raise StrategyUnavailable("The database answered with another session.")
    ends = datetime.fromtimestamp(expires, UTC)
    if ends <= datetime.now(UTC):
        return None
    data = records.unseal(session_id, record)
    if data is None:
        return None
    return Stored(session_id, data, ends, datetime.fromtimestamp(created, UTC), record)


def _now() -> str:
    return datetime.now(UTC).isoformat()


# -- time-outs -----------------------------------------------------------------------------------
# A server that hangs keeps its sockets open, so no option of libpq ends the wait. psycopg waits in
# generators that it resumes every tenth of a second: that is where to give up.


class _Limited:
    """The waits of Django's connection, for a statement or a transaction of ours."""

    def __init__(self, django: BaseDatabaseWrapper, seconds: float) -> None:
        self.django, self.seconds = django, seconds
        self.connection: Any = None

    def __enter__(self) -> None:
        try:
            if self.django.connection is not None:
                self._limit(self.django.connection)
                if not self.django.in_atomic_block and _has_ended(self.django.connection):
                    self.django.close()
                else:
                    self.django.close_if_health_check_failed()  # which asks the server
            if self.django.connection is None:
                self._connect()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        if self.connection is not None:
            del self.connection.wait

    def _connect(self) -> None:
        """Limited from the start: to a pooler, connecting says nothing about the server."""
        django: Any = self.django
        connect = django.get_new_connection
        django.get_new_connection = lambda params: self._limit(connect(params))
        try:
            django.ensure_connection()
        finally:
            del django.get_new_connection

    def _limit(self, connection: Any) -> Any:
        if "wait" not in vars(connection):  # as in a transaction of ours
            if self.connection is not None:
                del self.connection.wait
            self.connection, connection.wait = connection, self._wait
        return connection

    def _wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        gen = _until(gen, self.connection, self.seconds)
        return type(self.connection).wait(self.connection, gen, *args, **kwargs)


def _until(gen: Any, connection: Any, seconds: float) -> Generator[Any, Any, Any]:
    deadline = monotonic() + seconds
    try:
        state = next(gen)
        while True:
            ready = yield state
            if not ready and monotonic() > deadline:
                connection.pgconn.finish()  # its late answer would reach whoever asks next
                raise psycopg.OperationalError(f"There was no answer within {seconds} seconds.")
            state = gen.send(ready)
    except StopIteration as stop:
        return stop.value


# -- forks ---------------------------------------------------------------------------------------

_aliases: set[str] = set()
_of_parents: list[object] = []  # kept: psycopg warns when an open one is deleted


def _leave_to_the_parent() -> None:
    """Let a forked child connect anew: from a shared socket it would read its parent's answers."""
    for connection in connections.all(initialized_only=True):
        if connection.alias in _aliases:
            pools = getattr(connection, "_connection_pools", {})  # Django's, if it is to have one
            _of_parents.extend((connection.connection, pools.pop(connection.alias, None)))
            connection.connection = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
