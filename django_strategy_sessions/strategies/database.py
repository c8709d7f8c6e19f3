"""Sessions in any Django database, by the ORM: the default, so SQLite works at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce, Left

from .. import records
from ..models import StoredSession
from .base import CONFLICTS, Answers, Data, SessionStrategy, Stored, StrategyUnavailable, reconcile

# `expires`, but as no index knows it: where a row is looked up by its key and by this, MariaDB must
# not come to it by the index on `expires`, or writers lock in two orders and deadlock.
_ENDS = Coalesce("expires", "created")


class DatabaseStrategy(SessionStrategy):
    """`using`: an alias in ``DATABASES``; by default, where the router sends the model's writes.

    Reads go there too: a replica may not know yet who has logged in, or out.
    """

    atomic = True
    keeps_created = True

    def __init__(self, using: str | None = None) -> None:
        if using is not None and using not in connections:
            raise ValueError(f"There is no database {using!r} in DATABASES.")
        self._using = using

    def create_data(self, data: Data, expires: datetime) -> str:
        return self.insert(data, expires).session_id

    def read_data(self, session_id: str) -> Data | None:
        stored = self.load(session_id)
        return None if stored is None else stored.data

    def update_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        values = _values(session_id, data, expires)
        with answers:
            return self._live(session_id).update(**values) > 0

    def delete_data(self, session_id: str) -> None:
        with answers:
            _delete(self._rows(session_id))

    def load(self, session_id: str) -> Stored | None:
        return self._load(session_id, self._rows(session_id))

    def _load(self, session_id: str, rows: QuerySet[StoredSession]) -> Stored | None:
        with answers:
            row = rows.values_list("data", "expires", "created")[:1]
            found = next(iter(row), None)
        if found is None:
            return None
        record, expires, created = found
        if expires <= datetime.now(UTC):
            return None
        data = records.unseal(session_id, record)
        return None if data is None else Stored(session_id, data, expires, created, record)

    def insert(self, data: Data, expires: datetime) -> Stored:
        created = datetime.now(UTC)
        while True:
            session_id = records.new_id()
            values = _values(session_id, data, expires)
            row = StoredSession(id=records.hashed(session_id), created=created, **values)
            try:
                # A savepoint where a failure would break the caller's transaction, else nothing.
                with answers, self._transaction(self.connection.in_atomic_block):
                    row.save(force_insert=True, using=self.alias)
            except IntegrityError:
                if not self._rows(session_id).exists():
                    raise
            else:
                return Stored(session_id, data, expires, created, values["data"])

    def merge(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        return self._replace(stored, data, expires)

    def rotate(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        return self._replace(stored, data, expires, new_id=records.new_id())

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        # One parameter is the time.
        most = self.connection.features.max_query_params or batch_size + 1
        batch_size = min(batch_size, most - 1)
        while True:
            try:
                found, count = self._clear_batch(batch_size)
            except StrategyUnavailable as error:
                if not _is_deadlock(error.__cause__):
                    raise
                # Another run is at the same rows and has won. Of this batch nothing is deleted.
            else:
                if not found:
                    return
                yield count

    def count_expired(self) -> int:
        with answers:
            return self._expired().count()

    def _clear_batch(self, batch_size: int) -> tuple[int, int]:
        """How many rows were found, and how many of them deleted."""
        features = self.connection.features
        # Without row locks a transaction only adds ways to collide with other writers.
        with answers, self._transaction(features.has_select_for_update):
            rows = self._expired().order_by("expires")
            if features.has_select_for_update:
                rows = rows.select_for_update(
                    skip_locked=features.has_select_for_update_skip_locked
                )
            batch = list(rows.values_list("pk", flat=True)[:batch_size])
            # Asked once more: one that was renewed meanwhile stays.
            still = self._all().filter(pk__in=batch).alias(ends=_ENDS)
            count = _delete(still.filter(ends__lte=datetime.now(UTC))) if batch else 0
        return len(batch), count

    # -- how ---------------------------------------------------------------------------------------

    @property
    def alias(self) -> str:
        return self._using or router.db_for_write(StoredSession)

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    def _rows(self, session_id: str) -> QuerySet[StoredSession]:
        return self._all().filter(pk=records.hashed(session_id))

    def _live(self, session_id: str) -> QuerySet[StoredSession]:
        return self._rows(session_id).alias(ends=_ENDS).filter(ends__gt=datetime.now(UTC))

    def _expired(self) -> QuerySet[StoredSession]:
        return self._all().filter(expires__lte=datetime.now(UTC))

    def _all(self) -> QuerySet[StoredSession]:
        return StoredSession.objects.using(self.alias)

    def _transaction(self, wanted: bool) -> AbstractContextManager[Any]:
        return transaction.atomic(using=self.alias) if wanted else nullcontext()

    def _replace(
        self, stored: Stored, data: Data, expires: datetime, new_id: str | None = None
    ) -> Stored | None:
        current = stored
        for _ in range(CONFLICTS):
            wanted = reconcile(stored, data, expires, current)
            if written := self._swap(current, *wanted, new_id):
                return written
            if (reread := self.load(stored.session_id)) is None:
                return None
            current = reread
        with answers, transaction.atomic(using=self.alias):
            # A write is the lock that every database has. The read has to lock as well: within a
            # transaction that repeats its reads, MariaDB shows only that what others committed.
            rows = self._rows(stored.session_id)
            rows.update(expires=F("expires"))
            if (reread := self._load(stored.session_id, rows.select_for_update())) is None:
                return None
            return self._swap(reread, *reconcile(stored, data, expires, reread), new_id)

    def _swap(
        self, current: Stored, data: Data, expires: datetime, new_id: str | None
    ) -> Stored | None:
        """Compare and set, in one statement; ``None`` if the record is another by now."""
        session_id, record = current.session_id, str(current.token)
        if new_id is not None:
            session_id = new_id
            values = _values(session_id, data, expires, id=records.hashed(session_id))
        elif data is current.data and records.is_current(session_id, record):
            values = {"expires": expires}
        else:
            values = _values(session_id, data, expires)
        unchanged = self._live(current.session_id).alias(mac=Left("data", records.MAC_LENGTH))
        with answers:
            if not unchanged.filter(mac=record[: records.MAC_LENGTH]).update(**values):
                return None
        return Stored(session_id, data, expires, current.created, values.get("data", record))


def owner(data: Data) -> str | None:
    user = data.get("_auth_user_id")
    return None if user is None else str(user)


def _values(session_id: str, data: Data, expires: datetime, **more: str) -> dict[str, Any]:
    record = records.seal(session_id, data)
    return {"data": record, "expires": expires, "owner": owner(data), **more}


def _delete(rows: QuerySet[StoredSession]) -> int:
    # One statement. QuerySet.delete() opens a transaction for it, and where anything listens to
    # all deletions it loads every row first.
    return rows._raw_delete(rows.db)


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, InterfaceError):
        return True
    if not isinstance(error, DatabaseError):
        return False
    if not isinstance(error, OperationalError):
        # PostgreSQL: a server that takes no writes, as a standby; that has ended an idle or a long
        # transaction, and the connection.
        return sqlstate(error) in {"25006", "25P03", "25P04"}
    # SQLite calls a missing table an operational error, by its most general code; mysqlclient an
    # unknown column and text that the column cannot hold.
    sqlite = getattr(error.__cause__, "sqlite_errorname", None)
    return sqlite != "SQLITE_ERROR" and error.args[:1] not in {(1054,), (1366,)}


answers: Answers = Answers(_is_outage, "The sessions' database could not answer.")


def sqlstate(error: BaseException | None) -> str | None:
    """PostgreSQL's code of an error, through Django's wrapper of it."""
    return getattr(getattr(error, "__cause__", None), "sqlstate", None)


def _is_deadlock(error: BaseException | None) -> bool:
    # By the numbers of PostgreSQL, and of MySQL and MariaDB.
    return sqlstate(error) == "40P01" or getattr(error, "args", ())[:1] == (1213,)
