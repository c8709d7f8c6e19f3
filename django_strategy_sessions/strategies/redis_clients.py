"""Redis as the strategy speaks to it: clients, connections, time-outs, failovers. No sessions.

Everything is set up as a cache of django-redis. Commands go over the connections of redis-py's
pools, each once, and no reply reaches anybody but the caller that waits for it. Rules are written
once, as steps; sync code and event loops only differ in how they exchange bytes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha1
from math import inf
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import redis
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django_redis.cache import RedisCache
from django_redis.client import DefaultClient, ShardClient
from django_redis.pool import ConnectionFactory, get_connection_factory
from redis import ConnectionPool, Redis, RedisCluster
from redis.asyncio import BlockingConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import connection as async_connections
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    DataError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from ..hidden import Hidden, HiddenBytes
from ..steps import Steps, arun, run
from .base import Answers, StrategyUnavailable
from .loops import PerLoop

if TYPE_CHECKING:  # django-redis has no types

    class _ConnectionFactory:
        pool_cls_kwargs: dict[str, Any]
        redis_client_cls_kwargs: dict[str, Any]

        def make_connection_params(self, url: str) -> dict[str, Any]: ...

else:
    _ConnectionFactory = ConnectionFactory

Command = tuple[Any, ...]
Client = Redis  # of one server

# By the name of a class of connections: those that Sentinels manage, as plain ones, and all of them
# as those of event loops.
_PLAIN = {
    "SentinelManagedSSLConnection": redis.SSLConnection,
    "SentinelManagedConnection": redis.Connection,
}
_ASYNC = {
    "Connection": async_connections.Connection,
    "SSLConnection": async_connections.SSLConnection,
    "UnixDomainSocketConnection": async_connections.UnixDomainSocketConnection,
}
_SOON = 100  # ms, within which replicas confirm that are as near as they usually are
_ATTEMPTS = 5  # of one command that a cluster sends from node to node
_REDIS_PY = str(Path(redis.__file__).parent)

# What a server says that cannot serve now; other errors are mistakes. redis-py has classes for
# some, and takes the word away; older servers put the word of a script's error in the middle.
_REFUSALS = (AskError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_WORDS = ("BUSY", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "UNKILLABLE")

# Writes, and changes nothing.
_TOUCH = """
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'string' then
    redis.call('SET', KEYS[1], held, 'KEEPTTL')
elseif not held then
    redis.call('SET', KEYS[1], '')
    redis.call('DEL', KEYS[1])
