"""Sessions in Redis or Valkey, one round trip per verb, configured as a cache of django-redis.

Each session is one string, which Redis expires. Its seal covers both times, in microseconds since
1970. Needs Redis 6.2.

**Owners.** Each owner has an index, a sorted set of their sessions' keys. It may hold too many, but
it never misses a live session, because a key is entered before its session is written. The index
expires as a whole, no sooner than any of its sessions: at the next line of a fixed grid after the
last one's end. So a save can tell from its session alone when to enter the key again. The score is
the time of entry. A read of the index removes keys that were entered a day ago and have no session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from django.core.checks import CheckMessage
from redis.exceptions import ResponseError

from .. import records
from ..steps import Steps, arun, call, run
from .base import StrategyUnavailable
from .redis_clients import ClusterConnectionFactory, RedisClients
from .sealed import Row, SealedStrategy, log_damaged

__all__ = ["ClusterConnectionFactory", "RedisStrategy"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_DIGITS = 16  # up to November 2286; later times are stored as that

# Scripts set the remaining time (PX), computed by the application's clock. PXAT would depend on the
# server's. pcall, because a key that holds no string is no session and must not raise.
_MAC = f"redis.pcall('GETRANGE', KEYS[1], 0, {records.MAC_LENGTH - 1})"
# ARGV: the expected mac, the record to write, its remaining milliseconds.
_SWAP = f"""
if {_MAC} ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
# KEYS: the old and the new key. ARGV: as above, for the marker; then the record to write under the
# new key and its remaining milliseconds.
_MOVE = f"""
if {_MAC} ~= ARGV[1] then return 0 end
if not redis.call('SET', KEYS[2], ARGV[4], 'NX', 'PX', ARGV[5]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_REMOVE = f"""
if {_MAC} == '{records.MOVED}' then return 0 end
return redis.call('DEL', KEYS[1])
"""
# ARGV: for each key, the record to write and its remaining milliseconds.
_ADD_ALL = """
for i, key in ipairs(KEYS) do
    redis.call('SET', key, ARGV[2 * i - 1], 'NX', 'PX', ARGV[2 * i])
end
return 1
"""
# ARGV: the expected mac; then as above.
_SWAP_ALL = f"""
local count = 0
for i, key in ipairs(KEYS) do
    if redis.pcall('GETRANGE', key, 0, {records.MAC_LENGTH - 1}) == ARGV[1] then
        redis.call('SET', key, ARGV[2 * i], 'PX', ARGV[2 * i + 1])
        count = count + 1
    end
