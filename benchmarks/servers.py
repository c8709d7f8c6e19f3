"""The servers, the CPUs, and a scratch database."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
import redis

from tests.servers import Postgres, Server, Valkey

SCRATCH = "strategy_sessions_benchmark"
PACKAGES = ["Django", "psycopg", "redis", "hiredis", "django-redis", "gunicorn", "uvicorn"]
SETTINGS = ["fsync", "synchronous_commit", "shared_buffers", "autovacuum"]


@contextmanager
def started(pinning: str, fsync: bool) -> Iterator[str]:
    """Start what no variable names, and tell `benchmarks.settings`; yield how CPUs are shared."""
    with ExitStack() as stack:
        ours: list[Server] = []
        postgres_url = os.environ.get("TEST_POSTGRES_URL")
        if postgres_url is None:
            ours.append(postgres := Postgres(fsync="on" if fsync else "off"))
            postgres_url = stack.enter_context(postgres).url
        redis_url = os.environ.get("TEST_REDIS_URL")
        if redis_url is None:
            ours.append(valkey := Valkey())
            redis_url = stack.enter_context(valkey).url
        shared = _pinned(ours, pinning)
        os.environ["BENCHMARK_POSTGRES_URL"] = stack.enter_context(_database(postgres_url))
        os.environ["BENCHMARK_REDIS_URL"] = stack.enter_context(_numbers(redis_url))
        yield shared


def _pinned(servers: list[Server], pinning: str) -> str:
    if not hasattr(os, "sched_setaffinity"):
        return "wherever the system puts them"
    cpus = sorted(os.sched_getaffinity(0))
    if pinning == "none" or (pinning == "own" and len(cpus) < 2):
        return "not pinned"
    client, server = cpus[0], cpus[-1 if pinning == "own" else 0]
    os.sched_setaffinity(0, {client})
    os.environ["BENCHMARK_SERVERS_CPU"] = str(server)
    for started in servers:  # and with each what it will start for a connection
        assert started.process is not None
        family = psutil.Process(started.process.pid)
        for process in [family, *family.children(recursive=True)]:
            os.sched_setaffinity(process.pid, {server})
    others = "" if len(servers) == 2 else ", of those that were started here"
    return f"client on CPU {client}, servers on CPU {server}{others}"


@contextmanager
def on_servers_cpu() -> Iterator[None]:
    """This thread moves to where the servers are, and leaves its CPU to what it has started."""
    cpus = os.environ.get("BENCHMARK_SERVERS_CPU")
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _database(url: str) -> Iterator[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {SCRATCH} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {SCRATCH}")
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{SCRATCH}"))
        finally:
            connection.execute(f"DROP DATABASE {SCRATCH} WITH (FORCE)")


@contextmanager
def _numbers(url: str) -> Iterator[str]:
    base = urlunsplit(urlsplit(url)._replace(path=""))
    clients = [redis.Redis.from_url(f"{base}/{number}") for number in (13, 14, 15)]
    if any(client.dbsize() for client in clients):
        raise SystemExit("The databases 13, 14 and 15 of that Redis are not empty.")
    try:
        yield base
    finally:
        for client in clients:
            client.flushdb()
            client.close()


def described(shared: str) -> list[str]:
    """What the figures depend on."""
    with psycopg.connect(os.environ["BENCHMARK_POSTGRES_URL"]) as connection:
        number = connection.info.parameter_status("server_version")
        of_postgres = ", ".join(
            f"{name} = {connection.execute(f'SHOW {name}').fetchone()[0]}"  # type: ignore[index]
            for name in SETTINGS
        )
    with redis.Redis.from_url(os.environ["BENCHMARK_REDIS_URL"]) as client:
        info = client.info()
        of_redis = ", ".join(
            f"{name} = {value}"
            for name, value in client.config_get("append*").items()
            if name in {"appendonly", "appendfsync"}
        )
    kind = "Valkey" if "valkey_version" in info else "Redis"
    return [
        f"{_cpu()}, {os.cpu_count()} cores; {shared}",
        f"PostgreSQL {number} ({of_postgres})",
        f"{kind} {info.get('valkey_version', info['redis_version'])} ({of_redis})",
        ", ".join(
            [
                f"Python {platform.python_version()}",
                *(f"{name} {version(name)}" for name in PACKAGES),
            ]
        ),
    ]


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", file.read_text()) if file.exists() else None
    return found[1] if found else platform.processor()
