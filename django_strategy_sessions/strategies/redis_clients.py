"""How the strategy talks to Redis: clients, connections, timeouts, failovers. Nothing of sessions.

The project configures Redis as a django-redis cache. Commands use connections from redis-py's
pools. Each command is sent once, and only the caller that waits for a reply gets it. The rules are
written once, as steps; sync code and event loops differ only in how they exchange bytes.
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
from inspect import signature
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

# Connection classes by name: the direct counterparts of those that Sentinels manage, and the async
# counterparts of all.
_DIRECT = {
    "SentinelManagedSSLConnection": redis.SSLConnection,
    "SentinelManagedConnection": redis.Connection,
}
_ASYNC = {
    "Connection": async_connections.Connection,
    "SSLConnection": async_connections.SSLConnection,
    "UnixDomainSocketConnection": async_connections.UnixDomainSocketConnection,
}
_SOON = 100  # ms: replicas at a usual distance confirm a write within this time
_ATTEMPTS = 5  # for one command that the nodes of a cluster redirect
_REDIS_PY = str(Path(redis.__file__).parent)

# Errors of a server that cannot serve now; all others are mistakes of the caller. redis-py has
# classes for some of them, and strips the error code; older servers put the code of an error within
# a script in the middle of the message.
_REFUSALS = (AskError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_REFUSAL_CODES = ("BUSY", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "UNKILLABLE")

# A write that changes nothing.
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
    """Sends commands to the servers of one alias in ``CACHES``, from sync code and event loops.

    `execute` is for commands that only read, `write` and `script` for all others. They raise
    `StrategyUnavailable` if no server can answer.

    `timeout`: seconds after which an unanswered command counts as an outage, unless the alias sets
    ``SOCKET_TIMEOUT`` or ``SOCKET_CONNECT_TIMEOUT``. `replicas`: how many replicas must confirm a
    write before it counts as done. `idle`: seconds after which an unused connection is replaced
    before its next use.
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
        self._idle_since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._loops = PerLoop(
            lambda: _Loop(self.timeout, self.idle, self._idle_since), _Loop.aclose
        )

    def execute(self, *command: Any) -> Any:
        with _answers:
            return _decode_reply(run(self, self._read_steps(command)))

    def write(self, *command: Any) -> Any:
        with _answers:
            return _decode_reply(run(self, self._write_steps(command)))

    def script(self, script: str, keys: list[str], *values: Any) -> Any:
        with _answers:
            return _decode_reply(run(self, self._script_steps(script, keys, values)))

    def is_cluster(self) -> bool:
        with _answers:
            return isinstance(self._servers(), _Cluster)

    async def aexecute(self, *command: Any) -> Any:
        with _answers:
            return _decode_reply(await arun(self, self._read_steps(command)))

    async def awrite(self, *command: Any) -> Any:
        with _answers:
            return _decode_reply(await arun(self, self._write_steps(command)))

    async def ascript(self, script: str, keys: list[str], *values: Any) -> Any:
        with _answers:
            return _decode_reply(await arun(self, self._script_steps(script, keys, values)))

    async def ais_cluster(self) -> bool:
        with _answers:
            return isinstance(self._found or await self.a_servers(), _Cluster)

    # -- the rules ---------------------------------------------------------------------------------

    def _read_steps(self, command: Command) -> Steps[Any]:
        _, _, replies = yield from self._send_steps([command], repeatable=True)
        return replies[0]

    def _write_steps(self, command: Command) -> Steps[Any]:
        """Send a write once, and wait in the same round trip until enough replicas have it."""
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
            if (yield from self._find_steps(servers, _find_key(command))) is not client:
                raise StrategyUnavailable("Another server became the primary during a write.")
        if not reply:
            # Nothing was written, and Valkey's WAIT covers only this connection's writes. What
            # the command found, such as the end of a session, may not have reached the replicas.
            yield from self._script_steps(_TOUCH, [_find_key(command)], ())
        return reply

    def _script_steps(self, script: str, keys: list[str], values: Iterable[Any]) -> Steps[Any]:
        given = len(keys), *keys, *values
        try:
            return (yield from self._write_steps(("EVALSHA", _hash_script(script), *given)))
        except NoScriptError:  # the server does not know it yet: it restarted or took over
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
        """Send commands to the server that has the first one's key. If that one fails, raise.

        `repeatable` commands that fail on a pooled connection are sent once more on a new one. Each
        of the two attempts gets half of the timeout.
        """
        servers = self._found or (yield ("_servers",))
        limit = servers.timeout / 2 if repeatable else None
        late = time.monotonic() + servers.timeout * 0.75
        redirected: Client | None = None  # by another node
        asking: list[Command] = []
        anew = False
        for _ in range(_ATTEMPTS):
            client = redirected or (yield from self._find_steps(servers, _find_key(commands[0])))
            try:
                replies = yield "_exchange", servers, client, asking + commands, limit, anew
            except Exception as error:
                if _is_outage(error):
                    servers.doubt(client)
                    if repeatable and not anew and time.monotonic() < late:
                        redirected, asking, anew = None, [], True
                        continue
                raise
            replies = replies[len(asking) :]
            if not isinstance(replies[0], AskError):
                break
            asking = [] if isinstance(replies[0], MovedError) else [("ASKING",)]
            if not asking:
                servers.doubt(client)
            redirected = servers.redirect(replies[0])
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
        async with loop.refreshing:  # otherwise each task would occupy a thread while it waits
            await asyncio.to_thread(servers.refresh)

    def _find_servers(self) -> _Servers:
        for fault, _hint, _id in self._find_faults():
            raise ImproperlyConfigured(fault)
        try:
            client = self._make_client()
        except (RedisError, RedisClusterException, OSError):
            raise
        except Exception as error:
            raise ImproperlyConfigured(
                f"Cannot make a client for the cache {self.alias!r} ({error})."
            ) from error
        if isinstance(client, RedisCluster):
            return _Cluster(client, self.timeout)
        if hasattr(client.connection_pool, "sentinel_manager"):
            return _Sentinels(client, self.timeout, self.replicas)
        return _OneServer(client, self.timeout)

    def _make_client(self) -> Redis | RedisCluster:
        """Make a client of the primary: a replica may not know about a login or logout yet."""
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
        for name in (
            "retry",
            "retry_on_error",
            "retry_on_timeout",
        ):  # _send_steps() decides what to repeat
            given.pop(name, None)
        options["CONNECTION_POOL_KWARGS"] = given
        sentinels = options.get("SENTINELS") or [None]
        options["SENTINEL_KWARGS"] = {
            **{name: value for name, value in given.items() if name.startswith("socket_")},
            # Ask all Sentinels within one timeout. redis-py would ask each of them ten more times.
            "socket_timeout": given["socket_timeout"] and given["socket_timeout"] / len(sentinels),
            "socket_connect_timeout": self.timeout / len(sentinels),
            "retry": Retry(NoBackoff(), 0),
            **(options.get("SENTINEL_KWARGS") or {}),
        }
        backend, location = params.pop("BACKEND"), params.pop("LOCATION", "")
        client = import_string(backend)(location, params).client
        # Use separate pools: the cache's pools may already hold connections with longer timeouts.
        client.connection_factory._pools = {}
        made: Redis | RedisCluster = client.get_client(write=True)
        return made

    # -- connections of sync code ------------------------------------------------------------------

    def _exchange(
        self,
        servers: _Servers,
        client: Client,
        commands: list[Command],
        limit: float | None,
        anew: bool,
    ) -> list[Any]:
        """Send commands to one server in one round trip. Return its replies, including errors."""
        pool = client.connection_pool
        if _is_instrumented(client):
            self._release(
                pool, self._take(pool, anew)
            )  # the client takes this one next, and it is alive
            return _exchange_through(client, commands)
        if anew:
            bounds = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), limit)
            connection = pool.connection_class(**{**pool.connection_kwargs, **bounds})
            try:
                return _exchange_over(connection, commands, limit)
            finally:
                connection.disconnect()
        connection = self._take(pool)
        try:
            replies = _exchange_over(connection, commands, limit)
            if any(map(_ends_connection, replies)) or not servers.has(client):
                connection.disconnect()
            return replies
        except BaseException:
            connection.disconnect()  # A late reply would reach the next caller.
            raise
        finally:
            self._release(pool, connection)

    def _release(self, pool: ConnectionPool, connection: Any) -> None:
        self._idle_since[connection] = time.monotonic()
        pool.release(connection)

    def _take(self, pool: ConnectionPool, anew: bool = False) -> Any:
        """Take a connection from the pool. Reconnect it if it was idle for too long."""
        connection = pool.get_connection()
        try:
            if anew or _idle_seconds(connection, self._idle_since) > self.idle:
                connection.disconnect()
                connection.connect()
        except BaseException:
            pool.release(connection)
            raise
        return connection

    # -- connections of event loops ---------------------------------------------------------------

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
                self._idle_since[connection] = time.monotonic()
                await pool.release(connection)
                return await _aexchange_through(twin, commands)
            try:
                replies = await _aexchange_over(connection, commands)
                if any(map(_ends_connection, replies)) or not servers.has(client):
                    await connection.disconnect(nowait=True)
                return replies
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                self._idle_since[connection] = time.monotonic()
                await pool.release(connection)

    # -- what `manage.py check` can see ------------------------------------------------------------

    def check(self) -> Iterator[CheckMessage]:
        for fault, hint, identifier in self._find_faults():
            yield checks.Error(fault, hint=hint, id=identifier)
            return
        if "cluster" not in self._kind():  # making its client already asks for the nodes
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
        """Name what can fail over; empty for a single server."""
        options = dict(self._settings.get("OPTIONS", {}))
        with suppress(ImportError, ImproperlyConfigured):  # reported when the client is made
            if isinstance(get_connection_factory(options=options), ClusterConnectionFactory):
                return "cluster"
        return "primary that Sentinels watch" if options.get("SENTINELS") else ""

    def _find_faults(self) -> Iterator[tuple[str, str, str]]:
        """Say why this alias cannot keep sessions: a reason, a hint, the id of a check."""
        where = f'CACHES["{self.alias}"]["OPTIONS"]'
        unfit = f"Sessions cannot be kept in the cache {self.alias!r} with"
        options = self._settings.get("OPTIONS", {})
        path = options.get("CLIENT_CLASS", "django_redis.client.DefaultClient")
        fault = _find_class_fault(path, DefaultClient)
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
                if option in _UNFIT_OPTIONS:
                    yield (
                        f"{unfit} {option!r} in {name}: {_UNFIT_OPTIONS[option]}.",
                        f'del {where}["{name}"]["{option}"]',
                        "strategy_sessions.E010",
                    )
        for name, base in _BASES.items():
            if name in options and (fault := _find_class_fault(options[name], base)):
                yield (
                    f"{unfit} the {name} {options[name]!r}: it {fault}.",
                    f'del {where}["{name}"]',
                    "strategy_sessions.E010",
                )


