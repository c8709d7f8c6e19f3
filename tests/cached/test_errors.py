"""A cache that answers something else, or refuses, fails no request and shows nothing wrong."""

from __future__ import annotations

from contextlib import closing

import pytest
from redis import Redis

from django_strategy_sessions.testing import later

from .test_outages import end, reads_copies

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
ENTRIES = ("r", "rubbish", "w", "w1 ", "wrong", "f", "\n")
DENIED = ("-eval -evalsha", "-set", "-info", "-del")
REPLIES = (1, "text", [], [1], [1, 2], ["the token of another", 2, "a copy"])


@pytest.fixture
def stored(server, one):
    with closing(server.client()) as client:
        client.flushall()
    stored = one.insert({"cart": 1}, later())
    one.load(stored.session_id)
    return one.load(stored.session_id)


def test_an_entry_that_is_not_ours_is_no_copy(call, server, one, other, stored):
    lease, name = one._names(stored.token.key)
    with closing(server.client()) as client:
        epoch = client.get(lease)[:16].decode()
        for entry in ENTRIES:
            for written in (entry, entry[:1] + epoch + entry[1:]):
                client.set(name, written)
                assert call(one, "load", stored.session_id).data == {"cart": 1}
                client.set(name, written)
                assert call(one, "merge", stored, stored.data, later()) is not None
        client.set(name, "w")
    end(call, one, stored)
    assert call(other, "load", stored.session_id) is None


def test_a_key_of_another_type_is_no_copy(call, server, one, other, stored):
    with closing(server.client()) as client:
        for name in one._names(stored.token.key):
            for _ in range(2):
                client.delete(name)
                client.lpush(name, "a list")
                assert call(one, "load", stored.session_id).data == {"cart": 1}
    end(call, one, stored)
    assert call(other, "load", stored.session_id) is None


@pytest.mark.parametrize("denied", DENIED)
def test_a_cache_that_permits_too_little_is_one_that_does_not_answer(
    server, one, make, stored, denied
):
    with closing(server.client()) as client:
        rules = ["on", "nopass", "~*", "+@all", *denied.split()]
        client.execute_command("ACL", "SETUSER", "app", *rules)
        refused = make(server.url.replace("redis://", "redis://app:any@"))
        assert refused.load(stored.session_id).data == {"cart": 1}
        refused.delete_data(stored.session_id)
        assert one.load(stored.session_id) is None


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_to_another_question_counts_as_none(monkeypatch, server, make, one, stored, reply):
    crossed = make(server.url)
    monkeypatch.setattr(crossed, "in_cache", lambda *_given: reply)
    monkeypatch.setattr(crossed, "find_in_cache", lambda _names: (reply, "a process"))
    assert crossed.load(stored.session_id).data == {"cart": 1}
    crossed.delete_data(stored.session_id)
    assert one.load(stored.session_id) is None


def test_a_script_that_the_cache_has_forgotten_is_sent_again(call, server, one, stored):
    with closing(server.client()) as client:
        client.script_flush()
    assert call(one, "load", stored.session_id).data == {"cart": 1}
    assert not one._breaker.is_open()


def test_a_client_that_a_tracer_wraps_reads_copies(monkeypatch, one, stored):
    """Though it does not tell over which connection."""

    def traced(client, *command, execute=Redis.execute_command, **options):
        return execute(client, *command, **options)

    monkeypatch.setattr(Redis, "execute_command", traced)
    assert reads_copies(one, stored)