end
return 1
"""


class RedisClients:
    """Commands for the servers of one alias in ``CACHES``, in sync code and in event loops.

    `execute` is for commands that only read, `write` and `script` for all others. They raise
    `StrategyUnavailable` where no server can answer.

    `timeout`: seconds after which an unanswered command counts as an outage, where the alias does
    not say (``SOCKET_TIMEOUT``, ``SOCKET_CONNECT_TIMEOUT``). `replicas`: how many have to have a
    write before it counts as done. `idle`: seconds after which a connection that nobody used is
    replaced before its next use.
    """

    def __init__(
        self, alias: str, timeout: float = 5.0, replicas: int = 0, idle: float = 30.0
    ) -> None:
        self._settings: dict[str, Any] = dict(settings.CACHES.get(alias, {}))
        backend = self._settings.get("BACKEND")
        if not (backend and issubclass(import_string(backend), RedisCache)):
            raise ImproperlyConfigured(
                f"RedisStrategy needs a cache {alias!r} of django-redis, and there is "
                + (f"one of {backend}:" if backend else "none:")
                + f'\nCACHES["{alias}"] = {{"BACKEND": "django_redis.cache.RedisCache",'
                ' "LOCATION": "redis://127.0.0.1:6379/0"}'
            )
        if not isinstance(replicas, int) or replicas < 0:
            raise ImproperlyConfigured("`replicas` must be a number of replicas, or 0.")
        if not timeout > 0 or not idle > 0:
            raise ImproperlyConfigured("`timeout` and `idle` must be seconds above zero.")
        self.alias: str = alias
        self.timeout: float = timeout
        self.replicas: int = replicas
        self.idle: float = idle
        self._found: _Servers | None = None
        self._lock = threading.Lock()
        self._resting: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # since when
        self._loops = PerLoop(lambda: _Loop(self.timeout, self.idle, self._resting), _Loop.aclose)

    def execute(self, *command: Any) -> Any:
        with _answers:
            return _text(run(self, self._read_steps(command)))

    def write(self, *command: Any) -> Any:
        with _answers:
            return _text(run(self, self._write_steps(command)))

    def script(self, script: str, keys: list[str], *values: Any) -> Any:
        with _answers:
            return _text(run(self, self._script_steps(script, keys, values)))

    def is_cluster(self) -> bool:
        with _answers:
            return isinstance(self._servers(), _Cluster)

    async def aexecute(self, *command: Any) -> Any:
        with _answers:
            return _text(await arun(self, self._read_steps(command)))

    async def awrite(self, *command: Any) -> Any:
        with _answers:
            return _text(await arun(self, self._write_steps(command)))

    async def ascript(self, script: str, keys: list[str], *values: Any) -> Any:
        with _answers:
            return _text(await arun(self, self._script_steps(script, keys, values)))

    async def ais_cluster(self) -> bool:
        with _answers:
            return isinstance(self._found or await self.a_servers(), _Cluster)

    # -- the rules ---------------------------------------------------------------------------------

    def _read_steps(self, command: Command) -> Steps[Any]:
        _, _, replies = yield from self._send_steps([command], repeatable=True)
        return replies[0]

    def _write_steps(self, command: Command) -> Steps[Any]:
        """Send it once, and wait in the same round trip until enough replicas have it."""
        if not self.replicas:
            _, _, replies = yield from self._send_steps([command])
            return replies[0]
        servers = self._found or (yield ("_servers",))
        waits = servers.waits(self.replicas)
        servers, client, replies = yield from self._send_steps([command, *waits])
        reply, *answers = replies
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        if answers[0] < self.replicas:
            servers.doubt(client)
            raise StrategyUnavailable("Too few replicas confirmed a write in time.")
        if not servers.is_safe(client, answers):
            servers.doubt(client)
            if (yield from self._find_steps(servers, _key(command))) is not client:
                raise StrategyUnavailable("Another server became the primary during a write.")
        if not reply:
            # It wrote nothing, and Valkey waits for what this connection wrote. What it found, as
            # the end of a session, may still be on its way to the replicas.
            yield from self._script_steps(_TOUCH, [_key(command)], ())
        return reply

    def _script_steps(self, script: str, keys: list[str], values: Iterable[Any]) -> Steps[Any]:
        given = len(keys), *keys, *values
        try:
            return (yield from self._write_steps(("EVALSHA", _sha(script), *given)))
        except NoScriptError:  # new to this server: it was restarted, or has taken over
            return (yield from self._write_steps(("EVAL", script, *given)))

    def _find_steps(self, servers: _Servers, key: Any) -> Steps[Client]:
        client = servers.find(key)
        if client is None:
            yield "_refresh", servers
            client = servers.find(key, refreshed=True)
        assert client is not None  # noqa: S101
        return client

    def _send_steps(
        self, commands: list[Command], repeatable: bool = False
    ) -> Steps[tuple[_Servers, Client, list[Any]]]:
        """To the server that has the key of the first; if that one fails, raise its error.

        What is `repeatable` and fails on a connection that was kept is sent once more on a new one.
        Each of these attempts has half of the time.
        """
        servers = self._found or (yield ("_servers",))
        limit = servers.timeout / 2 if repeatable else None
        late = time.monotonic() + servers.timeout * 0.75
        told: Client | None = None  # by another node
        asking: list[Command] = []
        anew = False
        for _ in range(_ATTEMPTS):
            client = told or (yield from self._find_steps(servers, _key(commands[0])))
            try:
                replies = yield "_exchange", servers, client, asking + commands, limit, anew
            except Exception as error:
                if _is_outage(error):
                    servers.doubt(client)
                    if repeatable and not anew and time.monotonic() < late:
                        told, asking, anew = None, [], True
                        continue
                raise
            replies = replies[len(asking) :]
            if not isinstance(replies[0], AskError):
                break
            asking = [] if isinstance(replies[0], MovedError) else [("ASKING",)]
            if not asking:
                servers.doubt(client)
            told = servers.redirect(replies[0])
        if isinstance(replies[0], Exception):
            if _is_outage(replies[0]):
                servers.doubt(client)
            raise replies[0]
        return servers, client, replies

    # -- where the servers are ---------------------------------------------------------------------

    def _servers(self) -> _Servers:
        with self._lock:
            found = self._found = self._found or self._find_servers()
            return found

    async def a_servers(self) -> _Servers:
        found: _Servers = await asyncio.to_thread(self._servers)
        return found

    def _refresh(self, servers: _Servers) -> None:
        servers.refresh()

    async def a_refresh(self, servers: _Servers) -> None:
        loop = await self._loops.get()
        async with loop.refreshing:  # or each of many tasks takes a thread to wait in
            await asyncio.to_thread(servers.refresh)

    def _find_servers(self) -> _Servers:
        for fault, _hint, _id in self._faults():
            raise ImproperlyConfigured(fault)
        try:
            client = self._make_client()
        except (RedisError, RedisClusterException, OSError):
            raise
        except Exception as error:
            raise ImproperlyConfigured(
                f"No client can be made of the cache {self.alias!r} ({error})."
            ) from error
        if isinstance(client, RedisCluster):
            return _Cluster(client, self.timeout)
        if hasattr(client.connection_pool, "sentinel_manager"):
            return _Sentinels(client, self.timeout, self.replicas)
        return _OneServer(client, self.timeout)

    def _make_client(self) -> Redis | RedisCluster:
        """Of the primary: a replica may not know yet who has logged in, or out."""
        params = dict(self._settings)
        options = params["OPTIONS"] = dict(params.get("OPTIONS", {}))
        given = {
            "socket_timeout": options.get("SOCKET_TIMEOUT") or self.timeout,
            "socket_connect_timeout": options.get("SOCKET_CONNECT_TIMEOUT") or self.timeout,
            **options.get("CONNECTION_POOL_KWARGS", {}),
            # With RESP3 an async connection does not notice that the server has closed it
            # (redis-py #4252).
            "protocol": 2,
            "decode_responses": False,
        }
        for name in ("retry", "retry_on_error", "retry_on_timeout"):  # we know what to repeat
            given.pop(name, None)
        options["CONNECTION_POOL_KWARGS"] = given
        sentinels = options.get("SENTINELS") or [None]
        options["SENTINEL_KWARGS"] = {
            **{name: value for name, value in given.items() if name.startswith("socket_")},
            # All of them within one time-out. redis-py would ask each ten more times.
            "socket_timeout": given["socket_timeout"] and given["socket_timeout"] / len(sentinels),
            "socket_connect_timeout": self.timeout / len(sentinels),
            "retry": Retry(NoBackoff(), 0),
            **(options.get("SENTINEL_KWARGS") or {}),
        }
        backend, location = params.pop("BACKEND"), params.pop("LOCATION", "")
        client = import_string(backend)(location, params).client
        # Pools of our own: those of the cache may have connections already, which wait longer.
        client.connection_factory._pools = {}
        made: Redis | RedisCluster = client.get_client(write=True)
        return made

    # -- over the connections of sync code ---------------------------------------------------------

    def _exchange(
        self,
        servers: _Servers,
        client: Client,
        commands: list[Command],
        limit: float | None,
        anew: bool,
    ) -> list[Any]:
        """Send commands to one server at once, and return what it answers, errors among it."""
        pool = client.connection_pool
        if _is_instrumented(client):
            self._release(pool, self._take(pool, anew))  # the next to be taken, and good
            return _exchange_through(client, commands)
        if anew:
            bounds = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), limit)
            connection = pool.connection_class(**{**pool.connection_kwargs, **bounds})
            try:
                return _talk(connection, commands, limit)
            finally:
                connection.disconnect()
        connection = self._take(pool)
        try:
            replies = _talk(connection, commands, limit)
            if any(map(_ends_connection, replies)) or not servers.has(client):
                connection.disconnect()
            return replies
        except BaseException:
            connection.disconnect()  # A late reply would reach the next caller.
            raise
        finally:
            self._release(pool, connection)

    def _release(self, pool: ConnectionPool, connection: Any) -> None:
        self._resting[connection] = time.monotonic()
        pool.release(connection)

    def _take(self, pool: ConnectionPool, anew: bool = False) -> Any:
        """A connection of the pool; a new one if it rested for so long that it may be dead."""
        connection = pool.get_connection()
        try:
            if anew or _rested(connection, self._resting) > self.idle:
                connection.disconnect()
                connection.connect()
        except BaseException:
            pool.release(connection)
            raise
        return connection

    # -- over those of an event loop ---------------------------------------------------------------

    async def a_exchange(
        self,
        servers: _Servers,
        client: Client,
        commands: list[Command],
        limit: float | None,
        anew: bool,
    ) -> list[Any]:
        loop = await self._loops.get()
        twin = loop.twin(client)
        pool: Any = twin.connection_pool
        async with asyncio.timeout(limit):
            connection = await loop.take(pool, anew)
            if _is_instrumented(twin):
                self._resting[connection] = time.monotonic()
                await pool.release(connection)
                return await _aexchange_through(twin, commands)
            try:
                replies = await _atalk(connection, commands)
                if any(map(_ends_connection, replies)) or not servers.has(client):
                    await connection.disconnect(nowait=True)
                return replies
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                self._resting[connection] = time.monotonic()
                await pool.release(connection)

    # -- what can be seen before the first request -------------------------------------------------

    def check(self) -> Iterator[CheckMessage]:
        for fault, hint, identifier in self._faults():
            yield checks.Error(fault, hint=hint, id=identifier)
            return
        if "cluster" not in self._kind():  # whose client asks for the nodes when it is made
            try:
                self._servers()
            except ImproperlyConfigured as error:
                yield checks.Error(
                    str(error),
                    hint=f'CACHES["{self.alias}"] = {{\n'
                    '    "BACKEND": "django_redis.cache.RedisCache",\n'
                    '    "LOCATION": "redis://127.0.0.1:6379/0",\n}',
                    id="strategy_sessions.E011",
                )
                return
        if self._kind() and not self.replicas:
            yield checks.Warning(
                f"A failover of the {self._kind()} can lose logins, logouts and changes that were"
                " answered with success.",
                hint="SESSION_STRATEGY = {\n"
                '    "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",\n'
                f'    "OPTIONS": {{"alias": "{self.alias}", "replicas": 1}},\n'
                "}",
                id="strategy_sessions.W005",
            )
        yield from self._check_shared()

    def _check_shared(self) -> Iterator[CheckMessage]:
        for alias, given in settings.CACHES.items():
            same = given.get("LOCATION") == self._settings.get("LOCATION")
            if same and (alias != self.alias or alias == "default"):
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

    def _kind(self) -> str:
        """What a failover would be of."""
        options = dict(self._settings.get("OPTIONS", {}))
        with suppress(ImportError, ImproperlyConfigured):  # which making a client will say
            if isinstance(get_connection_factory(options=options), ClusterConnectionFactory):
                return "cluster"
        return "primary that Sentinels watch" if options.get("SENTINELS") else ""

    def _faults(self) -> Iterator[tuple[str, str, str]]:
        """Why sessions cannot be kept with this alias: a reason, a hint, the id of a check."""
        where = f'CACHES["{self.alias}"]["OPTIONS"]'
        unfit = f"Sessions cannot be kept in the cache {self.alias!r} with"
        options = self._settings.get("OPTIONS", {})
        path = options.get("CLIENT_CLASS", "django_redis.client.DefaultClient")
        fault = _why_not(path, DefaultClient)
        if not fault and issubclass(import_string(path), ShardClient):
            fault = "spreads keys over servers that know nothing of each other"
        if fault:
            yield (
                f"{unfit} the CLIENT_CLASS {path!r}: it {fault}.",
                f'{where}["CLIENT_CLASS"] = "django_redis.client.DefaultClient"',
                "strategy_sessions.E009",
            )
        for name in ("CONNECTION_POOL_KWARGS", "REDIS_CLIENT_KWARGS"):
            for option in options.get(name) or {}:
                if option in _UNFIT:
                    yield (
                        f"{unfit} {option!r} in {name}: {_UNFIT[option]}.",
                        f'del {where}["{name}"]["{option}"]',
                        "strategy_sessions.E010",
                    )
        for name, base in _BASES.items():
            if name in options and (fault := _why_not(options[name], base)):
                yield (
                    f"{unfit} the {name} {options[name]!r}: it {fault}.",
                    f'del {where}["{name}"]',
                    "strategy_sessions.E010",
                )


def _why_not(path: str, base: type) -> str:
    """What is wrong with a dotted path that should lead to such a class."""
    try:
        found = import_string(path)
    except ImportError:
        return "cannot be imported"
    if isinstance(found, type) and issubclass(found, base):
        return ""
    return f"is no subclass of {base.__module__}.{base.__qualname__}"


_UNFIT = {
    "cache": "loads would be answered out of the memory of one process",
    "cache_config": "loads would be answered out of the memory of one process",
    "redis_connect_func": "event loops could not call it",
    "single_connection_client": "threads would read each other's replies",
}
_BASES: dict[str, type] = {"CONNECTION_POOL_CLASS": ConnectionPool, "REDIS_CLIENT_CLASS": Redis}


class _Servers(ABC):
    """Which server has a key: one; the one that Sentinels name; one of a cluster."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    @abstractmethod
    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        """Without asking anybody. ``None``: refresh first."""

    @abstractmethod
    def has(self, client: Client) -> bool:
        """Whether it is still a client of one of these servers."""

    @abstractmethod
    def refresh(self) -> None:
        """Ask where they are."""

    @abstractmethod
    def doubt(self, client: Client) -> None:
        """Refresh before this client is used again: it failed."""

    def redirect(self, error: AskError) -> Client | None:
        """The server that another one names; ``None`` if it is not known yet."""
        raise ImproperlyConfigured(
            "The Redis server is a node of a cluster. Tell django-redis in the cache's OPTIONS:\n"
            '"CONNECTION_FACTORY":'
            ' "django_strategy_sessions.strategies.redis.ClusterConnectionFactory"'
        ) from error

    def waits(self, replicas: int) -> list[Command]:
        """What follows a write; the first is answered with the number of replicas that have it."""
        return [("WAIT", replicas, int(self.timeout * 800))]

    def is_safe(self, client: Client, answers: list[Any]) -> bool:
        """Whether no server could be the primary that lacks the write, by the answers to these."""
        return True


