"""What a batch of `clear_expired` costs while a long transaction is open elsewhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from django.db import connections

from django_strategy_sessions.strategies.database import DatabaseStrategy
from django_strategy_sessions.strategies.postgres import PostgresStrategy

from ..conftest import in_postgres
from .conftest import TABLE, ask, outside

pytestmark = in_postgres

BATCH, BATCHES = 500, 12
FILL = (
    f"INSERT INTO {TABLE} (id, data, expires, created) SELECT gen_random_uuid(), '',"
    " now() - n * interval '1 second', now() FROM generate_series(1, %s) AS n"
)


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
    ask(f"TRUNCATE {TABLE}")  # other tests of this server leave sessions that have expired by now
    ask(FILL, BATCH * BATCHES)
    ask(f"ANALYZE {TABLE}")
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
