"""How sessions reach PostgreSQL: over Django's connection, or natively from an event loop.

Sync code uses Django's connection and its cursor, and so the project's pool, query log, wrappers,
instrumentation, search path and passwords. Event loops have a small pool of their own where that
makes no difference that anybody could notice; elsewhere the whole verb runs in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from time import monotonic
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

from .database import answers
from .forks import note_process
from .loops import PerLoop
from .postgres_pool import LoopPool, has_ended
from .postgres_timeouts import AsyncWait, Row, Wait

_UNTOUCHED = {"contextlib", "django", "psycopg"}  # the modules of functions that nobody wrapped


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
        self.alias: Callable[[], str] = alias
        self.pool_size: int = pool_size
        self._follows_router = follows_router
        self._pools: PerLoop[LoopPool] = PerLoop(lambda: LoopPool(self), LoopPool.aclose)
        self._used: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self.instrumented: str | None = None  # by what; "" is nothing, None not yet known
        self.demoted: float = 0.0  # when the server was last seen to be read-only
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
        with Wait(self, django, seconds, sql), django.cursor() as cursor:
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
            with Wait(self, django, deadline - monotonic()):
                block.__enter__()
            try:
                yield
            except BaseException as error:
                with Wait(self, django, self.timeout):
                    block.__exit__(type(error), error, error.__traceback__)
                raise
            with Wait(self, django, self.timeout):
                block.__exit__(None, None, None)

    def _django(self) -> BaseDatabaseWrapper:
        return connections[self.alias()]

    def _is_ready(self, django: Any) -> bool:
        """Whether Django has a connection that can be used; one that cannot is closed."""
        if (connection := django.connection) is None:
            return False
        if django.in_atomic_block or not django.autocommit:
            return True  # it is the caller's
        used = self._used.get(connection)
        if has_ended(connection) or (used is not None and used < self.demoted):
            django.close()
        elif (used is not None and monotonic() - used > self.max_idle) or (
            django.health_check_enabled and not django.health_check_done
        ):
            with Wait(self, django, self.timeout / 4):
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
            with Wait(self, django, left):
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
        with AsyncWait(self, connection, seconds, sql):
            cursor = await connection.execute(sql.encode(), values)
            return await cursor.fetchone()

    @asynccontextmanager
    async def atransaction(self) -> AsyncIterator[None]:
        """`transaction` for event loops: each `afetch` in it uses the same connection."""
        pool = await self._pools.get()
        with answers, self._translated():
            async with pool.connection() as (connection, _):
                block = connection.transaction()
                with AsyncWait(self, connection, self.timeout):
                    await block.__aenter__()
                token = self._block.set(connection)
                try:
                    yield
                except BaseException as error:
                    with AsyncWait(self, connection, self.timeout):
                        await block.__aexit__(type(error), error, error.__traceback__)
                    raise
                finally:
                    self._block.reset(token)
                with AsyncWait(self, connection, self.timeout):
                    await block.__aexit__(None, None, None)

    def _translated(self) -> Any:
        """psycopg's errors as Django's."""
        return connections[self.alias()].wrap_database_errors

    def why_threads(self) -> str | None:
        """What a connection of an event loop's own would miss; ``None`` if it is nothing."""
        django = connections[self.alias()]
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