class _OneServer(_Servers):
    def __init__(self, client: Client, timeout: float) -> None:
        super().__init__(client.connection_pool.connection_kwargs.get("socket_timeout") or timeout)
        self._client = client

    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        return self._client

    def has(self, client: Client) -> bool:
        return True

    def refresh(self) -> None:
        pass

    def doubt(self, client: Client) -> None:
        pass


class _Asked(_Servers):
    """Servers that others have to be asked for, which one thread does while others wait for it."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self._lock = threading.Lock()
        self._begun = 0
        self._failed: Exception | None = None

    def refresh(self) -> None:
        begun = self._begun
        if not self._lock.acquire(timeout=self.timeout):
            raise redis.TimeoutError("Nobody says where the servers are.")
        try:
            if self._begun == begun:  # else somebody asked after this thread came
                self._begun += 1
                self._failed = None
                try:
                    self._ask()
                except (RedisError, RedisClusterException, OSError) as error:
                    self._failed = error
            if self._failed is not None:
                raise redis.ConnectionError("Nobody says where the servers are.") from self._failed
        finally:
            self._lock.release()

    @abstractmethod
    def _ask(self) -> None: ...


class _Sentinels(_Asked):
    """The primary, for as long as its Sentinels cannot have promoted another unless ordered to.

    They are asked again before that time is over, at least twice per `timeout`, and after any
    failure. So a primary that was demoted, or cut off, is soon given up.
    """

    def __init__(self, client: Redis, timeout: float, replicas: int) -> None:
        pool: Any = client.connection_pool
        options = dict(pool.connection_kwargs)
        options.pop("connection_pool")
        super().__init__(options.get("socket_timeout") or timeout)
        self._name, self._sentinels = pool.service_name, pool.sentinel_manager.sentinels
        # Where nothing may be lost, a minority that was cut off cannot be believed.
        self._enough = len(self._sentinels) // 2 + 1 if replicas else 1
        options["connection_class"] = _by_name(_PLAIN, pool.connection_class)
        options["max_connections"] = pool.max_connections
        self._class, self._options = type(client), options
        self._client: Client | None = None
        self._address: tuple[str, int] | None = None
        self._ends = 0.0
        self._doubted = True
        self._strict = replicas > 0
        self._answered: dict[Redis, float] = {}  # when each did
        self._muted: dict[Redis, float] = {}  # Sentinels that failed, and until when to spare them
        self._replicas: set[Any] | None = None  # of this primary, when the Sentinels last agreed
        self._seen: set[Any] | None = None  # since then

    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        valid = refreshed or (time.monotonic() < self._ends and not self._doubted)
        return self._client if valid else None

    def has(self, client: Client) -> bool:
        return client is self._client

    def doubt(self, client: Client) -> None:
        if client is self._client:
            self._doubted = True

    def waits(self, replicas: int) -> list[Command]:
        # An ordered failover promotes one while this primary still serves. So all of them have to
        # confirm, or the Sentinels are asked.
        every = ("WAIT", max(replicas, len(self._replicas or ())), _SOON)
        return [*super().waits(replicas), every, ("ROLE",)]

    def is_safe(self, client: Client, answers: list[Any]) -> bool:
        _, reached, role = answers
        if client is not self._client:
            return False
        present = {(host, port) for host, port, _ in role[2]}
        if self._replicas is not None and self._replicas <= present and reached >= len(present):
            self._replicas |= present
            return True
        self._seen = present  # to be expected of other threads only when the Sentinels agree
        return False

    def _ask(self) -> None:
        asked = time.monotonic()
        thorough, self._doubted = self._doubted, False
        seen, self._seen = self._seen, None
        try:
            states = self._ask_sentinels(thorough)
            newest = max(states, key=lambda state: state["config-epoch"], default={})
            agreeing = [state for state in states if _names(state, newest)]
            if len(agreeing) < self._enough or any(map(_is_changing, states)):
                raise redis.ConnectionError("The Sentinels do not agree on a primary.")
        except BaseException:
            self._doubted, self._seen = True, seen
            raise
        if seen is not None:
            self._replicas = seen
        if (address := (newest["ip"], newest["port"])) != self._address:
            self._move(*address)
        # They promote another when the primary did not answer them for so long.
        patience = min(s["down-after-milliseconds"] - s["last-ok-ping-reply"] for s in states)
        self._ends = asked + min(self.timeout / 2, patience / 1000)

    def _ask_sentinels(self, thorough: bool) -> list[dict[str, Any]]:
        """All of them: only one may know yet. But one that fails costs a time-out only seldom."""
        states: list[Any] = []
        now = time.monotonic()
        for sentinel in sorted(self._sentinels, key=lambda each: self._muted.get(each, 0.0)):
            muted = self._muted.get(sentinel, 0.0) > now
            if muted and not thorough and len(states) > len(self._sentinels) // 2:
                break
            try:
                states.append(sentinel.execute_command("SENTINEL MASTER", self._name))
                self._muted.pop(sentinel, None)
                self._answered[sentinel] = now
            except (RedisError, OSError):
                self._muted[sentinel] = now + self.timeout
                # It may be the one that promotes another primary just now.
                if thorough and self._strict and now < self._answered.get(sentinel, -inf) + 10:
                    raise
        return states

    def _move(self, host: str, port: int) -> None:
        former = self._client
        pool = ConnectionPool(**{**self._options, "host": host, "port": port})
        self._client = self._class(connection_pool=pool)
        self._address, self._replicas, self._seen = (host, port), None, None
        if former is not None:
            former.connection_pool.disconnect(inuse_connections=False)


def _names(state: dict[str, Any], primary: dict[str, Any]) -> bool:
    """Whether a Sentinel knows this primary, and reaches it."""
    down = state["is_sdown"] or state["is_odown"] or not state["is_master"]
    return not down and all(state[name] == primary[name] for name in ("ip", "port"))


def _is_changing(state: dict[str, Any]) -> bool:
    return "failover_in_progress" in state["flags"]


class _Cluster(_Asked):
    def __init__(self, cluster: RedisCluster, timeout: float) -> None:
        super().__init__(cluster.get_connection_kwargs().get("socket_timeout") or timeout)
        self._cluster = cluster
        self._doubted: set[Client] = set()

    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        node = self._cluster.get_node_from_key(key)
        client = self._cluster.get_redis_connection(node)
        return None if client in self._doubted and not refreshed else client

    def has(self, client: Client) -> bool:
        return any(node.redis_connection is client for node in self._cluster.get_nodes())

    def doubt(self, client: Client) -> None:
        self._doubted.add(client)

    def redirect(self, error: AskError) -> Client | None:
        address = self._cluster.nodes_manager.remap_host_port(error.host, error.port)
        node = self._cluster.get_node(*address)
        return None if node is None else self._cluster.get_redis_connection(node)

    def _ask(self) -> None:
        self._doubted.clear()
        self._cluster.nodes_manager.initialize()


class _Loop:
    """What an event loop has of its own: a client for each of sync code's."""

    def __init__(self, timeout: float, idle: float, resting: WeakKeyDictionary[Any, float]) -> None:
        self.refreshing = asyncio.Lock()
        self._timeout, self._idle, self._resting = timeout, idle, resting
        self._twins: dict[Client, AsyncRedis] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._shrinking: asyncio.Task[None] | None = None

    def twin(self, client: Client) -> AsyncRedis:
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle, self._begin_to_shrink)
        if client not in self._twins:
            pool: Any = client.connection_pool
            # Tasks wait for a connection: there may be more of them than any limit.
            twins: Any = AsyncConnectionPool(
                max_connections=pool.max_connections,
                timeout=self._timeout,
                **{**_plain(pool.connection_kwargs), "protocol": 2},
                connection_class=_by_name(_ASYNC, pool.connection_class),
            )
            self._twins[client] = AsyncRedis(connection_pool=twins)
        return self._twins[client]

    async def take(self, pool: Any, anew: bool) -> Any:
        connection = await pool.get_connection()
        try:
            if anew or _rested(connection, self._resting) > self._idle:
                await connection.disconnect(nowait=True)
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            await pool.release(connection)
            raise
        return connection

    def _begin_to_shrink(self) -> None:
        self._timer = None
        self._shrinking = self._loop.create_task(self._shrink())

    async def _shrink(self) -> None:
        """Close what a burst left behind."""
        left = False
        for twin in self._twins.values():
            pool: Any = twin.connection_pool
            free = []
            while pool.can_get_connection():
                free.append(pool.get_available_connection())  # the last one released first
                if not free[-1].is_connected:
                    break
            for connection in reversed(free):
                if _rested(connection, self._resting) > self._idle:
                    await connection.disconnect(nowait=True)
                left = left or connection.is_connected
                await pool.release(connection)
        if left and self._timer is None:
            self._timer = self._loop.call_later(self._idle, self._begin_to_shrink)

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._shrinking is not None:
            await self._shrinking
        for twin in self._twins.values():
            await twin.connection_pool.disconnect()


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


