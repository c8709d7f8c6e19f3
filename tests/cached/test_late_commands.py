"""A command of which the client saw no reply may arrive late, after it was sent again and answered.

Here a question to the cache arrives once more at the worst moment.
"""

from __future__ import annotations

import pytest

from django_strategy_sessions.testing import later

from .test_interleavings import EVICTION, Request

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture
def stored(one, quick):
    """A session of which the cache has no copy yet, though it has a lease."""
    one.load(one.insert({}, later()).session_id)
    return one.insert({"cart": 1}, later())


def test_a_late_question_does_not_let_a_reader_put_in_what_a_logout_removed(one, other, stored):
    reader = Request("read", one, stored)
    reader.go_on()  # finds no copy
    reader.go_on()  # leaves its token
    reader.go_on()  # reads the store
    other.delete_data(stored.session_id)
    reader.repeat(0)
    reader.go_on()
    assert reader.is_done
    assert other.load(stored.session_id) is None


@pytest.mark.parametrize("kind", ["write b", "logout"])
def test_a_late_mark_does_not_let_a_writer_put_in_what_another_replaced(one, other, stored, kind):
    writer = Request("write a", one, stored)
    writer.go_on()  # sets its mark
    writer.go_on()  # writes to the store
    held = other.store.load(stored.session_id)
    Request("evict", other, stored).go_on()
    second = Request(kind, other, held)
    while not second.is_done:
        second.go_on()
    one._ask(EVICTION, one._names(stored.token.key))
    Request("evict", other, stored).go_on()
    writer.repeat(0)
    while not writer.is_done:
        writer.go_on()
    assert second.is_kept(other)