end
return count
"""
# KEYS: an owner's index. ARGV: a session's key, the time, how long the index must last (ms).
_ENTER = """
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('ZCARD', KEYS[1])
"""
# A script, because redis-py's clients give the reply of a bare ZRANGE several shapes.
_LIST = "return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')"
_GRID = timedelta(days=30)
# A session is written at once after it was entered. No request pauses in between for this long.
_IN_FLIGHT = timedelta(days=1)
_SMALL = 64  # entries

# The reply names its key, so a reply to another command shows.
_ECHO = "return {KEYS[1], redis.call('GET', KEYS[1])}"


class RedisStrategy(SealedStrategy):
    """`alias`: a cache of django-redis in ``CACHES``. `prefix`: of the keys; replaces the cache's.

    `timeout`, `replicas` and `idle`: see `RedisClients`.
    """

    expires_by_itself = True
    finds_owners = True
    header_length = 2 * _DIGITS

    def __init__(
        self,
        alias: str = "default",
        prefix: str = "session:",
        timeout: float = 5.0,
        replicas: int = 0,
        idle: float = 30.0,
    ) -> None:
        self.clients: RedisClients = RedisClients(alias, timeout, replicas, idle)
        self.prefix: str = prefix

    # -- the verbs, sync and async ----------------------------------------------------------------

    def get(self, key: str) -> Row | None:
        try:
            return _row(self.clients.execute("GET", self.prefix + key))
        except ResponseError as error:
            _refuse_other_types(error)
            return None

    async def aget(self, key: str) -> Row | None:
        try:
            return _row(await self.clients.aexecute("GET", self.prefix + key))
        except ResponseError as error:
            _refuse_other_types(error)
            return None

    def add(self, key: str, row: Row) -> bool:
        run(self.clients, self._enter(key, row))
        return bool(self.clients.write("SET", self.prefix + key, *_value(row), "NX"))

    async def aadd(self, key: str, row: Row) -> bool:
        await arun(self.clients, self._enter(key, row))
        return bool(await self.clients.awrite("SET", self.prefix + key, *_value(row), "NX"))

    def swap(self, key: str, held: Row, row: Row) -> bool:
        run(self.clients, self._enter(key, row, held))
        return bool(self.clients.script(_SWAP, [self.prefix + key], *_change(held, row)))

    async def aswap(self, key: str, held: Row, row: Row) -> bool:
        await arun(self.clients, self._enter(key, row, held))
        return bool(await self.clients.ascript(_SWAP, [self.prefix + key], *_change(held, row)))

    def move(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        claim = _change(held, marker)
        if self.clients.is_cluster():
            # The keys may be on two nodes. Write the new one first, so that the marker never
            # points to nothing. A crash in between leaves a record whose id nobody knows.
            if not self.add(new_key, row):
                return False
            if self.clients.script(_SWAP, [self.prefix + key], *claim):
                return True
            self.remove(new_key)
            return False
        run(self.clients, self._enter(new_key, row))
        keys = [self.prefix + key, self.prefix + new_key]
        return bool(self.clients.script(_MOVE, keys, *claim, *_change(held, row)[1:]))

    async def amove(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        claim = _change(held, marker)
        if await self.clients.ais_cluster():
            if not await self.aadd(new_key, row):
                return False
            if await self.clients.ascript(_SWAP, [self.prefix + key], *claim):
                return True
            await self.aremove(new_key)
            return False
        await arun(self.clients, self._enter(new_key, row))
        keys = [self.prefix + key, self.prefix + new_key]
        return bool(await self.clients.ascript(_MOVE, keys, *claim, *_change(held, row)[1:]))

    def remove(self, key: str) -> bool:
        return bool(self.clients.script(_REMOVE, [self.prefix + key]))

    async def aremove(self, key: str) -> bool:
        return bool(await self.clients.ascript(_REMOVE, [self.prefix + key]))

    def find(self, owner: str) -> dict[str, Row]:
        return run(self.clients, self._find(owner))

    async def afind(self, owner: str) -> dict[str, Row]:
        return await arun(self.clients, self._find(owner))

    def add_all(self, rows: Mapping[str, Row]) -> None:
        if self.clients.is_cluster():  # a script's keys have to be on one node
            super().add_all(rows)
        else:
            self._enter_all(rows)
            self.clients.script(_ADD_ALL, *self._many(rows))

    def swap_all(self, held: Row, rows: Mapping[str, Row]) -> int:
        if self.clients.is_cluster():
            return super().swap_all(held, rows)
        self._enter_all(rows)
        keys, *values = self._many(rows)
        return int(self.clients.script(_SWAP_ALL, keys, held.mac, *values))

    def _enter_all(self, rows: Mapping[str, Row]) -> None:
        for key, row in rows.items():
            run(self.clients, self._enter(key, row))

    def _many(self, rows: Mapping[str, Row]) -> Any:
        """Return the keys in a list, and then each record and its remaining milliseconds."""
        yield [self.prefix + key for key in rows]
        for row in rows.values():
            yield from (row.record, _remaining_ms(row))

    def header(self, expires: datetime, created: datetime) -> str:
        return _digits(expires) + _digits(created)

    def confirm(self, key: str, row: Row) -> None:
        key = self.prefix + key
        _compare(self.clients.execute("EVAL", _ECHO, 1, key), key, row)

    async def aconfirm(self, key: str, row: Row) -> None:
        key = self.prefix + key
        _compare(await self.clients.aexecute("EVAL", _ECHO, 1, key), key, row)

    def check(self) -> Iterable[CheckMessage]:
        return self.clients.check()

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        return iter(())

    def count_expired(self) -> int:
        return 0

    # -- the index of each owner: steps on the clients ---------------------------------------------

    def _enter(self, key: str, row: Row, held: Row | None = None) -> Steps[None]:
        """Enter a session that is about to be written, unless its owners' indexes have it."""
        if row.owner is None:
            return
        owners, lasts = {row.owner, row.impersonator or row.owner}, _grid_line(row.expires)
        if held is not None and held.owner is not None and _grid_line(held.expires) == lasts:
            owners -= {held.owner, held.impersonator}
        now = datetime.now(UTC)
        for owner in owners:
            keys, remaining = [self._index(owner)], (lasts - now) // _MILLISECOND
            count = yield from call(
                RedisClients.script, _ENTER, keys, key, now.timestamp(), remaining
            )
            if count >= _SMALL and count & (count - 1) == 0:  # it has doubled: tidy it
                yield from self._find(owner)

    def _find(self, owner: str) -> Steps[dict[str, Row]]:
        """Return the rows under the keys of an index, and remove keys that have none."""
        index = self._index(owner)
        rows: dict[str, Row] = {}
        gone: list[str] = []
        since = (datetime.now(UTC) - _IN_FLIGHT).timestamp()
        entries = yield from call(RedisClients.execute, "EVAL", _LIST, 1, index)
        keys = entries[::2]
        found = yield from self._read_all([self.prefix + key for key in keys])
        for key, entered, record in zip(keys, entries[1::2], found, strict=True):
            if (row := _row(record)) is not None:
                rows[key] = row
            elif float(entered) < since:
                gone.append(key)
        if gone:
            yield from call(RedisClients.write, "ZREM", index, *gone)
        return rows

    def _read_all(self, keys: list[str]) -> Steps[list[str | None]]:
        if keys and not (yield from call(RedisClients.is_cluster)):
            found = yield from call(RedisClients.execute, "MGET", *keys)
            return list(found)
        found = []  # the keys of one owner are on several nodes
        for key in keys:
            try:
                found.append((yield from call(RedisClients.execute, "GET", key)))
            except ResponseError as error:
                _refuse_other_types(error)
                found.append(None)
        return found

    def _index(self, owner: str) -> str:
        return f"{self.prefix}owner:{sha256(owner.encode()).hexdigest()[:32]}"


