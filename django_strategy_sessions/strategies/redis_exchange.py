"""One exchange with a Redis server: send commands, read the replies, classify the errors."""

from __future__ import annotations

import re
from functools import cache
from inspect import signature
from pathlib import Path
from types import FunctionType
from typing import Any

import redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    DataError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..hidden import HiddenBytes

Command = tuple[Any, ...]

IDENTIFY: Command = ("INFO", "server")  # asks which process of a server this is

_REDIS_PY = str(Path(redis.__file__).parent)

# Errors of a server that cannot serve now; all others are mistakes of the caller. redis-py has
# classes for some of them, and strips the error code; older servers put the code of an error within
# a script in the middle of the message.
_REFUSALS = (AskError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_REFUSAL_CODES = ("BUSY", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "UNKILLABLE")


# -- an exchange over one connection ---------------------------------------------------------------


def exchange_over(connection: Any, commands: list[Command], limit: float | None) -> list[Any]:
    connection.send_packed_command(_pack(connection, commands))
    options = {}
    if limit is not None and _has_bounded_reads(connection.__class__):
        options["timeout"] = limit  # saves two calls of poll()
    elif limit is not None and not connection.can_read(limit):
        raise redis.TimeoutError("The server did not answer on this connection.")
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response(**options))
        except ResponseError as error:
            replies.append(error)
    return replies


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


async def aexchange_over(connection: Any, commands: list[Command]) -> list[Any]:
    await connection.send_packed_command(_pack(connection, commands))
    return [await _aread_reply(connection) for _ in commands]


async def _aread_reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


# -- an exchange through redis-py's client, if a tracer wraps it -----------------------------------


def is_instrumented(client: Any) -> bool:
    """Return whether a tracer wraps this client's `execute_command` to see commands."""
    found = type(client).execute_command
    return type(found) is not FunctionType or not found.__code__.co_filename.startswith(_REDIS_PY)


def exchange_through(client: Any, commands: list[Command]) -> list[Any]:
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


async def aexchange_through(client: Any, commands: list[Command]) -> list[Any]:
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


# -- what a reply or an error means ----------------------------------------------------------------


def find_process(reply: Any) -> str | None:
    """Return the process's name in a reply to `IDENTIFY`, which may be that name already."""
    if isinstance(reply, dict):  # redis-py's client has read it
        reply = reply.get("run_id")
    if isinstance(reply, bytes):
        found = re.search(rb"run_id:(\w+)", reply)
        return found[1].decode() if found else None
    return reply if isinstance(reply, str) else None


def ends_connection(reply: Any) -> bool:
    """Return whether the server of this connection is no longer a primary."""
    return isinstance(reply, ResponseError) and (
        isinstance(reply, ReadOnlyError) or "READONLY" in str(reply)
    )


def is_outage(error: BaseException) -> bool:
    """Return whether the server cannot answer, as opposed to being used wrongly."""
    if not isinstance(error, (RedisError, RedisClusterException, OSError)):
        return False
    mistake = isinstance(error, (ResponseError, DataError)) and not isinstance(error, _REFUSALS)
    return not mistake or any(word in str(error) for word in _REFUSAL_CODES)
