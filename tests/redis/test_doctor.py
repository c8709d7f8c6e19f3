"""What hurts in Redis is found, each hint mends it, and a healthy server has nothing."""

from __future__ import annotations

import re
import shlex
import time
from contextlib import suppress

import pytest
from redis.exceptions import ResponseError

from django_strategy_sessions.strategies.health import examine_cache
from django_strategy_sessions.testing import later

from ..servers import Tunnel, Valkey
from .conftest import BOUND, execute


def examine(strategy):
    """The findings by the end of their ids."""
    return {message.id.rpartition(".")[2]: message for message in strategy.examine()}


def mend(server, message):
    """Run the hint, as redis-cli would."""
    for line in message.hint.splitlines():
        program, _, host, _, port, *command = shlex.split(line, comments=True)
        assert (program, host, port) == ("redis-cli", "127.0.0.1", str(server.port))
        with suppress(ResponseError):  # this server has no file for CONFIG REWRITE
            execute(server, *command)


@pytest.fixture
def configure(server):
    """Set parameters of the server for the time of a test."""
    kept = {}

    def configure(name, value):
        kept.setdefault(name, execute(server, "CONFIG GET", name)[name])
        execute(server, "CONFIG", "SET", name, value)

    yield configure
    for name, value in kept.items():
        execute(server, "CONFIG", "SET", name, value)


class Altering(Tunnel):
    """Leads to the server, which says something else than it is. The length stays the same."""

    words: tuple[bytes, bytes] = (b"", b"")

    def alter(self, data):
        return re.sub(self.words[0], lambda found: self.words[1].ljust(len(found[0])), data)


@pytest.fixture
def saying(server, make):
    """A strategy on the server, which says a word in place of another."""
    with Altering(server.port) as tunnel:

        def saying(old, new):
            tunnel.words = old, new
            return make(f"redis://127.0.0.1:{tunnel.port}/0")

        yield saying


def test_a_healthy_server_has_nothing(strategy):
    strategy.insert({"_auth_user_id": "ada"}, later())
    assert examine(strategy) == {}


def test_a_server_that_evicts_is_found(server, strategy, configure):
    configure("maxmemory-policy", "volatile-lru")
    message = examine(strategy)["W031"]
    assert "volatile-lru" in message.msg
    assert not list(examine_cache(strategy))  # a cache may evict
    mend(server, message)
    assert examine(strategy) == {}


def test_a_server_that_forgets_at_its_end_is_found(server, strategy, configure):
    configure("appendonly", "no")
    message = examine(strategy)["W033"]
    mend(server, message)
    assert examine(strategy) == {}
    configure("appendonly", "no")
    configure("save", "3600 1")
    assert examine(strategy) == {}


def test_a_server_that_cannot_write_to_its_disk_is_found(saying):
    strategy = saying(rb"aof_last_write_status:ok", b"aof_last_write_status:er")
    assert "aof_last_write_status is 'er'" in examine(strategy)["E022"].msg


def test_a_server_that_is_nearly_full_is_found(server, strategy, configure):
    used = int(execute(server, "INFO", "memory")["used_memory"])
    configure("maxmemory", int(used * 1.02))
    message = examine(strategy)["W032"]
    mend(server, message)
    assert examine(strategy) == {}


def test_a_server_that_fills_its_machine_is_found(saying):
    strategy = saying(rb"total_system_memory:\d+", b"total_system_memory:1000000")
    assert "no maxmemory" in examine(strategy)["W032"].msg


def test_an_old_server_is_found(saying):
    strategy = saying(rb"redis_version:\S+", b"redis_version:6.0")
    assert "6.0" in examine(strategy)["W030"].msg
    assert [message.id for message in examine_cache(strategy)] == ["strategy_sessions.W030"]
    assert "W030" not in examine(saying(rb"redis_version:\S+", b"redis_version:6.2"))


def test_keys_that_are_no_sessions_are_found_and_not_shown(server, strategy):
    strategy.insert({"_auth_user_id": "ada"}, later())
    execute(server, "SET", "cache:secret", "1")
    try:
        message = examine(strategy)["W034"]
    finally:
        execute(server, "DEL", "cache:secret")
    assert "secret" not in str(message)


@pytest.mark.parametrize(
    "location",
    ["redis://localhost:{}", "redis://127.0.0.1:{}/0", "redis://[::1]:{}?db=0"],
)
def test_a_cache_in_the_same_database_is_a_finding_of_check_alone(
    settings, server, strategy, location
):
    same = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": [location.format(server.port)],
    }
    files = {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": server.folder,
    }
    settings.CACHES = {**settings.CACHES, "pages": same, "files": files}
    assert [message.id.rpartition(".")[2] for message in strategy.check()] == ["W004"]
    execute(server, "SET", "cache:page", "1")
    try:
        assert examine(strategy) == {}
    finally:
        execute(server, "DEL", "cache:page")
    same["LOCATION"] = f"redis://localhost:{server.port}/1"
    assert not list(strategy.check())


def test_replicas_that_lag_or_are_too_few_are_found(server, make, saying, configure):
    configure("repl-diskless-sync-delay", "0")
    with Valkey("--replicaof", "127.0.0.1", str(server.port)):
        ends = time.monotonic() + BOUND
        while "W026" in (found := examine(make(server.url, replicas=1))) or "E023" in found:
            assert time.monotonic() < ends
        assert found == {}
        assert {*examine(make(server.url, replicas=2))} == {"E023"}
        lagging = saying(
            rb"port=\d+,state=online,offset=\d+,lag=\d", b"state=online,offset=1,lag=42"
        )
        assert " 42 seconds and " in examine(lagging)["W026"].msg
        joining = saying(rb"state=online", b"state=sync")
        assert "still synchronizing" in examine(joining)["W026"].msg


def test_what_a_user_may_not_see_is_told_with_what_permits_it(server, make, configure):
    execute(server, "ACL", "SETUSER", "ada", "on", ">secret", "~session:*", "+select", "+hello")
    try:
        strategy = make(f"redis://ada:secret@127.0.0.1:{server.port}/0")
        (message,) = examine(strategy).values()
        assert message.id == "strategy_sessions.I020"
        mend(server, message)
        assert examine(strategy) == {}
        execute(server, "ACL", "SETUSER", "ada", "-config")
        assert examine(strategy) == {}  # it persists in any case
        configure("appendonly", "no")
        assert "the snapshots" in examine(strategy)["I020"].msg
    finally:
        execute(server, "ACL", "DELUSER", "ada")


def test_commands_that_the_server_does_not_have_are_told(server, make):
    with Valkey("--rename-command", "CONFIG", "", "--appendonly", "no") as rented:
        message = examine(make(rented.url))["I020"]
    assert "the snapshots" in message.msg
    assert "ACL" not in message.hint


def test_a_unix_socket_is_named(server, make, configure):
    configure("maxmemory-policy", "volatile-lru")
    path = f"{server.folder}/valkey.sock"
    message = examine(make(f"unix://{path}?db=0"))["W031"]
    assert path in message.msg
    assert message.hint.startswith(f"redis-cli -s {path} CONFIG SET")
