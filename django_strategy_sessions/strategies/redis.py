"""Sessions in Redis or Valkey, one round trip a verb, set up as a cache of django-redis is.

One string per session, which expires by itself: a sealed record whose header tells both times, in
microseconds since 1970. Needs Redis 6.2 (``SET`` with ``PXAT``).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from hashlib import sha1
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from django.conf import settings
from django.core import checks
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django_redis.cache import RedisCache
from django_redis.pool import ConnectionFactory
from redis import ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import RedisCluster as AsyncRedisCluster
from redis.asyncio import connection, sentinel
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    DataError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from .. import records
from .base import CONFLICTS, Answers, Data, Steps, Stored, StrategyUnavailable, reconcile
from .native import NativeStrategy, PerLoop

if TYPE_CHECKING:  # django-redis has no types

    class _ConnectionFactory:
        pool_cls_kwargs: dict[str, Any]
        redis_client_cls_kwargs: dict[str, Any]

        def make_connection_params(self, url: str) -> dict[str, Any]: ...

else:
    _ConnectionFactory = ConnectionFactory

# The async class of each sync one, by its name.
_KINDS = {
    kind.__name__: kind
    for kind in (
        connection.Connection,
        connection.SSLConnection,
        connection.UnixDomainSocketConnection,
        sentinel.SentinelManagedConnection,
        sentinel.SentinelManagedSSLConnection,
    )
}
# With RESP3 an async connection does not notice that the server has closed it (redis-py #4252).
_RESP2 = {"protocol": 2}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DIGITS = 16  # until November 2286, where later moments are put too
_HEADER = 2 * _DIGITS
_EXPIRES = slice(records.MAC_LENGTH, records.MAC_LENGTH + _DIGITS)
_CREATED = slice(_EXPIRES.stop, _EXPIRES.stop + _DIGITS)

# KEYS: the session's, and for a rotation the new one. ARGV: the mac that is expected, the record to
# write, when that expires (ms). Answers 1, or what is there instead.
_SWAP = f"""
local held = redis.call('GETRANGE', KEYS[1], 0, {records.MAC_LENGTH - 1})
if held == ARGV[1] then
    redis.call('SET', KEYS[#KEYS], ARGV[2], 'PXAT', ARGV[3])
    if #KEYS == 2 then redis.call('DEL', KEYS[1]) end
    return 1
end
return redis.call('GET', KEYS[1])
"""
# The first half of a rotation where the new key is on another node.
_CLAIM = f"""
local held = redis.call('GETRANGE', KEYS[1], 0, {records.MAC_LENGTH - 1})
if held == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return redis.call('GET', KEYS[1])
"""
# Shows which question it answers.
_ECHO = "return {KEYS[1], redis.call('GET', KEYS[1])}"

# What a server says that cannot serve now; other errors are mistakes. redis-py has classes for
# some, and takes the word away; older servers put the word of a script's error in the middle.
_REFUSALS = (ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_WORDS = ("BUSY", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "UNKILLABLE")


class RedisStrategy(NativeStrategy):
    """`alias`: one of django-redis in ``CACHES``. `prefix`: of the keys, instead of the cache's.

    `timeout`: seconds after which an unanswered command counts as an outage, where the alias does
    not say (``SOCKET_TIMEOUT``, ``SOCKET_CONNECT_TIMEOUT``).
    """

    expires_by_itself = True

    def __init__(
        self, alias: str = "default", prefix: str = "session:", timeout: float = 5.0
    ) -> None:
        backend = settings.CACHES.get(alias, {}).get("BACKEND")
        if not (backend and issubclass(import_string(backend), RedisCache)):
            raise ImproperlyConfigured(
                f"RedisStrategy needs a cache {alias!r} of django-redis, and there is "
                + (f"one of {backend}:" if backend else "none:")
                + f'\nCACHES["{alias}"] = {{"BACKEND": "django_redis.cache.RedisCache",'
                ' "LOCATION": "redis://127.0.0.1:6379/0"}'
            )
        self.alias: str = alias
        self.prefix: str = prefix
        self.timeout: float = timeout
        self._clients = PerLoop(self._make_async_client, _AsyncClient.aclose)

    # -- the verbs, as steps -----------------------------------------------------------------------

    def _load_steps(self, session_id: str) -> Steps[Stored | None]:
        record = yield "_execute", "GET", self._key(session_id)
        return (yield from self._opened(session_id, record))

    def _insert_steps(self, data: Data, expires: datetime) -> Steps[Stored]:
        created = datetime.now(UTC)
        while True:
            stored = _sealed(records.new_id(), data, expires, created)
            if (yield "_execute", "SET", *self._written(stored), "NX"):
                return stored

    def _update_steps(self, session_id: str, data: Data, expires: datetime) -> Steps[bool]:
        if (stored := (yield from self._load_steps(session_id))) is None:
            return False
        change = _sealed(session_id, data, expires, stored.created)
        return bool((yield "_execute", "SET", *self._written(change), "XX"))

    def _delete_steps(self, session_id: str) -> Steps[None]:
        yield "_execute", "DEL", self._key(session_id)

    def _replace_steps(
        self, stored: Stored, data: Data, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        current: Stored | None = stored
        conflicts, deadline = 0, time.monotonic() + self.timeout
        while current is not None:
            session_id = records.new_id() if rotating else stored.session_id
            wanted = reconcile(stored, data, expires, current)
            change = _sealed(session_id, *wanted, current.created)
            current = yield from self._swap_steps(current, change)
            if current is change:
                return change
            conflicts += 1
            if time.monotonic() > deadline:
                raise StrategyUnavailable("Other requests changed the session all the time.")
            if conflicts >= CONFLICTS:
                yield "_pause", random.uniform(0, 0.002 * conflicts)  # noqa: S311
        return None

    def _swap_steps(self, current: Stored, change: Stored) -> Steps[Stored | None]:
        """Compare and set; return `change`, or what is there instead of `current`."""
        if current.expires and current.expires <= datetime.now(UTC):
            # By our clock: the server may keep it a little longer, or someone has renewed it.
            return (yield from self._load_steps(current.session_id))
        mac = str(current.token)[: records.MAC_LENGTH]
        key = self._key(current.session_id)
        target, record, _, expires_ms = self._written(change)
        if target == key:
            reply = yield "_script", _SWAP, [key], mac, record, expires_ms
        elif not (yield ("_is_cluster",)):
            reply = yield "_script", _SWAP, [key, target], mac, record, expires_ms
        else:
            reply = yield "_script", _CLAIM, [key], mac
            if reply == 1:
                yield "_execute", "SET", *self._written(change), "NX"
        if reply == 1:
            return change
        return (yield from self._opened(current.session_id, reply))

    def _opened(self, session_id: str, record: str | None) -> Steps[Stored | None]:
        if record is None:
            return None
        data = records.unseal(session_id, record, _HEADER)
        if data is None:
            # Forged, or another question's answer, after which no answer can be believed.
            key = self._key(session_id)
            if (yield "_execute", "EVAL", _ECHO, 1, key) != [key, record]:
                raise StrategyUnavailable("Redis answered with another session.")
            return None
        expires = _moment(record[_EXPIRES])
        if expires <= datetime.now(UTC):
            return None
        return Stored(session_id, data, expires, _moment(record[_CREATED]), record)

    def _written(self, stored: Stored) -> tuple[str, str, str, int]:
        """The arguments of ``SET``."""
        record = str(stored.token)
        expires_ms = -(-int(record[_EXPIRES]) // 1000)
        return self._key(stored.session_id), record, "PXAT", max(1, expires_ms)

    def _key(self, session_id: str) -> str:
        return self.prefix + records.hashed(session_id)

    def check(self) -> Iterator[checks.CheckMessage]:
        ours = settings.CACHES[self.alias].get("LOCATION")
        for alias, given in settings.CACHES.items():
            if given.get("LOCATION") == ours and (alias != self.alias or alias == "default"):
                yield checks.Warning(
                    f"The cache {alias!r} is in the sessions' Redis database: its clear() would"
                    " log everybody out.",
                    hint='CACHES["sessions"] = {\n'
                    '    "BACKEND": "django_redis.cache.RedisCache",\n'
                    '    "LOCATION": "redis://127.0.0.1:6379/1",  # a database of its own\n'
                    "}\n"
                    "SESSION_STRATEGY = {\n"
                    '    "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",\n'
                    '    "OPTIONS": {"alias": "sessions"},\n'
                    "}",
                    id="strategy_sessions.W004",
                )

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        return iter(())

    def count_expired(self) -> int:
        return 0

    # -- over connections as django-redis would make them ------------------------------------------

    @cached_property
    def client(self) -> Redis | RedisCluster:
        """Of the primary: a replica may not know yet who has logged in, or out."""
        # With pools of our own: others' may have connections already, which wait longer.
        cache: Any = caches.create_connection(self.alias)
        cache.client.connection_factory._pools = {}
        client: Redis | RedisCluster = cache.client.get_client(write=True)
        bounds = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), self.timeout)
        if isinstance(client, RedisCluster):
            options = client.get_connection_kwargs()
            for node in client.get_nodes():
                node.redis_connection = None  # made anew, as bounded
        else:
            options = client.connection_pool.connection_kwargs
            if manager := getattr(client.connection_pool, "sentinel_manager", None):
                # redis-py would ask each of them ten more times before the next.
                given = {**bounds, "retry": Retry(NoBackoff(), 0), **manager.sentinel_kwargs}
                for each in manager.sentinels:
                    each.connection_pool.connection_kwargs.update(given)
        options.update({**bounds, **options})
        return client

    @cached_property
    def _connections(self) -> _Connections | None:
        """``None`` in a cluster, whose client knows which node to ask."""
        if isinstance(self.client, RedisCluster):
            return None
        return _Connections(self.client.connection_pool)

    def _execute(self, *command: Any) -> Any:
        with _answers:
            if (connections := self._connections) is None:
                return _text(self.client.execute_command(*command))
            connection = connections.take()
            try:
                connection.send_command(*command)
                reply = connection.read_response()
            except BaseException as error:
                connections.give_up(connection, error)
                raise
            connections.give_back(connection)
            return _text(reply)

    def _script(self, script: str, keys: list[str], *values: Any) -> Any:
        given = len(keys), *keys, *values
        try:
            return self._execute("EVALSHA", _sha(script), *given)
        except NoScriptError:  # new to this server: it was restarted, or has taken over
            return self._execute("EVAL", script, *given)

    def _is_cluster(self) -> bool:
        with _answers:
            return self._connections is None

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    # -- over an event loop's own client -----------------------------------------------------------

    async def a_execute(self, *command: Any) -> Any:
        with _answers:
            client = await self._async_client()
            async with client.places:
                if isinstance(client.redis, AsyncRedisCluster):
                    return _text(await client.redis.execute_command(*command))
                pool = client.redis.connection_pool
                connection = await pool.get_connection()
                try:
                    await connection.send_command(*command)
                    return _text(await connection.read_response())
                except BaseException as error:
                    if _ends_connection(error):
                        await connection.disconnect(nowait=True)
                    raise
                finally:
                    await pool.release(connection)

    async def a_script(self, script: str, keys: list[str], *values: Any) -> Any:
        given = len(keys), *keys, *values
        try:
            return await self.a_execute("EVALSHA", _sha(script), *given)
        except NoScriptError:
            return await self.a_execute("EVAL", script, *given)

    async def a_is_cluster(self) -> bool:
        with _answers:
            return isinstance((await self._async_client()).redis, AsyncRedisCluster)

    async def a_pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _async_client(self) -> _AsyncClient:
        if "client" not in vars(self):  # a cluster's asks for the nodes when it is made
            await asyncio.to_thread(lambda: self.client)
        return await self._clients.get()

    def _make_async_client(self) -> _AsyncClient:
        """What `client` is, for one event loop."""
        client, *sentinels = _async_clients(self.client)
        if isinstance(client, AsyncRedisCluster):
            count = client.connection_kwargs["max_connections"]  # to each node
        else:
            count = client.connection_pool.max_connections
        return _AsyncClient(client, sentinels, _Places(count, self.timeout))


class _Connections:
    """Those of a pool, kept from one command to the next.

    What redis-py does around a command, to count it and to repeat it, takes longer than all of
    ours. So commands go over the connections themselves, which their pool gets back only where it
    has to: where threads wait for them, passwords are renewed, or a Sentinel is followed.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._idle: dict[int, list[Any]] = {}  # by process: a fork's parent goes on using its own
        renewed = "credential_provider" in pool.connection_kwargs
        self._keeps = type(pool) is ConnectionPool and not renewed

    def take(self) -> Any:
        try:
            connection = self._idle.setdefault(os.getpid(), []).pop()
        except IndexError:
            return self._pool.get_connection()
        usable = False
        try:
            usable = not (connection.can_read() or connection.should_reconnect())
        except (RedisError, OSError):
            pass
        finally:
            if not usable:
                self._pool.release(connection)
        return connection if usable else self._pool.get_connection()  # which connects anew

    def give_back(self, connection: Any) -> None:
        if self._keeps:
            self._idle.setdefault(os.getpid(), []).append(connection)
        else:
            self._pool.release(connection)

    def give_up(self, connection: Any, error: BaseException) -> None:
        if _ends_connection(error):
            connection.disconnect()
        self._pool.release(connection)


def _ends_connection(error: BaseException) -> bool:
    """An answer may still come, which is for nobody else; or this is no primary any more."""
    answered = isinstance(error, ResponseError)
    return not answered or isinstance(error, ReadOnlyError) or "READONLY" in str(error)


class _AsyncClient(NamedTuple):
    redis: AsyncRedis | AsyncRedisCluster
    sentinels: list[AsyncRedis]
    places: _Places

    async def aclose(self) -> None:
        for client in (self.redis, *self.sentinels):
            await client.aclose()


class _Places(asyncio.Semaphore):
    """One for each connection: redis-py's pools refuse whoever is too many, as tasks often are."""

    def __init__(self, count: int, timeout: float) -> None:
        super().__init__(count)
        self.timeout = timeout

    async def acquire(self) -> Literal[True]:
        async with asyncio.timeout(self.timeout if self.locked() else None):
            return await super().acquire()


def _async_clients(client: Redis | RedisCluster) -> list[Any]:
    """Its twin for an event loop, and those of the Sentinels that it asks where the primary is."""
    if isinstance(client, RedisCluster):
        return [_async_cluster(client)]
    pool: Any = client.connection_pool
    if (manager := getattr(pool, "sentinel_manager", None)) is None:
        return [_async_client(pool)]
    watchers = sentinel.Sentinel([])
    watchers.sentinels = [_async_client(each.connection_pool) for each in manager.sentinels]
    managed = {"service_name": pool.service_name, "sentinel_manager": watchers}
    return [_async_client(pool, sentinel.SentinelConnectionPool, **managed), *watchers.sentinels]


def _async_client(
    pool: Any, kind: type[AsyncConnectionPool] = AsyncConnectionPool, **given: Any
) -> AsyncRedis:
    name = next(c.__name__ for c in pool.connection_class.__mro__ if c.__name__ in _KINDS)
    options = {**_plain(pool.connection_kwargs), **_RESP2, **given}
    options["connection_class"] = _KINDS[name]
    return AsyncRedis.from_pool(kind(max_connections=pool.max_connections, **options))


def _async_cluster(client: RedisCluster) -> AsyncRedisCluster:
    known = signature(AsyncRedisCluster).parameters
    given = client.get_connection_kwargs()
    options = {name: value for name, value in _plain(given).items() if name in known} | _RESP2
    return AsyncRedisCluster(
        startup_nodes=[AsyncClusterNode(node.host, node.port) for node in client.get_nodes()],
        address_remap=client.nodes_manager.address_remap,
        retry=AsyncRetry(NoBackoff(), client.retry.get_retries()),
        ssl=issubclass(given.get("connection_class", object), SSLConnection),
        **options,
    )


class ClusterConnectionFactory(_ConnectionFactory):
    """django-redis' connection to a Redis Cluster: for ``CONNECTION_FACTORY`` in its ``OPTIONS``.

    ``LOCATION`` is the URL of any node.
    """

    _pools: ClassVar[dict[str, RedisCluster]] = {}

    def connect(self, url: str) -> RedisCluster:
        if url not in self._pools:
            # A write whose answer got lost is not sent again, as redis-py by itself would.
            options = {"retry": Retry(NoBackoff(), 0), **self.make_connection_params(url)}
            del options["parser_class"]
            options.update(self.pool_cls_kwargs, **self.redis_client_cls_kwargs)
            self._pools[url] = RedisCluster(**options)
        return self._pools[url]

    def disconnect(self, connection: RedisCluster) -> None:
        connection.disconnect_connection_pools()  # where close() would be for good


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """What sync and async clients have in common: not parsers, handlers and what the pool notes."""
    return {
        name: value
        for name, value in options.items()
        if name == "credential_provider"
        or (
            isinstance(value, (str, bytes, int, float, list, tuple, dict, type(None)))
            and not name.startswith("orig_")
        )
    }


def _sealed(session_id: str, data: Data, expires: datetime, created: datetime | None) -> Stored:
    created = created or datetime.now(UTC)
    record = records.seal(session_id, data, _digits(expires) + _digits(created))
    return Stored(session_id, data, expires, created, record)


def _digits(moment: datetime) -> str:
    microseconds = (moment - _EPOCH) // _MICROSECOND
    return f"{min(max(0, microseconds), 10**_DIGITS - 1):0{_DIGITS}}"


def _moment(digits: str) -> datetime:
    return datetime.fromtimestamp(int(digits) / 1_000_000, UTC)


@cache
def _sha(script: str) -> str:
    return sha1(script.encode()).hexdigest()  # noqa: S324  (Redis' own name for a script)


def _text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode(errors="replace")  # what was forged does not unseal
    return [_text(each) for each in reply] if isinstance(reply, list) else reply


def _is_outage(error: BaseException) -> bool:
    """A server that cannot answer, and not a mistake in how it is used."""
    if not isinstance(error, (RedisError, RedisClusterException, OSError)):
        return False
    mistake = isinstance(error, (ResponseError, DataError)) and not isinstance(error, _REFUSALS)
    return not mistake or any(word in str(error) for word in _WORDS)


_answers = Answers(_is_outage, "Redis could not answer.")