def _grid_line(expires: datetime) -> datetime:
    return expires + _GRID - (expires - _EPOCH) % _GRID


def _row(record: str | None) -> Row | None:
    if record is None:
        return None
    header = record[records.MAC_LENGTH :]
    if records.is_moved(record):  # in a marker, another seal precedes the header
        header = header[records.MAC_LENGTH :]
    try:
        expires, created = _moment(header[:_DIGITS]), _moment(header[_DIGITS : 2 * _DIGITS])
    except ValueError:
        expires = created = _NEVER  # such a record does not unseal
    return Row(record, expires, created)


def _moment(digits: str) -> datetime:
    return datetime.fromtimestamp(int(digits) / 1_000_000, UTC)


def _refuse_other_types(error: ResponseError) -> None:
    """Log a key of another type, such as a list: it is no session. Re-raise other errors."""
    if not str(error).startswith("WRONGTYPE"):
        raise error
    log_damaged()


def _value(row: Row) -> tuple[str, str, int]:
    """Return the arguments of ``SET``."""
    return row.record, "PX", _remaining_ms(row)


def _change(held: Row, row: Row) -> tuple[str, str, int]:
    return held.mac, row.record, _remaining_ms(row)


def _remaining_ms(row: Row) -> int:
    """Return the milliseconds for ``PX``: at least 1, because Redis refuses 0, and one more than
    remain, because Redis counts from the start of the current one. The seal has the exact end."""
    return max(1, 1 - (datetime.now(UTC) - row.expires) // _MILLISECOND)


def _compare(reply: Any, key: str, row: Row) -> None:
    if reply != [key, row.record]:
        raise StrategyUnavailable("Redis answered with another session.")


def _digits(moment: datetime) -> str:
    microseconds = (moment - _EPOCH) // _MICROSECOND
    return f"{min(max(0, microseconds), 10**_DIGITS - 1):0{_DIGITS}}"
