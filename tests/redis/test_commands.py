"""What Redis is asked, and what it keeps."""

from __future__ import annotations

import json
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.core.cache import caches

from django_strategy_sessions import records
from django_strategy_sessions.testing import later

from ..servers import Valkey
from .conftest import execute, key, watched


def test_each_verb_sends_one_command(server, strategy, call):
    def names(verb, *given):
        with watched(server) as sent:
            answers.append(call(strategy, verb, *given))
        return [command.split()[0] for command in sent]

    answers = []
    warm = call(strategy, "insert", {}, later())  # the server learns the scripts
    warm = call(strategy, "merge", warm, {"a": 1}, later())
    warm = call(strategy, "rotate", warm, {}, later())
    call(strategy, "delete_data", warm.session_id)
    assert names("insert", {"a": 1}, later()) == ["SET"]
    assert names("load", answers[0].session_id) == ["GET"]
    assert names("merge", answers[1], {"a": 2}, later()) == ["EVALSHA"]
    assert names("merge", answers[2], answers[2].data, later(7200)) == ["EVALSHA"]
    assert names("rotate", answers[3], {"a": 3}, later()) == ["EVALSHA"]
    assert call(strategy, "read_data", answers[4].session_id) == {"a": 3}
    assert names("delete_data", answers[4].session_id) == ["EVALSHA"]
    assert names("load", answers[4].session_id) == ["GET"]
    assert answers[-1] is None


def test_no_id_and_no_old_record_is_left_in_the_server_or_on_its_disk(make, call):
    with Valkey() as server:
        strategy = make(server.url, prefix="mine:")
        with watched(server) as sent:
            stored = call(strategy, "insert", {"a": 1}, later())
            call(strategy, "load", stored.session_id)
            merged = call(strategy, "merge", stored, {"a": 2}, later())
            rotated = call(strategy, "rotate", merged, {"a": 3}, later())
            call(strategy, "rotate", merged, {"a": 4}, later())  # of what is gone
        ids = {stored.session_id, rotated.session_id}
        with closing(server.client()) as client:
            keys = {key(stored, "mine:"), key(rotated, "mine:")}  # of a marker, and of the record
            assert {found.decode() for found in client.scan_iter()} == keys
            held = b"".join(map(client.dump, keys))
        written = b"".join(path.read_bytes() for path in server.folder.rglob("*.aof"))
        assert key(rotated, "mine:").encode() in written
        for session_id in ids:
            assert session_id not in "".join(sent)
            assert session_id.encode() not in held + written


def test_data_is_text_and_no_pickle(server, strategy):
    stored = strategy.insert({"a": "日本", "n": 10**30}, later())
    record = execute(server, "GET", key(stored)).decode()
    times = record[records.MAC_LENGTH : records.MAC_LENGTH + 32]
    assert times.isdigit()
    assert record[records.MAC_LENGTH + 32] == "j"
    assert json.loads(record[records.MAC_LENGTH + 33 :]) == {"a": "日本", "n": 10**30}


