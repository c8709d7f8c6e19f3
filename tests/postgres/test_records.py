"""What the table shows, and what happens to a row that was changed by hand."""

from __future__ import annotations

import os
import struct
from base64 import urlsafe_b64decode

import pytest
from django.db import connections

from django_strategy_sessions import records
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import later

from ..conftest import POSTGRES, in_postgres
from .conftest import TABLE, ask, borrowed

pytestmark = in_postgres


def test_ids_and_keys_cannot_be_read_out_of_the_table(settings):
    settings.SESSION_STRATEGY = POSTGRES
    session = SessionStore()
    session["a"] = 1
    session.save()
    session_id, mac = session.session_key.split(".")
    ((everything,),) = ask(f"SELECT t::text FROM {TABLE} t")
    assert '{"a":\t1}' in everything.replace('""', '"')
    for secret in (session_id, mac, urlsafe_b64decode(f"{session_id}==").hex()):
        assert secret not in everything.replace("-", "")


@pytest.mark.parametrize(
    "tampered", ["other.data", "left(one.data, -1)", "one.data || ' '", "''", "repeat('x', 100)"]
)
def test_a_row_that_was_tampered_with_is_no_session(strategy, do, caplog, tampered):
    def steps():
        one = yield "insert", {"canary": "CANARY 1"}, later()
        other = yield "insert", {"canary": "CANARY 2"}, later()
        ask(
            f"UPDATE {TABLE} SET data = {tampered} FROM {TABLE} one, {TABLE} other"
            f" WHERE {TABLE}.id = one.id AND one.id = %s AND other.id = %s",
            *(records.hashed(stored.session_id) for stored in (one, other)),
        )
        assert (yield "load", one.session_id) is None
        assert (yield "read_data", one.session_id) is None
        assert (yield "read_data", other.session_id) == other.data
        assert "CANARY" not in caplog.text
        assert one.session_id not in caplog.text

    do(strategy, steps())


class Misled(PostgresStrategy):
    """The connection first returns the reply to another request's statement."""

    def mislead(self, sql):
        _send(self.connection.connection, sql)

    async def amislead(self, sql):
        async with borrowed(self) as connection:
            _send(connection, sql)


def _send(connection, sql):
    # Behind the back of libpq, which takes the answer for that to its own next question.
    os.write(connection.fileno(), b"Q" + struct.pack("!i", len(sql) + 5) + sql.encode() + b"\0")


def test_a_reply_about_another_session_is_unavailable(do):
    def steps():
        mine = yield "insert", {"a": "mine"}, later()
        theirs = yield "insert", {"a": "theirs"}, later()
        key = records.hashed(theirs.session_id)
        columns = "id::text, data, date_part('epoch', expires), date_part('epoch', created), owner"
        yield "mislead", f"SELECT {columns} FROM {TABLE} WHERE id = '{key}'"
        with pytest.raises(StrategyUnavailable, match="another session"):
            yield "load", mine.session_id

    do(Misled("postgres"), steps())
    connections["postgres"].close()
