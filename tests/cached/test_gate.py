"""Copies from before the gate was closed never count again."""

from __future__ import annotations

from contextlib import closing

import pytest

from django_strategy_sessions.strategies import cached
from django_strategy_sessions.testing import later

from ..conftest import DATABASE
from ..servers import Tunnel
from .test_interleavings import Request
from .test_outages import acts, is_done, queries

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture
def stored(server, one):
    with closing(server.client()) as client:
        client.flushall()  # the gate of the last test is gone, and its lease should be
    stored = one.insert({"cart": 1}, later())
    one.load(stored.session_id)
    return one.load(stored.session_id)


@acts
def test_a_writer_that_pauses_until_copies_count_again_puts_in_nothing(
    call, monkeypatch, quick, server, make, one, other, stored, act
):
    """Meanwhile a process that is cut off from the cache has written once more."""
    paused = Request("write a", one, stored)
    paused.go_on()  # sets its mark
    paused.go_on()  # writes to the store
    with Tunnel(server.port) as tunnel:
        cut_off = make(f"redis://127.0.0.1:{tunnel.port}/0")
        held = cut_off.store.load(stored.session_id)
        tunnel.holds = frozenset({"*"})
        act(call, cut_off, held)
    another = other.insert({}, later())
    for _ in range(3):
        other.load(another.session_id)
    assert not cached._Gate(other.store.get(cached.records.GATE)).is_closed
    while not paused.is_done:
        paused.go_on()
    assert is_done(act, other.load(stored.session_id))


def test_a_save_that_follows_a_rotation_in_turn_is_seen_at_once(call, one, other, stored):
    """It writes under another key than the one whose turn it took."""
    rotated = other.rotate(stored, {"cart": 1}, later())
    for _ in range(2):
        assert other.load(rotated.session_id).data == {"cart": 1}
    one.conflicts_before_turn = 0
    assert call(one, "merge", stored, {"cart": 2}, later()).followed
    assert other.load(rotated.session_id).data == {"cart": 2}


@acts
def test_copies_from_before_the_cache_was_turned_off_do_not_count_when_it_is_on_again(
    call, quick, server, make, one, stored, act
):
    """Processes without the cache have changed the session meanwhile."""
    act(call, one.store, stored)
    off = make(server.url, reads=False)
    off.load(stored.session_id)
    with closing(server.client()) as client:
        client.delete(one._names("")[0])  # which ends by itself within a second
    on = make(server.url)
    for _ in range(3):
        assert is_done(act, call(on, "load", stored.session_id))


@acts
def test_processes_with_and_without_reads_see_what_each_other_wrote(
    call, quick, server, make, one, other, stored, act
):
    off = make(server.url, reads=False)
    for writer, reader in ((off, one), (one, off)):
        for _ in range(3):  # off closed the gate, and one opens it again
            seen = one.load(stored.session_id)
        assert queries(one, stored) == 0
        written = call(writer, "merge", seen, {"cart": 3, "by": writer.reads}, later())
        assert call(reader, "load", stored.session_id).data == written.data
        assert call(one, "load", stored.session_id).data == written.data
    act(call, off, off.load(stored.session_id))
    assert is_done(act, call(one, "load", stored.session_id))
    assert is_done(act, call(other, "load", stored.session_id))


def test_projects_that_share_a_cache_do_not_share_their_leases(one, make, server):
    another = make(server.url, store=DATABASE)
    assert one._names("")[0] != another._names("")[0]