def _find_class_fault(path: str, base: type) -> str:
    """Say what is wrong with a dotted path that should lead to a subclass of `base`."""
    try:
        found = import_string(path)
    except ImportError:
        return "cannot be imported"
    if isinstance(found, type) and issubclass(found, base):
        return ""
    return f"is no subclass of {base.__module__}.{base.__qualname__}"


_UNFIT_OPTIONS = {
    "cache": "loads would be answered from the memory of one process",
    "cache_config": "loads would be answered from the memory of one process",
    "redis_connect_func": "event loops could not call it",
    "single_connection_client": "threads would read each other's replies",
}
_BASES: dict[str, type] = {"CONNECTION_POOL_CLASS": ConnectionPool, "REDIS_CLIENT_CLASS": Redis}


class _Servers(ABC):
    """Knows which server has a key: the only one, the Sentinels' primary, or a cluster node."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    @abstractmethod
    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        """Return the client for a key, without network access. ``None``: refresh first."""

    @abstractmethod
    def has(self, client: Client) -> bool:
        """Return whether this is still the client of one of these servers."""

    @abstractmethod
    def refresh(self) -> None:
        """Ask where the servers are."""

    @abstractmethod
    def doubt(self, client: Client) -> None:
        """Refresh before this client, which failed, is used again."""

    def redirect(self, error: AskError) -> Client | None:
        """Return the server that a redirection names; ``None`` if it is not known yet."""
        raise ImproperlyConfigured(
            "The Redis server is a node of a cluster. Tell django-redis in the cache's OPTIONS:\n"
            '"CONNECTION_FACTORY":'
            ' "django_strategy_sessions.strategies.redis.ClusterConnectionFactory"'
        ) from error

    def waits(self, replicas: int) -> list[Command]:
        """Return the commands that follow a write. The first returns how many replicas have it."""
        return [("WAIT", replicas, int(self.timeout * 800))]

    def is_safe(self, client: Client, answers: list[Any]) -> bool:
        """Return whether these answers rule out that a server without the write became primary."""
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


class _DiscoveredServers(_Servers):
    """Servers whose addresses must be asked for. One thread asks while the others wait."""

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
            if self._begun == begun:  # otherwise another thread has just asked
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


class _Sentinels(_DiscoveredServers):
    """The primary, used only while its Sentinels cannot have promoted another one by themselves.

    The Sentinels are asked again before that time is over, at least twice per `timeout`, and after
    any failure. So a primary that was demoted or cut off is soon abandoned.
    """

    def __init__(self, client: Redis, timeout: float, replicas: int) -> None:
        pool: Any = client.connection_pool
        options = dict(pool.connection_kwargs)
        options.pop("connection_pool")
        super().__init__(options.get("socket_timeout") or timeout)
        self._name, self._sentinels = pool.service_name, pool.sentinel_manager.sentinels
        # If nothing may be lost, do not trust a minority of Sentinels that may be cut off.
        self._enough = len(self._sentinels) // 2 + 1 if replicas else 1
        options["connection_class"] = _find_counterpart(_DIRECT, pool.connection_class)
        options["max_connections"] = pool.max_connections
        self._class, self._options = type(client), options
        self._client: Client | None = None
        self._address: tuple[str, int] | None = None
        self._ends = 0.0
        self._doubted = True
        self._strict = replicas > 0
        self._answered: dict[Redis, float] = {}  # when each last answered
        self._muted: dict[Redis, float] = {}  # those that failed, and until when to skip them
        self._replicas: set[Any] | None = None  # of this primary when the Sentinels last agreed
        self._seen: set[Any] | None = None  # replicas seen since then

    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        valid = refreshed or (time.monotonic() < self._ends and not self._doubted)
        return self._client if valid else None

    def has(self, client: Client) -> bool:
        return client is self._client

    def doubt(self, client: Client) -> None:
        if client is self._client:
            self._doubted = True

    def waits(self, replicas: int) -> list[Command]:
        # A manual failover promotes a replica while this primary still serves. So either all
        # replicas confirm, or we ask the Sentinels.
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
        self._seen = present  # other threads rely on it only once the Sentinels agree
        return False

    def _ask(self) -> None:
        asked = time.monotonic()
        thorough, self._doubted = self._doubted, False
        seen, self._seen = self._seen, None
        try:
            states = self._ask_sentinels(thorough)
            newest = max(states, key=lambda state: state["config-epoch"], default={})
            agreeing = [state for state in states if _agrees_on(state, newest)]
            if len(agreeing) < self._enough or any(map(_is_changing, states)):
                raise redis.ConnectionError("The Sentinels do not agree on a primary.")
        except BaseException:
            self._doubted, self._seen = True, seen
            raise
        if seen is not None:
            self._replicas = seen
        if (address := (newest["ip"], newest["port"])) != self._address:
            self._move(*address)
        # They promote a replica after the primary has not answered them for this long.
        patience = min(s["down-after-milliseconds"] - s["last-ok-ping-reply"] for s in states)
        self._ends = asked + min(self.timeout / 2, patience / 1000)

    def _ask_sentinels(self, thorough: bool) -> list[dict[str, Any]]:
        """Ask all of them, since only one may know yet, but mostly skip those that failed."""
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
                # This one may be promoting another primary right now.
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


def _agrees_on(state: dict[str, Any], primary: dict[str, Any]) -> bool:
    """Return whether a Sentinel names this primary and reaches it."""
    down = state["is_sdown"] or state["is_odown"] or not state["is_master"]
    return not down and all(state[name] == primary[name] for name in ("ip", "port"))


def _is_changing(state: dict[str, Any]) -> bool:
    return "failover_in_progress" in state["flags"]


class _Cluster(_DiscoveredServers):
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
    """The clients of one event loop: an async twin for each sync client."""

    def __init__(self, timeout: float, idle: float, resting: WeakKeyDictionary[Any, float]) -> None:
        self.refreshing = asyncio.Lock()
        self._timeout, self._idle, self._idle_since = timeout, idle, resting
        self._twins: dict[Client, AsyncRedis] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._shrinking: asyncio.Task[None] | None = None

    def twin(self, client: Client) -> AsyncRedis:
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle, self._begin_to_shrink)
        if client not in self._twins:
            pool: Any = client.connection_pool
            # Tasks wait for a connection, because there may be more tasks than any limit allows.
            twins: Any = AsyncConnectionPool(
                max_connections=pool.max_connections,
                timeout=self._timeout,
                **{**_shared_options(pool.connection_kwargs), "protocol": 2},
                connection_class=_find_counterpart(_ASYNC, pool.connection_class),
            )
            self._twins[client] = AsyncRedis(connection_pool=twins)
        return self._twins[client]

    async def take(self, pool: Any, anew: bool) -> Any:
        connection = await pool.get_connection()
        try:
            if anew or _idle_seconds(connection, self._idle_since) > self._idle:
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
        """Close connections that a burst of requests left idle."""
        left = False
        for twin in self._twins.values():
            pool: Any = twin.connection_pool
            free = []
            while pool.can_get_connection():
                free.append(pool.get_available_connection())  # the last one released first
                if not free[-1].is_connected:
                    break
            for connection in reversed(free):
                if _idle_seconds(connection, self._idle_since) > self._idle:
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
    """Connects django-redis to a Redis Cluster: set it as ``CONNECTION_FACTORY`` in ``OPTIONS``.

    ``LOCATION`` is the URL of any node.
    """

    _pools: ClassVar[dict[str, RedisCluster]] = {}

    def connect(self, url: str) -> RedisCluster:
        if url not in self._pools:
            # Do not resend a write whose answer got lost. By default, redis-py would.
            options = {"retry": Retry(NoBackoff(), 0), **self.make_connection_params(url)}
            del options["parser_class"]
            options.update(self.pool_cls_kwargs, **self.redis_client_cls_kwargs)
            self._pools[url] = RedisCluster(**options)
        return self._pools[url]

    def disconnect(self, connection: RedisCluster) -> None:
        connection.disconnect_connection_pools()  # close() would be permanent


# -- an exchange over one connection ---------------------------------------------------------------


def _exchange_over(connection: Any, commands: list[Command], limit: float | None) -> list[Any]:
    connection.send_packed_command(_pack(connection, commands))
    if limit is None:
        return [_read_reply(connection) for _ in commands]
    if _has_bounded_reads(connection.__class__):  # saves two calls of poll()
        return [_read_reply(connection, timeout=limit) for _ in commands]
    if not connection.can_read(limit):
        raise redis.TimeoutError("The server did not answer on this connection.")
    return [_read_reply(connection) for _ in commands]


@cache
def _has_bounded_reads(connection_class: Any) -> bool:
    """Whether `read_response` takes a time-out, as since redis-py 8."""
    return "timeout" in signature(connection_class.read_response).parameters


def _pack(connection: Any, commands: list[Command]) -> list[HiddenBytes]:
    if len(commands) == 1:
        packed = connection.pack_command(*commands[0])
    else:
        packed = connection.pack_commands(commands)
    return list(map(HiddenBytes, packed))


def _read_reply(connection: Any, **options: Any) -> Any:
    try:
        return connection.read_response(**options)
    except ResponseError as error:
        return error


async def _aexchange_over(connection: Any, commands: list[Command]) -> list[Any]:
    await connection.send_packed_command(_pack(connection, commands))
    return [await _aread_reply(connection) for _ in commands]


async def _aread_reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


# -- an exchange through redis-py's client, if a tracer wraps it -----------------------------------


def _is_instrumented(client: Any) -> bool:
    """Return whether a tracer wraps this client's `execute_command` to see commands."""
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


