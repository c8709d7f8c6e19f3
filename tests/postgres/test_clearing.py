"""What `clear_expired` costs, and what it leaves alone, with few and with many expired rows."""

from __future__ import annotations

from itertools import pairwise

import pytest
from django.db import connections

from django_strategy_sessions.strategies.database import DatabaseStrategy
from django_strategy_sessions.strategies.postgres import PostgresStrategy

from ..conftest import in_postgres
from .conftest import TABLE, ask, outside

pytestmark = in_postgres

BATCH, BATCHES = 20, 12
FILL = (
    f"INSERT INTO {TABLE} (id, data, expires, created) SELECT gen_random_uuid(), '', now() - n"
    " * interval '1 minute' * CASE WHEN n %% %s = 0 THEN 1 ELSE -1 END, now()"
    " FROM generate_series(1, %s) AS n"
)


def fill(rows, one_in):
    """Fill the table with sessions of which one in so many is expired."""
    ask(f"TRUNCATE {TABLE}")  # other tests of this server leave sessions that have expired by now
    ask(FILL, one_in, rows)
    ask(f"VACUUM ANALYZE {TABLE}")


def count(where):
    return ask(f"SELECT count(*) FROM {TABLE} WHERE {where}")[0][0]


def read_entries():
    """How many entries of the table's indexes were read so far."""
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
    counted = "SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname = %s"
    return ask(counted, TABLE)[0][0]


@pytest.mark.parametrize("kind", [PostgresStrategy, DatabaseStrategy])
def test_a_batch_does_not_scan_the_index_entries_of_earlier_batches(server, kind):
    """No index forgets a row that an open transaction may still see."""
    strategy = kind("postgres")
    fill(BATCH * BATCHES * 250, one_in=250)  # fewer expired sessions than pages
    with outside() as long:
        long.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        long.execute(f"SELECT count(*) FROM {TABLE}")
        read = [read_entries()]
        for count in strategy.clear_expired(BATCH):
            assert count == BATCH
            read.append(read_entries())
    costs = [after - before for before, after in pairwise(read)]
    assert len(costs) == BATCHES
    assert costs[-1] <= costs[0] + BATCH // 10, costs


class TestManyExpiredSessions:
    """More than the table has pages: it is cleared page by page, not by the index."""

    @pytest.fixture(autouse=True)
    def _strategy(self, server):
        self.strategy = PostgresStrategy("postgres")

    def test_no_batch_reads_the_index(self):
        fill(9_000, one_in=3)
        before = read_entries()
        counts = list(self.strategy.clear_expired(500))
        assert read_entries() == before
        assert (sum(counts), count("true")) == (3_000, 6_000)
        assert max(counts) <= 500
        assert len(counts) < 20

    def test_no_batch_is_larger_than_asked_for(self):
        fill(200, one_in=1)  # on a few pages
        counts = list(self.strategy.clear_expired(3))
        assert (sum(counts), max(counts)) == (200, 3)

    def test_locked_sessions_are_neither_waited_for_nor_deleted(self):
        fill(1_000, one_in=1)
        with outside() as other:
            held = f"SELECT id FROM {TABLE} ORDER BY expires LIMIT 7 FOR UPDATE"
            assert len(other.execute(held).fetchall()) == 7
            assert sum(self.strategy.clear_expired(100)) == 993
        assert list(self.strategy.clear_expired(100)) == [7]

    def test_a_session_that_expires_on_a_page_of_an_earlier_batch_goes_too(self):
        fill(5_000, one_in=2)
        batches = self.strategy.clear_expired(100)
        total = next(batches)
        moved = (
            f"WITH early AS (SELECT ctid FROM {TABLE} WHERE expires > now() LIMIT 1)"
            f" UPDATE {TABLE} SET expires = now() WHERE ctid = (SELECT ctid FROM early)"
            " RETURNING ctid::text"
        )
        assert ask(moved)[0][0].startswith("(0,")
        assert total + sum(batches) == 2_501
        assert count("expires < now()") == 0

    def test_partitions_are_cleared_page_by_page(self):
        with outside(autocommit=True) as owner:
            owner.execute(f"ALTER TABLE {TABLE} RENAME TO whole")
            try:
                owner.execute(f"CREATE TABLE {TABLE} (LIKE whole) PARTITION BY HASH (id)")
                for part in range(2):
                    owner.execute(
                        f"CREATE TABLE part_{part} PARTITION OF {TABLE}"
                        f" FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
                    )
                fill(4_000, one_in=2)
                counts = list(self.strategy.clear_expired(500))
                assert (sum(counts), count("true")) == (2_000, 2_000)
                assert 4 <= len(counts) < 20
            finally:
                owner.execute(f"DROP TABLE IF EXISTS {TABLE}")
                owner.execute(f"ALTER TABLE whole RENAME TO {TABLE}")
