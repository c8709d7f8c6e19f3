"""Sessions in Redis or Valkey, one round trip per verb, configured as a cache of django-redis.

Each session is one string, which Redis expires. Its seal covers both times, in microseconds since
1970. Needs Redis 6.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.checks import CheckMessage
from redis.exceptions import ResponseError

from .. import records
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
# The reply names its key, so a reply to another command shows.
_ECHO = "return {KEYS[1], redis.call('GET', KEYS[1])}"


class RedisStrategy(SealedStrategy):
    """`alias`: a cache of django-redis in ``CACHES``. `prefix`: of the keys; replaces the cache's.

    `timeout`, `replicas` and `idle`: see `RedisClients`.
    """

    expires_by_itself = True
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
        return bool(self.clients.write("SET", self.prefix + key, *_value(row), "NX"))

    async def aadd(self, key: str, row: Row) -> bool:
        return bool(await self.clients.awrite("SET", self.prefix + key, *_value(row), "NX"))

    def swap(self, key: str, held: Row, row: Row) -> bool:
        return bool(self.clients.script(_SWAP, [self.prefix + key], *_change(held, row)))

    async def aswap(self, key: str, held: Row, row: Row) -> bool:
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
        keys = [self.prefix + key, self.prefix + new_key]
        return bool(await self.clients.ascript(_MOVE, keys, *claim, *_change(held, row)[1:]))

    def remove(self, key: str) -> bool:
        return bool(self.clients.script(_REMOVE, [self.prefix + key]))

    async def aremove(self, key: str) -> bool:
        return bool(await self.clients.ascript(_REMOVE, [self.prefix + key]))

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