# -- helpers ---------------------------------------------------------------------------------------


def _idle_seconds(connection: Any, since: WeakKeyDictionary[Any, float]) -> float:
    now = time.monotonic()
    return now - since.get(connection, now)


def _find_key(command: Command) -> Any:
    return command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]


def _find_counterpart(classes: dict[str, Any], wanted: type) -> Any:
    """Return the counterpart of a connection class, or of its nearest base that has one."""
    return next((classes[c.__name__] for c in wanted.__mro__ if c.__name__ in classes), wanted)


def _shared_options(options: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that sync and async clients share, without parsers and handlers."""
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
def _hash_script(script: str) -> str:
    return sha1(script.encode()).hexdigest()  # noqa: S324  (what Redis names a script by)


def _decode_reply(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return Hidden(reply.decode(errors="replace"))  # a forged record does not unseal anyway
    return [_decode_reply(each) for each in reply] if isinstance(reply, list) else reply


def _ends_connection(reply: Any) -> bool:
    """Return whether the server of this connection is no longer a primary."""
    return isinstance(reply, ResponseError) and (
        isinstance(reply, ReadOnlyError) or "READONLY" in str(reply)
    )


def _is_outage(error: BaseException) -> bool:
    """Return whether the server cannot answer, as opposed to being used wrongly."""
    if not isinstance(error, (RedisError, RedisClusterException, OSError)):
        return False
    mistake = isinstance(error, (ResponseError, DataError)) and not isinstance(error, _REFUSALS)
    return not mistake or any(word in str(error) for word in _REFUSAL_CODES)


_answers = Answers(_is_outage, "Redis could not answer.")
