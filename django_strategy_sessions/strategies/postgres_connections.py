"""How sessions reach PostgreSQL: over Django's connection, or natively from an event loop.

Sync code uses Django's connection and its cursor, and so the project's pool, query log, wrappers,
instrumentation, search path and passwords. Event loops have a small pool of their own where that
makes no difference that anybody could notice; elsewhere the whole verb runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from threading import Event, Lock, Thread, get_ident
from time import monotonic, sleep
from types import FunctionType, MethodType
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

import psycopg
from django.conf import settings
from django.core.checks import CheckMessage, Info
from django.core.exceptions import ImproperlyConfigured
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.backends.utils import CursorWrapper
from django.db.transaction import atomic
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from .database import answers, sqlstate
from .forks import note_process
from .loops import PerLoop

_logger = logging.getLogger("django_strategy_sessions")

Row = tuple[Any, ...]
_UNTOUCHED = {"contextlib", "django", "psycopg"}  # the modules of functions that nobody wrapped
READ_ONLY = "25006"  # a standby, or a primary that was demoted to one


class PostgresConnections:
    """`alias` names the database at each call. The `a` twins are for where `why_threads` is None.

    `timeout`: the seconds that a server may take to answer, connecting included.
    `lock_timeout`: the seconds that a statement may wait for a lock which another transaction has.
    `max_idle`: the seconds after which a connection that nobody used is not trusted unseen.
    `pool_size`: the most connections of an event loop's own pool.
    `follows_router`: whether `alias` asks the database routers.
    """

    def __init__(
        self,
        alias: Callable[[], str],
        timeout: float = 5.0,
        pool_size: int = 10,
        *,
        lock_timeout: float = 30.0,
        max_idle: float = 30.0,
        follows_router: bool = False,
    ) -> None:
        self.timeout: float = timeout
        self.lock_timeout: float = lock_timeout
        self.max_idle: float = max_idle
        self._alias, self._follows_router, self._pool_size = alias, follows_router, pool_size
        self._pools: PerLoop[_Pool] = PerLoop(lambda: _Pool(self), _close)
        self._used: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self.instrumented: str | None = None  # by what; "" is nothing, None not yet known
        self._demoted = 0.0  # when the server was last seen to be read-only
        self._block: ContextVar[AsyncConnection[Row] | None] = ContextVar("block", default=None)
        django = connections[alias()]
        if django.vendor != "postgresql":
            raise ImproperlyConfigured(
                f"DATABASES[{django.alias!r}] is {django.display_name}, not PostgreSQL."
            )

    def check(self) -> list[CheckMessage]:
        if (reason := self.why_threads()) is None:
            return []
        return [
            Info(
                f"Async code reaches sessions through Django's connection, in a thread: {reason}.",
                id="strategy_sessions.I001",
            )
        ]

    # -- over Django's connection ------------------------------------------------------------------

    def fetch(self, sql: str, *values: Any, retry: bool = False) -> Row | None:
        """Run one statement and return its first row.

        With `retry`, which is for reads, it is run once more if the connection turns out to be
        dead.
        """
        deadline = monotonic() + self.timeout
        with answers:
            django = self._django()
            if not (kept := self._is_ready(django)):
                self._connect(django, deadline)
            retry = retry and not django.in_atomic_block and django.autocommit
            first = self.timeout / 2 if retry and kept else deadline - monotonic()
            try:
                return self._ask(django, sql, values, first)
            except Exception:
                if not retry or django.connection is not None:  # it is alive
                    raise
            self._connect(django, deadline)
            return self._ask(django, sql, values, deadline - monotonic())

    def _ask(self, django: Any, sql: str, values: tuple[Any, ...], seconds: float) -> Row | None:
        with _Wait(self, django, seconds, sql), django.cursor() as cursor:
            cursor.execute(sql, values)
            row: Row | None = cursor.fetchone()
            self._used[django.connection] = monotonic()
            return row

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Django's ``atomic()``. What `fetch` does in it is bounded by itself."""
        deadline = monotonic() + self.timeout
        with answers:
            django = self._django()
            if not self._is_ready(django):
                self._connect(django, deadline)
            block = atomic(using=django.alias)
            with _Wait(self, django, deadline - monotonic()):
                block.__enter__()
            try:
                yield
            except BaseException as error:
                with _Wait(self, django, self.timeout):
                    block.__exit__(type(error), error, error.__traceback__)
                raise
            with _Wait(self, django, self.timeout):
                block.__exit__(None, None, None)

    def _django(self) -> BaseDatabaseWrapper:
        return connections[self._alias()]

    def _is_ready(self, django: Any) -> bool:
        """Whether Django has a connection that can be used; one that cannot is closed."""
        if (connection := django.connection) is None:
            return False
        if django.in_atomic_block or not django.autocommit:
            return True  # it is the caller's
        used = self._used.get(connection)
        if _has_ended(connection) or (used is not None and used < self._demoted):
            django.close()
        elif (used is not None and monotonic() - used > self.max_idle) or (
            django.health_check_enabled and not django.health_check_done
        ):
            with _Wait(self, django, self.timeout / 4):
                if not django.is_usable():
                    django.close()
            django.health_check_done = True
        return django.connection is not None

    def _connect(self, django: Any, deadline: float) -> None:
        """Connect within the time. To a pooler, this says nothing about the server behind it."""
        if (left := deadline - monotonic()) <= 0:
            raise OperationalError("There is no time left to connect.")
        if django.in_atomic_block and django.closed_in_transaction:
            raise InterfaceError("This transaction has lost its connection.")
        kept = django.settings_dict
        # libpq's own limit is two minutes. It knows whole seconds, and takes 1 for 2.
        limit = {"connect_timeout": max(2, round(left))}
        django.settings_dict = {**kept, "OPTIONS": {**limit, **kept["OPTIONS"]}}
        try:
            with _Wait(self, django, left):
                self._wait_for_djangos_pool(django, left)
                django.ensure_connection()
        finally:
            django.settings_dict = kept

    def _wait_for_djangos_pool(self, django: Any, seconds: float) -> None:
        """Django itself would wait for half a minute until its pool has a connection."""
        if (pool := getattr(django, "pool", None)) is None:
            return
        pool.open()
        if django.settings_dict["CONN_HEALTH_CHECKS"] or not pool.get_stats()["pool_available"]:
            with django.wrap_database_errors:
                pool.putconn(pool.getconn(seconds))

    # -- from event loops --------------------------------------------------------------------------

    async def afetch(self, sql: str, *values: Any, retry: bool = False) -> Row | None:
        with answers, self._translated():
            if (connection := self._block.get()) is not None:
                return await self._aask(connection, sql, values, self.timeout)
            pool = await self._pools.get()
            deadline = monotonic() + self.timeout
            async with pool.connection() as (connection, kept):
                first = self.timeout / 2 if retry and kept else deadline - monotonic()
                try:
                    return await self._aask(connection, sql, values, first)
                except Exception:
                    if not retry or not connection.closed:
                        raise
            async with pool.connection(deadline, new=True) as (connection, _):
                return await self._aask(connection, sql, values, deadline - monotonic())

    async def _aask(
        self, connection: AsyncConnection[Row], sql: str, values: tuple[Any, ...], seconds: float
    ) -> Row | None:
        with _AsyncWait(self, connection, seconds, sql):
            cursor = await connection.execute(sql.encode(), values)
            return await cursor.fetchone()

    @asynccontextmanager
    async def atransaction(self) -> AsyncIterator[None]:
        """`transaction` for event loops: each `afetch` in it uses the same connection."""
        pool = await self._pools.get()
        with answers, self._translated():
            async with pool.connection() as (connection, _):
                block = connection.transaction()
                with _AsyncWait(self, connection, self.timeout):
                    await block.__aenter__()
                token = self._block.set(connection)
                try:
                    yield
                except BaseException as error:
                    with _AsyncWait(self, connection, self.timeout):
                        await block.__aexit__(type(error), error, error.__traceback__)
                    raise
                finally:
                    self._block.reset(token)
                with _AsyncWait(self, connection, self.timeout):
                    await block.__aexit__(None, None, None)

    def _translated(self) -> Any:
        """psycopg's errors as Django's."""
        return connections[self._alias()].wrap_database_errors

    def why_threads(self) -> str | None:
        """What a connection of an event loop's own would miss; ``None`` if it is nothing."""
        django = connections[self._alias()]
        if self._follows_router and settings.DATABASE_ROUTERS:
            return "DATABASE_ROUTERS decides at each call (the option `using` names one database)"
        if type(django) is not DatabaseWrapper:
            return f"{type(django).__module__} is not Django's own backend"
        if django.execute_wrappers:
            return "the connection has wrappers of statements"
        for _, reference, *_ in connection_created.receivers:
            receiver = reference() if isinstance(reference, ReferenceType) else reference
            module = getattr(receiver, "__module__", "") or ""
            if receiver not in (None, note_process) and not module.startswith("django."):
                return f"{module} receives connection_created"
        if self.instrumented is None:
            self.instrumented = _instrumented()
        return self.instrumented or None


