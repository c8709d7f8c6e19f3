"""Flashes of `request.session`."""

from __future__ import annotations

import pytest

from django_strategy_sessions.engine import SessionStore

from .conftest import again, saved

pytestmark = pytest.mark.usefixtures("strategy")


def test_a_flash_that_was_read_is_readable_until_the_end_and_gone_with_the_save():
    session = saved(a=1)
    session.flash("notice", ["saved"])
    session.save()
    session = again(session)
    assert "notice" in session
    assert session.has_key("notice")
    assert not session.modified  # asking consumes nothing
    assert session["notice"] == session.get("notice") == ["saved"]
    assert session.modified
    session.save()
    assert session["notice"] == ["saved"]
    assert dict(again(session).items()) == {"a": 1}


def test_an_ordinary_value_wins_over_a_flash():
    session = SessionStore()
    session.flash("x", "flash")
    session["x"] = "value"
    assert session["x"] == "value"
    assert list(session.keys()) == ["__flash_x__", "x"]
    del session["x"]
    assert session.pop("x") == "flash"
    assert "x" not in session
    assert session.pop("x", None) is None
    with pytest.raises(KeyError):
        session.pop("x")
    with pytest.raises(KeyError):
        session["x"]


def test_consuming_a_flash_leaves_a_newer_unread_one():
    session = SessionStore()
    session.flash("notice", "first")
    session.save()
    reader, writer = again(session), again(session)
    assert reader["notice"] == "first"
    writer.flash("notice", "second")
    writer.save()
    reader.save()
    assert again(session)["notice"] == "second"


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_concurrent_requests_lose_no_flash_whatever_their_order(strategy, first):
    session = SessionStore()
    session.flash("notice", "old")
    session.flash("other", "seen")
    session.save()
    reader, writer = again(session), again(session)
    assert (reader["notice"], reader["other"]) == ("old", "seen")
    writer.flash("notice", "new")
    for each in (reader, writer) if first == "reader" else (writer, reader):
        each.save()
    assert dict(again(session).items()) == {"__flash_notice__": "new"}


def test_a_flash_after_a_read_is_a_new_one():
    session = SessionStore()
    session.flash("notice", "first")
    assert session["notice"] == "first"
    session.flash("notice", "second")
    assert session["notice"] == "second"
