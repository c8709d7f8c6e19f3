"""What will hurt in Redis or Valkey: one round trip to each primary."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Error
from redis import SSLConnection
from redis.exceptions import NoPermissionError

from .health import cannot_see, check_clock, check_lag, lags
from .redis_clients import OWN_DATABASE, RedisClients

_OLDEST = (6, 2)
_FULL = 0.9  # of maxmemory
_MOST_OF_MACHINE = 0.8
_SAMPLE = 1000  # keys

_TIME = ("TIME",)
_INFO = ("INFO",)
_SAVE = ("CONFIG", "GET", "save")
_SCAN = ("SCAN", 0, "COUNT", _SAMPLE)
# For each command: what it shows, and the permission that it needs.
_SHOWS = {
    _TIME: ("the clock", "+time"),
    _INFO: ("the version, memory, persistence and replicas", "+info"),
    _SAVE: ("the snapshots", "+config|get"),
    _SCAN: ("the other keys", "+scan"),
}

Info = dict[str, str]
# Servers that only resemble Redis leave out some of these. What they do not tell is no finding.
_UNTOLD = {
    "redis_version": "7.0.0",
    "maxmemory_policy": "noeviction",
    "evicted_keys": "0",
    "used_memory": "0",
    "maxmemory": "0",
    "total_system_memory": "0",
    "aof_enabled": "1",
    "connected_slaves": "0",
    "master_repl_offset": "0",
}


def examine(clients: RedisClients, prefix: str) -> Iterator[CheckMessage]:
    for client in clients.primaries():
        store, cli = _name(client.connection_pool)
        asked = time.time()
        replies = dict(zip(_SHOWS, clients.ask(client, *_SHOWS), strict=True))
        answered = time.time()
        known = {
            command: reply for command, reply in replies.items() if not isinstance(reply, Exception)
        }
        if _TIME in known:
            seconds, microseconds = map(int, known[_TIME])
            yield from check_clock(store, asked, seconds + microseconds / 1e6, answered)
        if _INFO in known:
            info = _parse(known[_INFO])
            yield from _check_version(store, info)
            yield from _check_eviction(store, cli, info)
            yield from _check_memory(store, cli, info)
            yield from _check_persistence(store, cli, info, known.get(_SAVE))
            yield from _check_replicas(store, cli, info, clients.replicas)
            if info["aof_enabled"] == "1":
                replies[_SAVE] = None  # it makes no difference
        if _SCAN in known and not any(clients.check_shared()):
            yield from _check_other_keys(store, prefix, known[_SCAN])
        user = client.connection_pool.connection_kwargs.get("username") or "default"
        yield from _list_refused(store, cli, user, replies)


def _name(pool: Any) -> tuple[str, str]:
    """Return how messages name a server, and how its redis-cli begins."""
    options = pool.connection_kwargs
    if path := options.get("path"):
        return f"Redis at {path}", f"redis-cli -s {shlex.quote(path)}"
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    tls = " --tls" if issubclass(pool.connection_class, SSLConnection) else ""
    return f"Redis at {host}:{port}", f"redis-cli -h {shlex.quote(host)} -p {port}{tls}"


def _parse(reply: str) -> Info:
    lines = (line.partition(":") for line in reply.splitlines() if ":" in line)
    return {**_UNTOLD, **{name: value for name, _, value in lines}}


def _check_version(store: str, info: Info) -> Iterator[CheckMessage]:
    version = info["redis_version"]
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        yield checks.Warning(
            f"{store} has version {version}, and RedisStrategy needs 6.2.",
            hint="apt install valkey-server  # or a newer Redis, on the server",
            id="strategy_sessions.W030",
        )


def _check_eviction(store: str, cli: str, info: Info) -> Iterator[CheckMessage]:
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        evicted = int(info["evicted_keys"])
        already = f", and has evicted {evicted:,} keys since it started" if evicted else ""
        yield checks.Warning(
            f"{store} evicts sessions when it is full (maxmemory-policy {policy}){already}:"
            " visitors are logged out.",
            hint=f"{cli} CONFIG SET maxmemory-policy noeviction\n{cli} CONFIG REWRITE",
            id="strategy_sessions.W031",
        )


def _check_memory(store: str, cli: str, info: Info) -> Iterator[CheckMessage]:
    used, most = int(info["used_memory"]), int(info["maxmemory"])
    machine = int(info["total_system_memory"])
    if most:
        # A server that evicts is always full, and there is another warning about it.
        if used > most * _FULL and info["maxmemory_policy"] == "noeviction":
            yield checks.Warning(
                f"{store} is {used / most:.0%} full: at 100% no session can be saved.",
                hint=f"{cli} CONFIG SET maxmemory {most * 2}  # if the machine has as much",
                id="strategy_sessions.W032",
            )
    elif machine and used > machine * _MOST_OF_MACHINE:
        yield checks.Warning(
            f"{store} uses {used / machine:.0%} of its machine's memory and has no maxmemory: the"
            " system will kill it.",
            hint=f"{cli} CONFIG SET maxmemory {int(machine * 0.9)}  # and give it more memory",
            id="strategy_sessions.W032",
        )


def _check_persistence(store: str, cli: str, info: Info, save: Any) -> Iterator[CheckMessage]:
    if info["aof_enabled"] == "0" and save is not None and save[1:] == [""]:
        yield checks.Warning(
            f"{store} keeps sessions in memory only: a restart logs everybody out.",
            hint=f"{cli} CONFIG SET appendonly yes\n{cli} CONFIG REWRITE",
            id="strategy_sessions.W033",
        )
    for name in ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"):
        if info.get(name, "ok") != "ok":
            yield Error(
                f"{store} failed to write to its disk ({name} is {info[name]!r}): it refuses to"
                " save sessions, or a restart loses them.",
                hint=f"{cli} INFO persistence  # its log has the reason, such as a full disk",
                id="strategy_sessions.E022",
            )


def _check_replicas(store: str, cli: str, info: Info, needed: int) -> Iterator[CheckMessage]:
    hint = f"{cli} INFO replication"
    online = 0
    for number in range(int(info["connected_slaves"])):
        replica = dict(each.split("=", 1) for each in info[f"slave{number}"].split(","))
        size = int(info["master_repl_offset"]) - int(replica["offset"])
        if replica["state"] != "online":
            behind = [lags(store, "is still synchronizing", hint)]
        else:
            behind = [*check_lag(store, int(replica["lag"]), size, hint)]
        yield from behind
        online += not behind
    if online < needed:
        yield Error(
            f"{store} has {online} replicas that keep up, and each write waits for {needed}:"
            " nobody can log in or out.",
            hint=f"{hint}  # start the others again",
            id="strategy_sessions.E023",
        )


def _check_other_keys(store: str, prefix: str, reply: Any) -> Iterator[CheckMessage]:
    if not all(key.startswith(prefix) for key in reply[1]):
        yield checks.Warning(
            f"The sessions' database in {store} also holds keys that do not begin with {prefix!r}:"
            " a FLUSHDB, such as the clear() of a cache, would log everybody out.",
            hint=OWN_DATABASE,
            id="strategy_sessions.W034",
        )


def _list_refused(
    store: str, cli: str, user: str, replies: dict[tuple[Any, ...], Any]
) -> Iterator[CheckMessage]:
    refused = {
        _SHOWS[command]: reply for command, reply in replies.items() if isinstance(reply, Exception)
    }
    if not refused:
        return
    hint = "Look in the console of the provider that runs the server."
    if any(isinstance(reply, NoPermissionError) for reply in refused.values()):
        hint = f"{cli} ACL SETUSER {user} {' '.join(permission for _, permission in refused)}"
    yield cannot_see(store, ", ".join(what for what, _ in refused), hint)
