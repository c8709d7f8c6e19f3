"""Sessions in PostgreSQL, one statement a verb.

The table is `DatabaseStrategy`'s, so either strategy can take over from the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from django.core.checks import CheckMessage

from .. import records
from ..hidden import Hidden
from ..models import StoredSession
from ..steps import Steps, arun, run
from .base import StrategyUnavailable
from .database import DatabaseStrategy, locking, sqlstate
from .postgres_connections import PostgresConnections
from .sealed import CONFLICTS, Row, log_damaged

T = TypeVar("T")

# Ids go as hex and times as text: to the server both are literals, and nothing need be adapted.
# The time is the application's, not now(): what one clock wrote, the other must not judge.
_TABLE = StoredSession._meta.db_table
_COLUMNS = "id, data, expires, owner, impersonator, created"
_MAC = f"left(data, {records.MAC_LENGTH})"
_READ = (
    *("id::text", "data", "date_part('epoch', expires)", "date_part('epoch', created)"),
    *("owner", "impersonator"),
)
_SELECT = f'SELECT {", ".join(_READ)} FROM "{_TABLE}" WHERE id = %s'
_LOCK = f"{_SELECT} FOR UPDATE"
# One row of arrays, because a statement's first row is what the plumbing returns.
_FIND = (
    f"SELECT {', '.join(f'array_agg({column})' for column in _READ)}"
    f' FROM "{_TABLE}" WHERE owner = %s OR impersonator = %s'
)
_INSERT = (
    f'INSERT INTO "{_TABLE}" ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)'
    " ON CONFLICT (id) DO NOTHING RETURNING true"
)
_HELD = f"WHERE id = %s AND expires > %s AND {_MAC} = %s RETURNING true"
_SWAP = (
    f'UPDATE "{_TABLE}"'
    f" SET data = %s, expires = %s, owner = %s, impersonator = %s, created = %s {_HELD}"
)
_RENEW = f'UPDATE "{_TABLE}" SET expires = %s {_HELD}'
_MOVE = (
    f'WITH moved AS (UPDATE "{_TABLE}"'
    f" SET data = %s, expires = %s, owner = NULL, impersonator = NULL, created = %s {_HELD})"
    f' INSERT INTO "{_TABLE}" ({_COLUMNS})'
    " SELECT %s::uuid, %s, %s::timestamptz, %s, %s, %s::timestamptz FROM moved RETURNING true"
)
# Many rows at once, as one array of each column.
_ARRAYS = (
    "unnest(%s::uuid[], %s::text[], %s::timestamptz[], %s::text[], %s::text[], %s::timestamptz[])"
)
_ADD_ALL = (
    f'INSERT INTO "{_TABLE}" ({_COLUMNS}) SELECT * FROM {_ARRAYS} ON CONFLICT (id) DO NOTHING'
    " RETURNING true"
)
_SWAP_ALL = (
    f'WITH swapped AS (UPDATE "{_TABLE}" AS held'
    " SET data = new.data, expires = new.expires, owner = new.owner,"
    " impersonator = new.impersonator, created = new.created"
    f" FROM {_ARRAYS} AS new ({_COLUMNS}) WHERE held.id = new.id"
    f" AND left(held.data, {records.MAC_LENGTH}) = %s RETURNING true)"
    " SELECT count(*) FROM swapped"
)
_DELETE = f"DELETE FROM \"{_TABLE}\" WHERE id = %s AND {_MAC} <> '{records.MOVED}' RETURNING true"
# SKIP LOCKED passes rows that others hold. FOR UPDATE tests `expires` again on each row it locks,
# so one that was just renewed stays. A locked row cannot move: its ctid finds it in half the time.
# Rows of other partitions may have the same, hence the second test.
_CLEAR = (
    f'WITH gone AS (DELETE FROM "{_TABLE}" WHERE ctid = ANY(ARRAY(SELECT ctid FROM "{_TABLE}"'
    " WHERE {where} LIMIT %s FOR UPDATE SKIP LOCKED)) AND expires <= %s RETURNING expires)"
    " SELECT max(expires)::text, count(*) FROM gone"
)
_CLEAR_OLDEST = _CLEAR.format(where="expires <= %s AND expires >= %s ORDER BY expires")
_CLEAR_PAGES = _CLEAR.format(where="expires <= %s AND ctid >= %s::tid AND ctid < %s::tid")
# How many pages the table has, and the longest of its partitions if it has some.
_PAGES = (
    "SELECT sum(pages)::bigint, max(pages) FROM (SELECT"
    " pg_relation_size(part) / current_setting('block_size')::int FROM (SELECT relid"
    f" FROM pg_partition_tree('\"{_TABLE}\"') UNION SELECT '\"{_TABLE}\"'::regclass) AS parts(part)"
    ") AS sizes(pages)"
)
_SAMPLE = f'SELECT count(*) FROM "{_TABLE}" TABLESAMPLE SYSTEM (%s) WHERE expires <= %s'
_SAMPLED = 100  # pages
_MOST_PAGES = 1000  # that a batch visits, so that it is short on slow disks too


class _Sweep(NamedTuple):
    """How far `clear_expired` is, going through the table page by page."""

    page: int
    pages: int
    begun: str  # sessions that expired later may be on pages before this one
    step: int = 1


class PostgresStrategy(DatabaseStrategy):
    """`using`: an alias in ``DATABASES``; by default, where the router sends the model's writes.

    The other options are those of `PostgresConnections`.
    """

    conflicts_before_turn = 1
    batch_size = 10_000

    def __init__(
        self, using: str | None = None, timeout: float = 5.0, pool_size: int = 10, **options: float
    ) -> None:
        super().__init__(using)
        self.connections: PostgresConnections = PostgresConnections(
            lambda: self.alias, timeout, pool_size, follows_router=using is None, **options
        )

    # -- the verbs, each in both colours -----------------------------------------------------------

    def get(self, key: str) -> Row | None:
        return _row(key, self.connections.fetch(*_select(key), retry=True))

    async def aget(self, key: str) -> Row | None:
        return _row(key, await self.connections.afetch(*_select(key), retry=True))

    def add(self, key: str, row: Row) -> bool:
        return self.connections.fetch(_INSERT, key, *_values(row)) is not None

    async def aadd(self, key: str, row: Row) -> bool:
        return await self.connections.afetch(_INSERT, key, *_values(row)) is not None

    def swap(self, key: str, held: Row, row: Row) -> bool:
        return self._change(*_swap(key, held, row))

    async def aswap(self, key: str, held: Row, row: Row) -> bool:
        return await self._achange(*_swap(key, held, row))

    def move(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        return self._change(*_move(key, held, marker, new_key, row))

    async def amove(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        return await self._achange(*_move(key, held, marker, new_key, row))

    def remove(self, key: str) -> bool:
        return self._serialize(_DELETE, key) is not None

    async def aremove(self, key: str) -> bool:
        return await self._aserialize(_DELETE, key) is not None

    def find(self, owner: str) -> Mapping[str, Row]:
        return _rows(self.connections.fetch(_FIND, owner, owner, retry=True))

    async def afind(self, owner: str) -> Mapping[str, Row]:
        return _rows(await self.connections.afetch(_FIND, owner, owner, retry=True))

    def add_all(self, rows: Mapping[str, Row]) -> None:
        self.connections.fetch(_ADD_ALL, *_arrays(rows))

    def swap_all(self, held: Row, rows: Mapping[str, Row]) -> int:
        found = self.connections.fetch(_SWAP_ALL, *_arrays(rows), held.mac)
        return found[0] if found else 0

    def in_turn(self, key: str, steps: Steps[T]) -> T:
        token = locking.set(True)
        try:
            with self.connections.transaction():
                return run(self, steps)
        finally:
            locking.reset(token)

    async def ain_turn(self, key: str, steps: Steps[T]) -> T:
        token = locking.set(True)
        try:
            async with self.connections.atransaction():
                return await arun(self, steps)
        finally:
            locking.reset(token)

    def is_native(self) -> bool:
        return super().is_native() and self.connections.why_threads() is None

    def check(self) -> Iterable[CheckMessage]:
        return self.connections.check()

    def ask(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        return self.connections.fetch(sql, *values, retry=True)

    def _clear_batch(self, batch_size: int, since: Any) -> tuple[Any, int]:
        now = _now()
        place = since or self._find_start(now)
        while isinstance(place, _Sweep) and place.page < place.pages:
            end = place.page + place.step
            pages = f"({place.page},0)", f"({end},0)"
            _, count = self._serialize(_CLEAR_PAGES, now, *pages, batch_size, now)
            # The next batch takes as many pages as may hold nearly a batch. If these held more,
            # it takes the rest of them.
            step = int(place.step * min(2, 0.9 * batch_size / max(1, count)))
            place = place._replace(step=max(1, min(step, _MOST_PAGES)))
            if count < batch_size:
                place = place._replace(page=end)
            if count:
                return place, count
        oldest = place.begun if isinstance(place, _Sweep) else place
        found = self._serialize(_CLEAR_OLDEST, now, oldest, min(batch_size, _MOST_PAGES), now)
        return found or (None, 0)

    def _find_start(self, now: str) -> _Sweep | str:
        """Go page by page if there are more expired sessions than pages.

        The index on `expires` leads to another page with each session. To read, log and write
        a page takes longer than to delete all that is expired on it.
        """
        pages, longest = self._serialize(_PAGES)
        if pages:
            sampled = min(pages, _SAMPLED)
            (expired,) = self._serialize(_SAMPLE, 100 * sampled / pages, now)
            if expired > sampled:
                return _Sweep(0, longest, now)
        return "-infinity"

    # -- conflicts that stricter isolation than PostgreSQL's default calls failures ----------------

    def _change(self, sql: str, *values: Any) -> bool:
        try:
            return self.connections.fetch(sql, *values) is not None
        except StrategyUnavailable as error:
            if self.is_conflict(error):
                return False
            raise

    async def _achange(self, sql: str, *values: Any) -> bool:
        try:
            return await self.connections.afetch(sql, *values) is not None
        except StrategyUnavailable as error:
            if self.is_conflict(error):
                return False
            raise

    def _serialize(self, sql: str, *values: Any) -> Any:
        for _ in range(CONFLICTS):
            try:
                return self.connections.fetch(sql, *values)
            except StrategyUnavailable as error:
                if not self.is_conflict(error):
                    raise
        return self.connections.fetch(sql, *values)

    async def _aserialize(self, sql: str, *values: Any) -> Any:
        for _ in range(CONFLICTS):
            try:
                return await self.connections.afetch(sql, *values)
            except StrategyUnavailable as error:
                if not self.is_conflict(error):
                    raise
        return await self.connections.afetch(sql, *values)

    def is_conflict(self, error: StrategyUnavailable) -> bool:
        """A conflict ends the transaction: a caller's is not ours to repeat."""
        return sqlstate(error.__cause__) == "40001" and not (
            locking.get() or self.connection.in_atomic_block
        )


