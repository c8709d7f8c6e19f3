"""The index of each owner's sessions: it never misses a live one, and it does not grow for ever."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from unittest import mock

import pytest

from django_strategy_sessions.strategies import redis as module
from django_strategy_sessions.testing import later

from ..racers import rounds
from .conftest import execute

KILLS = rounds(20, full=1000)

log = logging.getLogger(__name__)


@pytest.fixture
def owner():
    return f"user-{uuid.uuid4()}"


def index_of(strategy, owner):
    return strategy._index(owner)


def members(server, strategy, owner):
    entries = execute(server, "ZRANGE", index_of(strategy, owner), 0, -1)
    return {entry.decode() for entry in entries}


@pytest.fixture
def commands(strategy, monkeypatch):
    """The commands that write, in order."""
    sent = []
    real = strategy.clients.write_steps

    def note(*command):
        sent.append(_NAMES.get(command[1], command[0]))
        return real(*command)

    monkeypatch.setattr(strategy.clients, "write_steps", note)
    return sent


_NAMES = {
    sha1(getattr(module, name).encode()).hexdigest(): name.strip("_").lower()
    for name in ("_ENTER", "_ADD", "_SWAP", "_MOVE", "_REMOVE")
}


def test_no_application_that_dies_while_users_sign_in_hides_a_session(server):
    command = [sys.executable, "-m", "tests.redis.killed_sign_ins", server.url, str(KILLS)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    log.info("%d killed: %s", KILLS, told)
    result = json.loads(told)
    assert result["live"] >= KILLS
    assert result["missing"] == 0


def test_no_request_costs_one_more_round_trip(strategy, owner, commands):
    stored = strategy.insert({"a": 1}, later())
    stored = strategy.rotate(stored, stored.data, later())
    assert commands == ["SET", "move"]
    commands.clear()
    stored = strategy.merge(stored, {"_auth_user_id": owner}, later())
    assert commands == ["swap"]
    commands.clear()
    stored = strategy.merge(strategy.load(stored.session_id), {**stored.data, "b": 2}, later(3700))
    strategy.delete_data(stored.session_id)
    assert commands == ["swap", "remove"]


def test_sessions_are_written_in_one_step_with_their_entry(strategy, owner, commands):
    stored = strategy.insert({"_auth_user_id": owner}, later())
    strategy.rotate(stored, stored.data, later())
    assert commands == ["add", "move"]


@pytest.mark.parametrize("days", [1, 29, 30, 31, 400])
def test_the_index_lasts_as_long_as_its_sessions_however_they_are_renewed(
    server, strategy, owner, days
):
    stored = strategy.insert({"_auth_user_id": owner}, later(60))
    for day in range(1, days + 1, 9):
        expires = later(day * 86400)
        stored = strategy.merge(stored, stored.data, expires)
        assert stored is not None
        left = execute(server, "PTTL", index_of(strategy, owner))
        assert timedelta(milliseconds=left) > expires - datetime.now(UTC)
    assert left < timedelta(days=days + 31) / timedelta(milliseconds=1)


def test_a_shorter_session_does_not_shorten_the_index(server, strategy, owner):
    strategy.insert({"_auth_user_id": owner}, later(90 * 86400))
    strategy.insert({"_auth_user_id": owner}, later(60))
    assert execute(server, "TTL", index_of(strategy, owner)) > 90 * 86400


def test_keys_without_a_session_leave_the_index_after_a_day(server, strategy, owner):
    kept = strategy.insert({"_auth_user_id": owner}, later())
    for _ in range(3):
        strategy.delete_data(strategy.insert({"_auth_user_id": owner}, later()).session_id)
    assert len(strategy.find_owned(owner)) == 1
    assert len(members(server, strategy, owner)) == 4  # one might be about to be written
    with mock.patch.object(module, "_IN_FLIGHT", timedelta(0)):
        assert len(strategy.find_owned(owner)) == 1
    assert members(server, strategy, owner) == set(strategy.references(kept))


def test_an_index_that_nobody_reads_is_tidied_by_sign_ins(server, strategy, owner):
    with mock.patch.object(module, "_IN_FLIGHT", timedelta(0)):
        for _ in range(200):
            strategy.delete_data(strategy.insert({"_auth_user_id": owner}, later()).session_id)
    assert len(members(server, strategy, owner)) < 2 * module._SMALL


def test_redis_shows_neither_the_user_nor_a_usable_key(server, strategy, owner):
    stored = strategy.insert({"_auth_user_id": owner}, later())
    names = b" ".join(execute(server, "KEYS", "*"))
    entries = " ".join(members(server, strategy, owner))
    assert owner.encode() not in names
    assert stored.session_id not in entries
