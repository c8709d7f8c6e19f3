"""Writes inside a transaction of Django's, which a rollback may undo."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connections, transaction


def is_in_transaction(alias: str | None) -> bool:
    return alias is not None and connections[alias].in_atomic_block


def watch_rollback(alias: str) -> Callable[[], bool] | None:
    """Return a function that tells later whether a rollback has undone the write that was made just
    now, or ``None`` if that cannot happen."""
    connection = connections[alias]
    # A test case's own transaction lasts as long as the test.
    blocks = getattr(connection, "atomic_blocks", [])
    if all(getattr(block, "_from_testcase", False) for block in blocks):
        return None
    committed = False

    def commit() -> None:
        nonlocal committed
        committed = True

    transaction.on_commit(commit, using=alias)
    # A rollback, also one to a savepoint, removes its functions from run_on_commit.
    return lambda: not (committed or commit in (call[1] for call in connection.run_on_commit))
