"""Connections to one Redis server: of sync code, and of each event loop."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from redis import ConnectionPool
from redis.asyncio import BlockingConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import connection as async_connections
from redis.exceptions import RedisError

from .redis_exchange import IDENTIFY, Command, find_process
from .redis_servers import Client, find_counterpart

# The async counterparts of connection classes, by name.
_ASYNC = {
    "Connection": async_connections.Connection,
    "SSLConnection": async_connections.SSLConnection,
    "UnixDomainSocketConnection": async_connections.UnixDomainSocketConnection,
}

# Seconds for which a server's process is known. A proxy that keeps our connection may meanwhile
# lead to another one, of which no copy would ever count.
_KNOWN_FOR = 10.0


class Line:
    """A connection, and what is known of it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.idle_since: float | None = None
        self._process: str | None = None  # of the server, which ends with the connection
        self._known_until: float = 0.0
        connection.register_connect_callback(self._forget)

    def _forget(self, connection: Any) -> None:
        self._process = None

    def was_idle(self, seconds: float) -> bool:
        """Whether it was idle for longer, so that something in between may have forgotten it."""
        return self.idle_since is not None and time.monotonic() - self.idle_since > seconds

    def leave_out_known(self, commands: list[Command]) -> list[Command]:
        """Return the commands to send: without `IDENTIFY`, the last, if the reply is known."""
        if commands[-1] is IDENTIFY and self._process and time.monotonic() < self._known_until:
            return commands[:-1]
        return commands

    def learn(self, commands: list[Command], replies: list[Any]) -> None:
        """Take note of the reply to `IDENTIFY`, or add it to `replies` if it was left out."""
        if commands[-1] is not IDENTIFY:
            return
        if len(replies) == len(commands):
            self._process = find_process(replies[-1])
            self._known_until = time.monotonic() + _KNOWN_FOR
        else:  # it is no longer known if the connection had to connect again
            replies.append(self._process)


class Connections:
    """Takes connections from the pool of a client, and keeps them from one command to the next.

    To redis-py's pool, lending a connection is more work than a command is: it locks, counts, and
    notifies. It gets each connection back only where it has to, because threads wait for one or
    passwords are renewed.
    """

    def __init__(self, pool: ConnectionPool, idle: float) -> None:
        self._pool, self._idle = pool, idle
        self._keeps = (
            type(pool) is ConnectionPool and "credential_provider" not in pool.connection_kwargs
        )
        self._kept: dict[int, list[Line]] = {}  # by process: a forked one leaves its parent's alone
        self._lines: dict[Any, Line] = {}

    def take(self, anew: bool = False, repeatable: bool = False) -> Line:
        """Take a connection. Reconnect it if it was idle for too long, or if it is dead.

        A command that is `repeatable` finds out by itself whether it is dead.
        """
        try:
            line = self._kept.setdefault(os.getpid(), []).pop()
        except IndexError:
            line = _find_line(self._lines, self._pool.get_connection())
        connection = line.connection
        try:
            if anew or line.was_idle(self._idle) or not (repeatable or _is_alive(connection)):
                connection.disconnect()
                connection.connect()
        except BaseException:
            self._pool.release(connection)
            raise
        return line

    def give_back(self, line: Line, usable: bool) -> None:
        if not usable:  # A late reply would reach the next caller.
            line.connection.disconnect()
        line.idle_since = time.monotonic()
        if usable and self._keeps:
            self._kept[os.getpid()].append(line)
        else:
            self._pool.release(line.connection)

    def offer(self, anew: bool) -> None:
        """Give the pool a connection that is alive: its client takes this one next."""
        line = self.take(anew)
        line.idle_since = time.monotonic()
        self._pool.release(line.connection)


class LoopClients:
    """The clients of one event loop: an async twin for each sync client."""

    def __init__(self, timeout: float, idle: float) -> None:
        self.refreshing: asyncio.Lock = asyncio.Lock()
        self._timeout, self._idle = timeout, idle
        self._lines: dict[Any, Line] = {}
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
                connection_class=find_counterpart(_ASYNC, pool.connection_class),
            )
            self._twins[client] = AsyncRedis(connection_pool=twins)
        return self._twins[client]

    async def take(self, pool: Any, anew: bool) -> Line:
        line = _find_line(self._lines, await pool.get_connection())
        try:
            if anew or line.was_idle(self._idle):
                await line.connection.disconnect(nowait=True)
                await line.connection.connect()
        except BaseException:
            await self.give_back(pool, line, usable=False)
            raise
        return line

    async def give_back(self, pool: Any, line: Line, usable: bool) -> None:
        if not usable:  # A late reply would reach the next caller.
            await line.connection.disconnect(nowait=True)
        line.idle_since = time.monotonic()
        await pool.release(line.connection)

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
                if _find_line(self._lines, connection).was_idle(self._idle):
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


def _find_line(lines: dict[Any, Line], connection: Any) -> Line:
    line = lines.get(connection)
    if line is None:
        line = lines[connection] = Line(connection)
    return line


def _is_alive(connection: Any) -> bool:
    try:
        return not (connection.can_read() or connection.should_reconnect())
    except (RedisError, OSError):
        return False


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
