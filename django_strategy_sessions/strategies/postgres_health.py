"""What will hurt in PostgreSQL: questions to its catalogs, each of which takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage

from .health import cannot_see, check_lag, if_permitted

Ask = Callable[..., tuple[Any, ...] | None]  # runs a statement and returns its first row

_ENOUGH = 10_000  # dead rows
_MOST_DEAD = 0.5  # of the live rows; by default, autovacuum begins at 0.2
_LARGE = 100 * 2**20  # bytes
_BLOATED = 4  # times what the rows need

_DURABILITY = (
    "SELECT setting, source, current_user FROM pg_settings WHERE name = 'synchronous_commit'"
)
_INVALID = (
    "SELECT array_agg(indexrelid::regclass::text) FROM pg_index"
    " WHERE indrelid = to_regclass(%s) AND NOT indisvalid"
)
_DEAD = "SELECT n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relid = to_regclass(%s)"
# Both sizes without TOAST, where a value that is stored outside counts as its pointer. Without
# ANALYZE, the estimates are -1 and NULL.
_SIZES = """
SELECT reltuples, pg_relation_size(c.oid), pg_indexes_size(c.oid),
    (SELECT sum(avg_width) FROM pg_stats WHERE schemaname = nspname AND tablename = relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass(%s)
"""
_ROW_HEADER = 28  # bytes
_INDEX_ENTRIES = 130  # bytes of one row in the four indexes, whose pages are not full
# PostgreSQL hides the columns from a role that has not been granted pg_monitor.
_STANDBYS = """
SELECT current_user, count(*) FILTER (WHERE state IS NULL),
    max(extract(epoch FROM replay_lag)) FILTER (WHERE state IN ('streaming', 'catchup')),
    max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))
        FILTER (WHERE state IN ('streaming', 'catchup'))
FROM pg_stat_replication WHERE NOT pg_is_in_recovery()
"""


def examine(store: str, table: str, ask: Ask) -> Iterator[CheckMessage]:
    """Ask about the server and about this table, whose name is quoted."""
    for question, what in _QUESTIONS.items():
        yield from if_permitted(question(store, table, ask), store, what)


def _check_durability(store: str, table: str, ask: Ask) -> Iterator[CheckMessage]:
    setting, source, role = ask(_DURABILITY) or ("on", "", "")
    if setting == "off":
        yield checks.Warning(
            f"synchronous_commit is off in {store}: a crash of the server undoes the last logins,"
            " logouts and changes that were answered with success.",
            hint="Set no synchronous_commit in the OPTIONS of DATABASES."
            if source in {"client", "session"}
            else f'ALTER ROLE "{role}" SET synchronous_commit = on;',
            id="strategy_sessions.W023",
        )


def _check_indexes(store: str, table: str, ask: Ask) -> Iterator[CheckMessage]:
    (names,) = ask(_INVALID, table) or (None,)
    for name in names or ():
        yield checks.Warning(
            f"The index {name} in {store} is invalid, so no query uses it.",
            hint=f"REINDEX INDEX CONCURRENTLY {name};",
            id="strategy_sessions.W021",
        )


def _check_dead_rows(store: str, table: str, ask: Ask) -> Iterator[CheckMessage]:
    live, dead = ask(_DEAD, table) or (0, 0)
    if dead >= _ENOUGH and dead > live * _MOST_DEAD:
        yield checks.Warning(
            f"The table of sessions in {store} has {dead:,} dead rows beside {live:,} live ones:"
            " autovacuum comes too late, or an old transaction keeps it from removing them.",
            hint=f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02);\n"
            f"VACUUM (ANALYZE) {table};\n"
            "SELECT pid, xact_start, state FROM pg_stat_activity"
            " WHERE backend_xmin IS NOT NULL ORDER BY xact_start LIMIT 5;",
            id="strategy_sessions.W024",
        )


def _check_bloat(store: str, table: str, ask: Ask) -> Iterator[CheckMessage]:
    rows, size, index_size, width = ask(_SIZES, table) or (-1, 0, 0, None)
    if rows < 0 or width is None:
        return
    bloated = {
        "table": (
            *(size, rows * (_ROW_HEADER + width)),
            f"VACUUM (FULL, ANALYZE) {table};  -- no request reaches its session meanwhile",
        ),
        "indexes": (index_size, rows * _INDEX_ENTRIES, f"REINDEX TABLE CONCURRENTLY {table};"),
    }
    for what, (size, needed, hint) in bloated.items():
        if size >= _LARGE and size > needed * _BLOATED:
            yield checks.Warning(
                f"The {what} of sessions in {store}: {size / 2**20:,.0f} MiB, and the rows need"
                f" about {needed / 2**20:,.0f} MiB.",
                hint=hint,
                id="strategy_sessions.W025",
            )


def _check_standbys(store: str, table: str, ask: Ask) -> Iterator[CheckMessage]:
    role, hidden, seconds, size = ask(_STANDBYS) or ("", 0, None, None)
    if hidden:
        yield cannot_see(store, "the standbys", f'GRANT pg_monitor TO "{role}";')
    hint = "SELECT application_name, client_addr, state, replay_lag FROM pg_stat_replication;"
    yield from check_lag(store, seconds or 0, size or 0, hint)


_QUESTIONS = {
    _check_durability: "synchronous_commit",
    _check_indexes: "the indexes",
    _check_dead_rows: "dead rows",
    _check_bloat: "the sizes of the table",
    _check_standbys: "the standbys",
}