# -- an exchange over one connection ---------------------------------------------------------------


def _talk(connection: Any, commands: list[Command], limit: float | None) -> list[Any]:
    connection.send_packed_command(_packed(connection, commands))
    if limit is not None and not connection.can_read(limit):
        raise redis.TimeoutError("The server did not answer on this connection.")
    return [_reply(connection) for _ in commands]


def _packed(connection: Any, commands: list[Command]) -> list[HiddenBytes]:
    if len(commands) == 1:
        packed = connection.pack_command(*commands[0])
    else:
        packed = connection.pack_commands(commands)
    return list(map(HiddenBytes, packed))


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


async def _atalk(connection: Any, commands: list[Command]) -> list[Any]:
    await connection.send_packed_command(_packed(connection, commands))
    return [await _areply(connection) for _ in commands]


async def _areply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


# -- the same through redis-py's client, where somebody watches that -------------------------------


def _is_instrumented(client: Any) -> bool:
    """Whether its `execute_command` is not redis-py's own: a tracer wraps it to see commands."""
    found = type(client).execute_command
    return type(found) is not FunctionType or not found.__code__.co_filename.startswith(_REDIS_PY)


def _exchange_through(client: Any, commands: list[Command]) -> list[Any]:
    if len(commands) == 1:
        try:
            return [client.execute_command(*commands[0])]
        except ResponseError as error:
            return [error]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    replies: list[Any] = pipeline.execute(raise_on_error=False)
    return replies