def _instrumented() -> str:
    """Which function of Django's or of the driver's somebody has wrapped."""
    classes = [BaseDatabaseWrapper, DatabaseWrapper, CursorWrapper]
    classes += [psycopg.Connection, AsyncConnection, psycopg.Cursor, psycopg.AsyncCursor]
    owners = [(owner.__name__, vars(owner).items()) for owner in classes]
    for owner, attributes in [*owners, ("psycopg", [("connect", psycopg.connect)])]:
        for name, attribute in attributes:
            function = attribute
            if type(attribute) in (classmethod, staticmethod, MethodType):
                function = attribute.__func__
            if not callable(function) or isinstance(function, type):
                continue
            root = getattr(function, "__globals__", {}).get("__name__", "").partition(".")[0]
            if type(function) is not FunctionType or root not in _UNTOUCHED:
                return f"{owner}.{name} is instrumented"
    return ""


class _Pool:
    """The connections of one event loop, made when needed and closed when idle.

    psycopg's own pool connects in background tasks. In an outage its users wait out the time
    instead of being told, and a task that is cancelled while it connects can keep a loop from
    ending.
    """

    def __init__(self, owner: PostgresConnections) -> None:
        self._owner = owner
        self._idle: list[tuple[AsyncConnection[Row], float]] = []  # and since when
        self._slots = asyncio.Semaphore(owner._pool_size)
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
            trusted = max(self._owner._demoted, monotonic() - self._owner.max_idle)
            if since > trusted and not _has_ended(connection):
                return connection
            connection.pgconn.finish()
        return None

    async def _connect(self, seconds: float) -> AsyncConnection[Row]:
        django = connections[self._owner._alias()]
        self._owner.instrumented = None  # ask again: tracers may begin late, and wrap this
        try:
            async with asyncio.timeout(seconds):
                connection = await _open(django)
        except TimeoutError as error:
            raise psycopg.OperationalError(f"No connection within {seconds:.1f} s.") from error
        try:
            with _AsyncWait(self._owner, connection, seconds):
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

    def close(self) -> None:
        if self._cleaning is not None:
            self._cleaning.cancel()
        for connection, _ in self._idle:
            connection.pgconn.finish()
        self._idle.clear()


