"""How the strategy talks to Redis: clients, connections, timeouts, failovers. Nothing of sessions.

The project configures Redis as a django-redis cache. Commands use connections from redis-py's
pools. Each command is sent once, and only the caller that waits for a reply gets it. The rules are
written once, as steps; sync code and event loops differ only in how they exchange bytes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django_redis.cache import RedisCache
from django_redis.client import DefaultClient, ShardClient
from django_redis.pool import ConnectionFactory, get_connection_factory
from redis import ConnectionPool, Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
)
from redis.retry import Retry

from ..hidden import Hidden
from ..steps import Steps, arun, run
from .base import Answers, StrategyUnavailable
from .loops import PerLoop
from .redis_connections import Connections, LoopClients
from .redis_exchange import (
    IDENTIFY,
    Command,
    aexchange_over,
    aexchange_through,
    ends_connection,
    exchange_over,
    exchange_through,
    find_process,
    is_instrumented,
    is_outage,
)
from .redis_servers import Client, Cluster, OneServer, Sentinels, Servers

if TYPE_CHECKING:  # django-redis has no types

    class _ConnectionFactory:
        pool_cls_kwargs: dict[str, Any]
        redis_client_cls_kwargs: dict[str, Any]

        def make_connection_params(self, url: str) -> dict[str, Any]: ...

else:
    _ConnectionFactory = ConnectionFactory

OWN_DATABASE = """\
CACHES["sessions"] = {
    "BACKEND": "django_redis.cache.RedisCache",
    "LOCATION": "redis://127.0.0.1:6379/1",  # a database of its own
}
SESSION_STRATEGY = {
    "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",
    "OPTIONS": {"alias": "sessions"},
}"""
_ATTEMPTS = 5  # for one command that the nodes of a cluster redirect
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
    `StrategyUnavailable` if no server can answer. Each is also there as steps to run on a client.

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
        self._found: Servers | None = None
        self._lock = threading.Lock()
        self._connections: WeakKeyDictionary[Client, Connections] = WeakKeyDictionary()
        self._loops = PerLoop(lambda: LoopClients(self.timeout, self.idle), LoopClients.aclose)

    def execute(self, *command: Any) -> Any:
        return run(self, self.execute_steps(*command))

    def identify(self, *command: Any) -> tuple[Any, str | None]:
        """`execute`, and return also which process of a server has replied, by its ``run_id``."""
        answer: tuple[Any, str | None] = run(self, self._identify_steps(command))
        return answer

    def write(self, *command: Any) -> Any:
        return run(self, self.write_steps(*command))

    def script(self, script: str, keys: list[str], *values: Any) -> Any:
        return run(self, self.script_steps(script, keys, *values))

    def repeatable_script(self, script: str, keys: list[str], *values: Any) -> Any:
        """Run a script that may run twice, so it need not be the connection's first command."""
        return run(self, self.execute_steps(*_call_script(script, keys, values)))

    def find_timeout(self) -> float:
        """Return the seconds after which a command has failed."""
        with _answers:
            return self._servers().timeout

    def is_cluster(self) -> bool:
        with _answers:
            return isinstance(self._servers(), Cluster)

    def primaries(self) -> list[Client]:
        """Return a client of each server that has sessions."""
        with _answers:
            return self._servers().primaries()

    def ask(self, client: Client, *commands: Command) -> list[Any]:
        """Ask one server, over a new connection. A reply may be an error, such as a refusal."""
        with _answers:
            limit = self._servers().timeout
            return list(map(_decode_reply, _exchange_anew(client, list(commands), limit)))

    async def aexecute(self, *command: Any) -> Any:
        return await arun(self, self.execute_steps(*command))

    async def aidentify(self, *command: Any) -> tuple[Any, str | None]:
        answer: tuple[Any, str | None] = await arun(self, self._identify_steps(command))
        return answer

    async def awrite(self, *command: Any) -> Any:
        return await arun(self, self.write_steps(*command))

    async def ascript(self, script: str, keys: list[str], *values: Any) -> Any:
        return await arun(self, self.script_steps(script, keys, *values))

    async def arepeatable_script(self, script: str, keys: list[str], *values: Any) -> Any:
        return await arun(self, self.execute_steps(*_call_script(script, keys, values)))

    async def ais_cluster(self) -> bool:
        with _answers:
            return isinstance(self._found or await self.a_servers(), Cluster)

    # -- the rules ---------------------------------------------------------------------------------

    def execute_steps(self, *command: Any) -> Steps[Any]:
        return self._send_steps(command, repeatable=True)

    def _identify_steps(self, command: Command) -> Steps[Any]:
        return self._send_steps(command, repeatable=True, identifies=True)

    def write_steps(self, *command: Any) -> Steps[Any]:
        return self._send_steps(command)

    def script_steps(self, script: str, keys: list[str], *values: Any) -> Steps[Any]:
        return self.write_steps(*_call_script(script, keys, values))

    def _send_steps(
        self, command: Command, repeatable: bool = False, identifies: bool = False
    ) -> Steps[Any]:
        """Send a command to the server that has its key. If that one fails, raise.

        A `repeatable` command that fails on a pooled connection is sent once more on a new one.
        Each of the two attempts gets half of the timeout. Any other is a write: it is sent once,
        and waits in the same round trip until enough replicas have it.
        """
        with _answers:
            servers = self._found or (yield ("_servers",))
            waits = servers.waits(self.replicas) if self.replicas and not repeatable else []
            others = [IDENTIFY] if identifies else waits
            limit = servers.timeout / 2 if repeatable else None
            late = time.monotonic() + servers.timeout * 0.75
            key = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
            redirected: Client | None = None  # by another node
            asking: list[Command] = []
            anew = False
            for _ in range(_ATTEMPTS):
                client = (
                    redirected or servers.find(key) or (yield from self._find_anew(servers, key))
                )
                commands = [*asking, command, *others]
                try:
                    replies = yield "_exchange", servers, client, commands, limit, anew
                except Exception as error:
                    if is_outage(error):
                        servers.doubt(client)
                        if repeatable and not anew and time.monotonic() < late:
                            redirected, asking, anew = None, [], True
                            continue
                    raise
                reply, *answers = replies[len(asking) :]
                if isinstance(reply, NoScriptError):  # the server restarted or took over
                    _, digest, *given = command
                    command = "EVAL", _scripts[digest], *given
                    continue
                if not isinstance(reply, AskError):
                    break
                asking = [] if isinstance(reply, MovedError) else [("ASKING",)]
                if not asking:
                    servers.doubt(client)
                redirected = servers.redirect(reply)
            if isinstance(reply, Exception):
                if is_outage(reply):
                    servers.doubt(client)
                raise reply
            if waits:
                yield from self._confirm_steps(servers, client, key, reply, answers)
            decoded = _decode_reply(reply)
            return (decoded, find_process(answers[0])) if identifies else decoded

    def _confirm_steps(
        self, servers: Servers, client: Client, key: Any, reply: Any, answers: list[Any]
    ) -> Steps[None]:
        """Raise, unless `answers` to a write's waits say that enough replicas have it."""
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        if answers[0] < self.replicas:
            servers.doubt(client)
            raise StrategyUnavailable("Too few replicas confirmed a write in time.")
        if not servers.is_safe(client, answers):
            servers.doubt(client)
            if (servers.find(key) or (yield from self._find_anew(servers, key))) is not client:
                raise StrategyUnavailable("Another server became the primary during a write.")
        if not reply:
            # Nothing was written, and Valkey's WAIT covers only this connection's writes. What
            # the command found, such as the end of a session, may not have reached the replicas.
            yield from self.script_steps(_TOUCH, [key])

    def _find_anew(self, servers: Servers, key: Any) -> Steps[Client]:
        yield "_refresh", servers
        client = servers.find(key, refreshed=True)
        assert client is not None  # noqa: S101
        return client

    # -- where the servers are ---------------------------------------------------------------------

    def _servers(self) -> Servers:
        with self._lock:
            found = self._found = self._found or self._find_servers()
            return found

    async def a_servers(self) -> Servers:
        found: Servers = await asyncio.to_thread(self._servers)
        return found

    def _refresh(self, servers: Servers) -> None:
        servers.refresh()

    async def a_refresh(self, servers: Servers) -> None:
        loop = await self._loops.get()
        async with loop.refreshing:  # otherwise each task would occupy a thread while it waits
            await asyncio.to_thread(servers.refresh)

    def _find_servers(self) -> Servers:
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
            return Cluster(client, self.timeout)
        if hasattr(client.connection_pool, "sentinel_manager"):
            return Sentinels(client, self.timeout, self.replicas)
        return OneServer(client, self.timeout)

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
        servers: Servers,
        client: Client,
        commands: list[Command],
        limit: float | None,
        anew: bool,
    ) -> list[Any]:
        """Send commands to one server in one round trip. Return its replies, including errors."""
        connections = self._connections.get(client) or self._add_connections(client)
        if is_instrumented(client):
            connections.offer(anew)
            return exchange_through(client, commands)
        if anew:
            return _exchange_anew(client, commands, limit)
        line, usable = connections.take(repeatable=limit is not None), False
        try:
            replies = exchange_over(line.connection, line.leave_out_known(commands), limit)
            line.learn(commands, replies)
            usable = servers.has(client) and not any(map(ends_connection, replies))
            return replies
        finally:
            connections.give_back(line, usable)

    def _add_connections(self, client: Client) -> Connections:
        made = Connections(client.connection_pool, self.idle)
        return self._connections.setdefault(client, made)

    # -- connections of event loops ---------------------------------------------------------------

    async def a_exchange(
        self,
        servers: Servers,
        client: Client,
        commands: list[Command],
        limit: float | None,
        anew: bool,
    ) -> list[Any]:
        loop = await self._loops.get()
        twin = loop.twin(client)
        pool: Any = twin.connection_pool
        async with asyncio.timeout(limit):
            line = await loop.take(pool, anew)
            if is_instrumented(twin):
                await loop.give_back(pool, line, usable=True)
                return await aexchange_through(twin, commands)
            usable = False
            try:
                replies = await aexchange_over(line.connection, line.leave_out_known(commands))
                line.learn(commands, replies)
                usable = servers.has(client) and not any(map(ends_connection, replies))
                return replies
            finally:
                await loop.give_back(pool, line, usable)

    # -- what `manage.py check` can see ------------------------------------------------------------

    def check(self) -> Iterator[CheckMessage]:
        for fault, hint, identifier in self._find_faults():
            yield checks.Error(fault, hint=hint, id=identifier)
            return
        if "cluster" not in self.kind():  # making its client already asks for the nodes
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
        if self.kind() and not self.replicas:
            yield checks.Warning(
                f"A failover of the {self.kind()} can lose logins, logouts and changes that were"
                " answered with success.",
                hint="SESSION_STRATEGY = {\n"
                '    "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",\n'
                f'    "OPTIONS": {{"alias": "{self.alias}", "replicas": 1}},\n'
                "}",
                id="strategy_sessions.W005",
            )
        yield from self.check_shared()

    def check_shared(self) -> Iterator[CheckMessage]:
        ours = _identify_database(self._settings.get("LOCATION"))
        for alias, given in settings.CACHES.items():
            same = _identify_database(given.get("LOCATION")) == ours
            if same and (alias != self.alias or alias == "default"):
                yield checks.Warning(
                    f"The cache {alias!r} is in the sessions' Redis database: its clear() would"
                    " log everybody out.",
                    hint=OWN_DATABASE,
                    id="strategy_sessions.W004",
                )

    def kind(self) -> str:
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


