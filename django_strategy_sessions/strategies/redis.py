"""Sessions in Redis or Valkey, one round trip per verb, configured as a cache of django-redis.

Each session is one string, which Redis expires. Its seal covers both times, in microseconds since
1970. Needs Redis 6.2.

**Owners.** Each owner has an index, a sorted set of their sessions' keys. It may hold too many, but
it never misses a live session, because a script enters the key before it writes the session. On a
Cluster the two are on different nodes, so there it takes one more round trip, before the write. The
index expires as a whole, no sooner than any of its sessions: at the next line of a fixed grid after
the last one's end. So a save can tell from its session alone when to enter the key again. The score
is the time of entry. A read of the index removes keys that were entered a day ago and have no
session.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from django.core.checks import CheckMessage
from redis.exceptions import ResponseError

from .. import records
from ..steps import Steps, arun, call, run
from . import redis_health
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
_TAKEN = "redis.pcall('GETRANGE', KEYS[{}], 0, 0) ~= ''"


def _enter_from(number: int) -> str:
    """Return Lua that enters a session in the indexes of its owners. These are KEYS from `number`
    on. The last of ARGV: the session's key, the time, how long the indexes must last (ms)."""
    return f"""
local size = 1
for i = {number}, #KEYS do
    redis.call('ZADD', KEYS[i], ARGV[#ARGV - 1], ARGV[#ARGV - 2])
    if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[#ARGV]) then
        redis.call('PEXPIRE', KEYS[i], ARGV[#ARGV])
    end
    size = math.max(size, redis.call('ZCARD', KEYS[i]))
end
"""