async def _close(pool: _Pool) -> None:
    pool.close()


async def _open(django: Any) -> AsyncConnection[Row]:
    options = django.settings_dict["OPTIONS"]
    binding = options.get("server_side_binding") is True
    params = {
        **django.get_connection_params(),
        "cursor_factory": psycopg.AsyncCursor if binding else psycopg.AsyncClientCursor,
        "autocommit": True,
    }
    return await AsyncConnection[Row].connect(**params)


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


def _has_ended(connection: Any) -> bool:
    """Whether the server has closed it, without asking: one call reads its goodbye, the next finds
    it gone."""
    try:
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False


# -- time-outs -------------------------------------------------------------------------------------
# A server that hangs keeps its sockets open, so no option of libpq ends the wait. A watchdog does,
# by shutting the socket down: the driver, and whatever has been wrapped around it, then sees an
# ordinary loss of the connection, in the thread or the event loop that waits.

_TICK = 0.05  # seconds
_RESTS_AFTER = 200  # ticks


class _Wait:
    """``with _Wait(...):`` gives up on Django's connection after `seconds`.

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

    def __init__(
        self, owner: PostgresConnections, target: Any, seconds: float, sql: str | None = None
    ) -> None:
        self.owner, self.target, self.seconds, self.sql = owner, target, seconds, sql
        self.cut = False

    def __enter__(self) -> None:
        self.thread = get_ident()
        self.started = now = monotonic()
        self.cuts_at = now + self.seconds
        self.asks_at = now + self.seconds / 2 if self.sql else float("inf")
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
            self.owner._demoted = monotonic()
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


class _AsyncWait(_Wait):
    __slots__ = ()

    def connection(self) -> Any:
        return self.target

    def alias(self) -> str:
        return self.owner._alias()

    def clear_up(self, error: BaseException | None) -> None:
        if read_only := getattr(error, "sqlstate", None) == READ_ONLY:
            self.owner._demoted = monotonic()
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
        self._waits: dict[int, _Wait] = {}
        self._lock = Lock()
        self._resting, self._wake = False, Event()

    def start(self) -> None:
        _start(self._run)

    def add(self, wait: _Wait) -> None:
        self._waits[id(wait)] = wait
        if self._resting:
            self._wake.set()

    def remove(self, wait: _Wait) -> None:
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
        asking: dict[str, list[_Wait]] = {}
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


def _extend_lock_waits(alias: str, waits: list[_Wait]) -> None:
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
    async with await _open(django) as connection:
        cursor = await connection.execute(
            "SELECT pid, wait_event_type = 'Lock', query FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()"
        )
        return await cursor.fetchall()