def _row(key: str, found: tuple[Any, ...] | None) -> Row | None:
    if found is None:
        return None
    found_key, record, expires, created, *owners = found
    if found_key.replace("-", "") != key:
        raise StrategyUnavailable("The database answered with another session.")
    try:
        ends, began = (datetime.fromtimestamp(seconds, UTC) for seconds in (expires, created))
    except (OverflowError, ValueError, OSError):  # as infinity, or the year 10000
        log_damaged(PostgresStrategy)
        return None
    return Row(Hidden(record), ends, began, *owners)


def _rows(arrays: Any) -> dict[str, Row]:
    rows = {}
    for found in zip(*arrays, strict=True) if arrays[0] else ():
        key = found[0].replace("-", "")
        if (row := _row(key, found)) is not None:
            rows[key] = row
    return rows


def _select(key: str) -> tuple[Any, ...]:
    return _LOCK if locking.get() else _SELECT, key


def _values(row: Row) -> tuple[Any, ...]:
    owners = row.owner, row.impersonator
    return row.record, row.expires.isoformat(), *owners, row.created.isoformat()


def _arrays(rows: Mapping[str, Row]) -> list[list[Any]]:
    columns = zip(*((key, *_values(row)) for key, row in rows.items()), strict=True)
    return [list(column) for column in columns]


def _swap(key: str, held: Row, row: Row) -> tuple[Any, ...]:
    where = key, _now(), held.mac
    if row.record == held.record:
        return _RENEW, row.expires.isoformat(), *where
    return _SWAP, *_values(row), *where


def _move(key: str, held: Row, marker: Row, new_key: str, row: Row) -> tuple[Any, ...]:
    record, expires, *_, created = _values(marker)
    where = key, _now(), held.mac
    return _MOVE, record, expires, created, *where, new_key, *_values(row)


def _now() -> str:
    return datetime.now(UTC).isoformat()