_ENTER = f"{_enter_from(1)} return size"
# The scripts below return 0 if they wrote nothing, else the size of the largest index, at least 1.
# ARGV: the record to write, its remaining milliseconds.
_ADD = f"""
if {_TAKEN.format(1)} then return 0 end
{_enter_from(2)}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return size
"""
# ARGV: the expected mac, the record to write, its remaining milliseconds.
_SWAP = f"""
if {_MAC} ~= ARGV[1] then return 0 end
{_enter_from(2)}
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return size
"""
# KEYS: the old and the new key. ARGV: as above, for the marker; then the record to write under the
# new key and its remaining milliseconds.
_MOVE = f"""
if {_MAC} ~= ARGV[1] or {_TAKEN.format(2)} then return 0 end
{_enter_from(3)}
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return size
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
        return run(self.clients, self._add_steps(key, row))

    async def aadd(self, key: str, row: Row) -> bool:
        return await arun(self.clients, self._add_steps(key, row))

    def swap(self, key: str, held: Row, row: Row) -> bool:
        return run(self.clients, self._swap_steps(key, held, row))

    async def aswap(self, key: str, held: Row, row: Row) -> bool:
        return await arun(self.clients, self._swap_steps(key, held, row))

    def move(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        return run(self.clients, self._move_steps(key, held, marker, new_key, row))

    async def amove(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        return await arun(self.clients, self._move_steps(key, held, marker, new_key, row))

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
            if owners := _find_missing(row):
                indexes = [self._index(owner) for owner in owners]
                self.clients.script(_ENTER, indexes, *_make_entry(key, row))

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

    def examine(self, databases: Collection[str] | None = None) -> Iterable[CheckMessage]:
        return redis_health.examine(self.clients, self.prefix) if databases is None else ()

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        return iter(())

    def count_expired(self) -> int:
        return 0

    # -- steps on the clients ----------------------------------------------------------------------

    def _add_steps(self, key: str, row: Row) -> Steps[bool]:
        if row.owner is None:
            name = self.prefix + key
            return bool((yield from self.clients.write_steps("SET", name, *_value(row), "NX")))
        return (yield from self._write_steps(_ADD, [key], _change(row, row)[1:], row))

    def _swap_steps(self, key: str, held: Row, row: Row) -> Steps[bool]:
        return (yield from self._write_steps(_SWAP, [key], _change(held, row), row, held))

    def _move_steps(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> Steps[bool]:
        if not (yield from call(RedisClients.is_cluster)):
            values = *_change(held, marker), *_change(held, row)[1:]
            return (yield from self._write_steps(_MOVE, [key, new_key], values, row))
        # The keys may be on two nodes. Write the new one first, so that the marker never points to
        # nothing. A crash in between leaves a record whose id nobody knows.
        if not (yield from self._add_steps(new_key, row)):
            return False
        if (yield from self._swap_steps(key, held, marker)):
            return True
        yield from self.clients.script_steps(_REMOVE, [self.prefix + new_key])
        return False

    def _write_steps(
        self, script: str, keys: list[str], values: Iterable[Any], row: Row, held: Row | None = None
    ) -> Steps[bool]:
        """Write a session, the last of `keys`, and enter it in the indexes that lack it."""
        names = [self.prefix + key for key in keys]
        entry: tuple[Any, ...] = ()
        if owners := _find_missing(row, held):
            indexes = [self._index(owner) for owner in owners]
            entry = _make_entry(keys[-1], row)
            if (yield from call(RedisClients.is_cluster)):
                for index in indexes:
                    yield from self.clients.script_steps(_ENTER, [index], *entry)
                entry = ()
            else:
                names += indexes
        size = yield from self.clients.script_steps(script, names, *values, *entry)
        if size >= _SMALL and size & (size - 1) == 0:  # an index has doubled: tidy it
            for owner in owners:
                yield from self._find(owner)
        return bool(size)

    def _find(self, owner: str) -> Steps[dict[str, Row]]:
        """Return the rows under the keys of an index, and remove keys that have none."""
        index = self._index(owner)
        rows: dict[str, Row] = {}
        gone: list[str] = []
        since = (datetime.now(UTC) - _IN_FLIGHT).timestamp()
        entries = yield from self.clients.execute_steps("EVAL", _LIST, 1, index)
        keys = entries[::2]
        found = yield from self._read_all([self.prefix + key for key in keys])
        for key, entered, record in zip(keys, entries[1::2], found, strict=True):
            if (row := _row(record)) is not None:
                rows[key] = row
            elif float(entered) < since:
                gone.append(key)
        if gone:
            yield from self.clients.write_steps("ZREM", index, *gone)
        return rows

    def _read_all(self, keys: list[str]) -> Steps[list[str | None]]:
        if keys and not (yield from call(RedisClients.is_cluster)):
            found = yield from self.clients.execute_steps("MGET", *keys)
            return list(found)
        found = []  # the keys of one owner are on several nodes
        for key in keys:
            try:
                found.append((yield from self.clients.execute_steps("GET", key)))
            except ResponseError as error:
                _refuse_other_types(error)
                found.append(None)
        return found

    def _index(self, owner: str) -> str:
        return f"{self.prefix}owner:{sha256(owner.encode()).hexdigest()[:32]}"


def _grid_line(expires: datetime) -> datetime:
    return expires + _GRID - (expires - _EPOCH) % _GRID


def _find_missing(row: Row, held: Row | None = None) -> set[str]:
    """Return the owners whose indexes may not have this session, or not for long enough."""
    if row.owner is None:
        return set()
    owners = {row.owner, row.impersonator or row.owner}
    if held is None or held.owner is None or _grid_line(held.expires) != _grid_line(row.expires):
        return owners
    return owners - {held.owner, held.impersonator or held.owner}


def _make_entry(key: str, row: Row) -> tuple[str, float, int]:
    now = datetime.now(UTC)
    return key, now.timestamp(), (_grid_line(row.expires) - now) // _MILLISECOND


def _row(record: str | None) -> Row | None:
    if record is None:
        return None
    start = records.MAC_LENGTH
    if records.is_moved(record):  # in a marker, another seal precedes the header
        start += records.MAC_LENGTH
    middle = start + _DIGITS
    try:
        expires, created = _moment(record[start:middle]), _moment(record[middle : middle + _DIGITS])
    except ValueError:
        expires = created = _NEVER  # such a record does not unseal
    return Row(record, expires, created)


def _moment(digits: str) -> datetime:
    return datetime.fromtimestamp(int(digits) / 1_000_000, UTC)


def _refuse_other_types(error: ResponseError) -> None:
    """Log a key of another type, such as a list: it is no session. Re-raise other errors."""
    if not str(error).startswith("WRONGTYPE"):
        raise error
    log_damaged(RedisStrategy)


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