# -- helpers ---------------------------------------------------------------------------------------


def _exchange_anew(client: Client, commands: list[Command], limit: float | None) -> list[Any]:
    pool = client.connection_pool
    bounds = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), limit)
    connection = pool.connection_class(**{**pool.connection_kwargs, **bounds})
    try:
        return exchange_over(connection, commands, limit)
    finally:
        connection.disconnect()


def _identify_database(location: Any) -> Any:
    """Return what is the same for two LOCATIONs of one database."""
    several = isinstance(location, (list, tuple))
    first = location[0] if several and location else str(location).split(",")[0]
    try:
        url = parse_url(first)
    except ValueError:
        return location
    host = url.get("host", "localhost")
    host = "localhost" if host in {"127.0.0.1", "::1"} else host
    return url.get("path") or (host, url.get("port", 6379)), url.get("db", 0)


_scripts: dict[str, str] = {}  # by their hashes


@cache
def _hash_script(script: str) -> str:
    digest = sha1(script.encode()).hexdigest()  # noqa: S324  (what Redis names a script by)
    _scripts[digest] = script
    return digest


def _call_script(script: str, keys: list[str], values: Iterable[Any]) -> Command:
    return "EVALSHA", _hash_script(script), len(keys), *keys, *values


def _decode_reply(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return Hidden(reply.decode(errors="replace"))  # a forged record does not unseal anyway
    return [_decode_reply(each) for each in reply] if isinstance(reply, list) else reply


_answers = Answers(is_outage, "Redis could not answer.")
