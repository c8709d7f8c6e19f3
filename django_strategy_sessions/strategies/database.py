"""Sessions in any Django database, through the ORM. The default strategy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from django.core import checks
from django.core.checks import CheckMessage
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce, Left

from .. import records
from ..hidden import Hidden
from ..models import StoredSession
from ..steps import Steps, run
from . import database_health
from .base import Answers, Stored, StrategyUnavailable
from .forks import leave_to_parent
from .sealed import CONFLICTS, Row, SealedStrategy, log_damaged
from .transactions import watch_rollback

T = TypeVar("T")

# `expires` in a form that no index covers. A statement that filters by key and expiry must not use
# the index on `expires`, because on MariaDB writers would lock in two orders and deadlock.
_ENDS = Coalesce("expires", "created")

# Django and drivers raise these for a date that no Python datetime can hold. SQLite keeps any text.
_UNREADABLE = (DataError, ValueError, OverflowError, TypeError, AttributeError)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_COLUMNS = ("data", "expires", "created", "owner", "impersonator")
_MAC = Left("data", records.MAC_LENGTH)
# Whether reads lock the row, as they must within `in_turn`.
locking: ContextVar[bool] = ContextVar("locking", default=False)


class _Rows(QuerySet[StoredSession]):
    """A queryset whose ``repr`` runs no query, because error reports would show the rows."""

    def __repr__(self) -> str:
        return "<sessions>"

    __sentry_repr__ = __repr__


class DatabaseStrategy(SealedStrategy):
    """`using`: an alias in ``DATABASES``. By default, the router's database for writes.

    Reads go there too, because a replica may not have the latest login or logout yet.
    """

    conflicts_before_turn = CONFLICTS
    finds_owners = True

    def __init__(self, using: str | None = None) -> None:
        if using is not None and using not in connections:
            raise ValueError(f"There is no database {using!r} in DATABASES.")
        self._using = using

    def check(self) -> Iterable[CheckMessage]:
        given = connections[self.alias].settings_dict
        mode = given["OPTIONS"].get("transaction_mode") or "DEFERRED"
        if (
            self.connection.vendor == "sqlite"
            and given["ATOMIC_REQUESTS"]
            and mode.upper() == "DEFERRED"
        ):
            yield checks.Warning(
                "A request that reads and then writes fails with 'database is locked' if another"
                f" one writes meanwhile: DATABASES[{self.alias!r}] is SQLite with ATOMIC_REQUESTS,"
                " and its transactions begin as readers.",
                hint=f'DATABASES["{self.alias}"].setdefault("OPTIONS", {{}})'
                '["transaction_mode"] = "IMMEDIATE"',
                id="strategy_sessions.W006",
            )

    def examine(self, databases: Collection[str] | None = None) -> Iterable[CheckMessage]:
        if databases is None or self.alias in databases:
            with answers:
                yield from database_health.examine(self.connection, self.ask)

    def ask(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """Run a statement that only reads. Return its first row."""
        with answers, self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            row: tuple[Any, ...] | None = cursor.fetchone()
            return row

    def get(self, key: str) -> Row | None:
        rows = self._rows(key).values_list(*_COLUMNS)
        if locking.get():
            # In a REPEATABLE READ transaction, MariaDB shows later commits to locking reads only.
            rows = rows.select_for_update()
        try:
            with answers:
                found = next(iter(rows[:1]), None)
        except _UNREADABLE:
            log_damaged(type(self))
            return None
        if found is None:
            return None
        return _row(*found)

    def add(self, key: str, row: Row) -> bool:
        try:
            # A savepoint, if a failure would break the caller's transaction.
            with answers, self._transaction(self.connection.in_atomic_block):
                self._insert_row(key, row)
        except IntegrityError:
            if not self._rows(key).exists():
                raise
            return False
        return True

    def swap(self, key: str, held: Row, row: Row) -> bool:
        values = _values(row)
        if row.record == held.record:
            del values["data"], values["owner"], values["impersonator"]
        with answers:
            return self._unchanged(key, held).update(**values) > 0

    def move(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        with answers, self._transaction(True):
            if not self._unchanged(key, held).update(**_values(marker)):
                return False
            self._insert_row(new_key, row)
            return True

    def remove(self, key: str) -> bool:
        # Keep markers, because they hold the session's new key.
        with answers:
            return _delete(self._rows(key).alias(mac=_MAC).exclude(mac=records.MOVED)) > 0

    def in_turn(self, key: str, steps: Steps[T]) -> T:
        with answers, self._transaction(True):
            # A write locks the row on every database.
            self._rows(key).update(expires=F("expires"))
            token = locking.set(self.connection.features.has_select_for_update)
            try:
                return run(self, steps)
            finally:
                locking.reset(token)

    def find(self, owner: str) -> Mapping[str, Row]:
        theirs = self._all().filter(Q(owner=owner) | Q(impersonator=owner))
        try:
            with answers:
                found = theirs.values_list("pk", *_COLUMNS)
                rows = {key.hex: _row(*columns) for key, *columns in found}
        except _UNREADABLE:  # one damaged row fails the whole query
            with answers:
                keys = [key.hex for key in theirs.values_list("pk", flat=True)]
            rows = {key: self.get(key) for key in keys}
        return {key: row for key, row in rows.items() if row is not None}

    def add_all(self, rows: Mapping[str, Row]) -> None:
        with answers:
            self._all().bulk_create(_models(rows), ignore_conflicts=True)

    def swap_all(self, held: Row, rows: Mapping[str, Row]) -> int:
        with answers:
            held_rows: QuerySet[StoredSession] = self._all().alias(mac=_MAC).filter(mac=held.mac)
            return held_rows.bulk_update(_models(rows), _COLUMNS)

    def list_keys(self, size: int) -> Iterator[list[str]]:
        last = UUID(int=0)
        while True:
            with answers:
                keys = self._sessions().filter(pk__gt=last).order_by("pk")
                found = list(keys.values_list("pk", flat=True)[:size])
            if not found:
                return
            last = found[-1]
            yield [key.hex for key in found]

    def count_keys(self) -> int:
        with answers:
            return self._sessions().count()

    def is_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        return watch_rollback(self.alias)

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        # The statement has two more parameters: the time and the lower bound.
        most = self.connection.features.max_query_params or batch_size + 2
        batch_size = min(batch_size, most - 2)
        # Each batch begins where the last one ended. While another transaction stays open, the
        # index keeps entries for deleted rows, and a batch from the start would read them again.
        since = None
        while True:
            try:
                until, count = self._clear_batch(batch_size, since)
            except StrategyUnavailable as error:
                if not _is_deadlock(error.__cause__):
                    raise
                # Another run deletes the same rows and won. This batch deleted nothing; try again.
            else:
                if until is None:
                    return
                since = until
                yield count

    def count_expired(self) -> int:
        with answers:
            return self._expired().count()

    def _clear_batch(self, batch_size: int, since: datetime | None) -> tuple[datetime | None, int]:
        """Delete one batch. Return its last expiry (``None``: nothing left) and its count."""
        features = self.connection.features
        # Without row locks, a transaction only adds conflicts with other writers.
        with answers, self._transaction(features.has_select_for_update):
            rows = self._expired().order_by("expires")
            if since is not None:
                rows = rows.filter(expires__gte=since)
            if features.has_select_for_update:
                rows = rows.select_for_update(
                    skip_locked=features.has_select_for_update_skip_locked
                )
            try:
                batch = list(rows.values_list("pk", "expires")[:batch_size])
                keys = [key for key, _ in batch]
                until = batch[-1][1] if batch else None
            except _UNREADABLE:
                keys, until = list(rows.values_list("pk", flat=True)[:batch_size]), None
            if not keys:
                return None, 0
            # Filter by expiry again, because a request may have renewed a session meanwhile.
            still = self._all().filter(pk__in=keys).alias(ends=_ENDS)
            return until or since or _LONG_AGO, _delete(still.filter(ends__lte=datetime.now(UTC)))

    # -- connections and querysets -----------------------------------------------------------------

    @property
    def alias(self) -> str:
        leave_to_parent()  # here, because each statement asks for the alias
        return self._using or router.db_for_write(StoredSession)

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    def _rows(self, key: str) -> QuerySet[StoredSession]:
        return self._all().filter(pk=key)

    def _unchanged(self, key: str, held: Row) -> QuerySet[StoredSession]:
        live = self._rows(key).alias(ends=_ENDS, mac=_MAC).filter(ends__gt=datetime.now(UTC))
        return live.filter(mac=held.mac)

    def _expired(self) -> QuerySet[StoredSession]:
        return self._all().filter(expires__lte=datetime.now(UTC))

    def _sessions(self) -> QuerySet[StoredSession]:
        """All rows but markers, and the gate."""
        return self._all().alias(mac=_MAC).exclude(mac=records.MOVED).exclude(pk=records.GATE)

    def _all(self) -> QuerySet[StoredSession]:
        return _Rows(StoredSession, using=self.alias)

    def _insert_row(self, key: str, row: Row) -> None:
        StoredSession(id=key, **_values(row)).save(force_insert=True, using=self.alias)

    def _transaction(self, wanted: bool) -> AbstractContextManager[Any]:
        return transaction.atomic(using=self.alias) if wanted else nullcontext()


def _row(
    record: str, expires: datetime | None, created: datetime | None, *owners: Any
) -> Row | None:
    if expires is None or created is None:
        log_damaged(DatabaseStrategy)
        return None
    return Row(Hidden(record), expires, created, *owners)


def _models(rows: Mapping[str, Row]) -> list[StoredSession]:
    return [StoredSession(id=key, **_values(row)) for key, row in rows.items()]


def _values(row: Row) -> dict[str, Any]:
    return {
        "data": row.record,
        "expires": row.expires,
        "owner": row.owner,
        "impersonator": row.impersonator,
        "created": row.created,
    }


def _delete(rows: QuerySet[StoredSession]) -> int:
    # One statement. QuerySet.delete() would open a transaction, and would load every row first if
    # the project has a receiver for all deletions.
    return rows._raw_delete(rows.db)


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, InterfaceError):
        return True
    if not isinstance(error, DatabaseError):
        return False
    if not isinstance(error, OperationalError):
        # PostgreSQL: a read-only server such as a standby, or a connection that the server closed
        # because a transaction was idle or ran too long.
        return sqlstate(error) in {"25006", "25P03", "25P04"}
    # Some operational errors are mistakes: a missing table on SQLite, which has the most general
    # code; an unknown column, or text that a column cannot hold, with mysqlclient.
    sqlite = getattr(error.__cause__, "sqlite_errorname", None)
    return sqlite != "SQLITE_ERROR" and error.args[:1] not in {(1054,), (1366,)}


class _Answers(Answers):
    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        # PostgreSQL's message shows the refused row with its data, so raise an error without it.
        refusal = getattr(getattr(error, "__cause__", None), "diag", None)
        if isinstance(error, IntegrityError) and refusal is not None:
            message = refusal.message_primary
            del error, refusal
            raise IntegrityError(message) from None


answers: Answers = _Answers(_is_outage, "The session database could not answer.")


def sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of the PostgreSQL error that Django wrapped, or ``None``."""
    return getattr(getattr(error, "__cause__", None), "sqlstate", None)


def _is_deadlock(error: BaseException | None) -> bool:
    # PostgreSQL's code; MySQL's and MariaDB's number.
    return sqlstate(error) == "40P01" or getattr(error, "args", ())[:1] == (1213,)