@pytest.mark.parametrize("microseconds", [0, 1, 999, 1000, 123456])
def test_the_key_expires_with_the_session_and_not_earlier(server, strategy, call, microseconds):
    expires = later().replace(microsecond=microseconds)

    milliseconds = int(expires.replace(microsecond=0).timestamp()) * 1000 + -(-microseconds // 1000)

    def late(verb, *given):
        """By how much the key outlives the session: no longer than the command took to arrive."""
        started = time.monotonic()
        stored = call(strategy, verb, *given)
        took = (time.monotonic() - started) * 1000
        ends = execute(server, "PEXPIRETIME", key(stored))
        return stored, 0 <= ends - milliseconds <= took + 2

    stored, is_exact = late("insert", {"a": 1}, expires)
    assert is_exact
    stored = call(strategy, "merge", stored, {"a": 2}, expires + timedelta(hours=1))
    stored, is_exact = late("merge", stored, {"a": 2}, expires)  # only the expiry
    assert is_exact
    stored, is_exact = late("rotate", stored, {"a": 2}, expires)
    assert is_exact


def test_a_session_that_has_already_expired_leaves_no_key(server, strategy, call):
    def left(stored):
        return execute(server, "PTTL", key(stored))  # -2: there is no such key

    for expires in (datetime(1969, 1, 1, tzinfo=UTC), later(-0.001)):
        stored = call(strategy, "insert", {"a": 1}, expires)
        assert left(stored) in {-2, 0, 1}
        stored = call(strategy, "insert", {"a": 1}, later())
        call(strategy, "merge", stored, {"a": 2}, expires)
        assert left(stored) in {-2, 0, 1}


AT = records.MAC_LENGTH
FORGERIES = {
    "emptied": lambda record, other: "",
    "cut": lambda record, other: record[:-1],
    "cut in the mac": lambda record, other: record[: AT // 2],
    "longer": lambda record, other: record + " ",
    "another's": lambda record, other: other,
    "another's data": lambda record, other: record[:AT] + other[AT:],
    "a later end": lambda record, other: f"{record[:AT]}9{record[AT + 1 :]}",
    "another encoding": lambda record, other: f"{record[: AT + 32]}b{record[AT + 33 :]}",
    "no text": lambda record, other: record[:AT].encode() + b"\xff\xfe" + record[AT:].encode(),
    "a pickle": lambda record, other: b"\x80\x04\x95\x00",
    "a number": lambda record, other: "1",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_record_is_no_session(server, strategy, call, forge):
    stored = call(strategy, "insert", {"admin": False}, later())
    other = call(strategy, "insert", {"admin": True}, later())
    held = [each.token.row.record for each in (stored, other)]
    execute(server, "SET", key(stored), forge(*held), "EX", 3600)
    assert call(strategy, "load", stored.session_id) is None
    assert call(strategy, "update_data", stored.session_id, {"a": 1}, later()) is False
    assert call(strategy, "load", other.session_id).data == {"admin": True}


def test_a_key_of_another_type_is_no_session(server, strategy, call, caplog):
    stored = call(strategy, "insert", {"a": 1}, later())
    execute(server, "DEL", key(stored))
    execute(server, "RPUSH", key(stored), "a", "list")
    for verb in (
        ("load", stored.session_id),
        ("merge", stored, {}, later()),
        ("rotate", stored, {}, later()),
    ):
        caplog.clear()
        assert call(strategy, *verb) is None
        assert [record.name for record in caplog.records] == ["django.security.SuspiciousSession"]
    assert execute(server, "TYPE", key(stored)) == b"list"
    call(strategy, "delete_data", stored.session_id)
    assert execute(server, "EXISTS", key(stored)) == 0


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_server_that_does_not_know_the_script_gets_it_in_the_same_call(
    server, strategy, call, verb
):
    stored = call(strategy, verb, call(strategy, "insert", {"a": 1}, later()), {"a": 2}, later())
    execute(server, "SCRIPT", "FLUSH")
    with watched(server) as sent:
        stored = call(strategy, verb, stored, {"a": 3}, later())
    assert [command.split()[0] for command in sent] == ["EVALSHA", "EVAL"]
    assert call(strategy, "load", stored.session_id).data == {"a": 3}
    with watched(server) as sent:
        call(strategy, verb, stored, {"a": 4}, later())
    assert [command.split()[0] for command in sent] == ["EVALSHA"]


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_session_ends_by_our_clock_not_the_servers(strategy, call, verb):
    stored = call(strategy, "insert", {"a": 1}, later(5))
    with time_machine.travel(later(6)):
        assert call(strategy, verb, stored, {"a": 2}, later(60)) is None
    assert call(strategy, "load", stored.session_id).data == {"a": 1}


def test_an_expiry_after_2286_is_stored_as_2286(strategy, call):
    end = datetime.max.replace(tzinfo=UTC)
    stored = call(strategy, "insert", {"a": 1}, end)
    loaded = call(strategy, "load", stored.session_id)
    assert loaded.data == {"a": 1}
    assert loaded.expires.year == 2286


def test_clearing_a_cache_of_another_database_logs_nobody_out(make, server):
    strategy, other = make(server.url), make(server.url.replace("/0", "/1"))
    stored = strategy.insert({"a": 1}, later())
    cache = caches[other.clients.alias]
    cache.set("cached", 1)
    cache.clear()
    assert cache.get("cached") is None
    assert strategy.load(stored.session_id).data == {"a": 1}


def test_clearing_a_cache_of_the_same_database_ends_its_sessions(make, server):
    strategy, other = make(server.url), make(server.url)
    stored = strategy.insert({"a": 1}, later())
    caches[other.clients.alias].clear()  # FLUSHDB, as a check warns
    assert strategy.load(stored.session_id) is None
    assert strategy.merge(stored, {"a": 2}, later()) is None