async def _aexchange_through(client: Any, commands: list[Command]) -> list[Any]:
    if len(commands) == 1:
        try:
            return [await client.execute_command(*commands[0])]
        except ResponseError as error:
            return [error]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


# -- small questions -------------------------------------------------------------------------------


def _rested(connection: Any, since: WeakKeyDictionary[Any, float]) -> float:
    now = time.monotonic()
    return now - since.get(connection, now)


def _key(command: Command) -> Any:
    return command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]


def _by_name(classes: dict[str, Any], wanted: type) -> Any:
    """The counterpart of a class of connections, or of the nearest base that has one."""
    return next((classes[c.__name__] for c in wanted.__mro__ if c.__name__ in classes), wanted)


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


@cache
def _sha(script: str) -> str:
    return sha1(script.encode()).hexdigest()  # noqa: S324  (Redis' own name for a script)


def _text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return Hidden(reply.decode(errors="replace"))  # what was forged does not unseal
    return [_text(each) for each in reply] if isinstance(reply, list) else reply


def _ends_connection(reply: Any) -> bool:
    """Whether the server behind it is no primary any more."""
    return isinstance(reply, ResponseError) and (
        isinstance(reply, ReadOnlyError) or "READONLY" in str(reply)
    )


def _is_outage(error: BaseException) -> bool:
    """A server that cannot answer, and not a mistake in how it is used."""
    if not isinstance(error, (RedisError, RedisClusterException, OSError)):
        return False
    mistake = isinstance(error, (ResponseError, DataError)) and not isinstance(error, _REFUSALS)
    return not mistake or any(word in str(error) for word in _WORDS)


_answers = Answers(_is_outage, "Redis could not answer.")
