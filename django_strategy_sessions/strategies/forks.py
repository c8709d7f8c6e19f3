"""Connections that a forked process has inherited: it must leave them to its parent.

From a shared socket each process reads the other's answers. Servers that fork in C (uWSGI) do not
run Python's fork hooks, so the process is compared before each use.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakKeyDictionary

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

# Django's connections and its pools, with the process that opened each.
_opened_by: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_of_parents: list[object] = []  # kept, because to delete an open connection is to close it


def note_process(sender: object, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    _opened_by[connection] = os.getpid()
    if pool := _pools(connection).get(connection.alias):
        _opened_by.setdefault(pool, os.getpid())


connection_created.connect(note_process, dispatch_uid=__name__)


def leave_to_parent(connection: BaseDatabaseWrapper) -> None:
    """Let `connection` connect anew if another process opened it."""
    pid = os.getpid()
    if _opened_by.get(connection, pid) == pid or connection.vendor == "sqlite":
        return
    _opened_by[connection] = pid
    pools = _pools(connection)
    pool = pools.get(connection.alias)
    if pool and _opened_by.get(pool, pid) != pid:
        del pools[connection.alias]
        _of_parents.append(pool)
    _of_parents.append(connection.connection)
    connection.connection = None


def _pools(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    return getattr(connection, "_connection_pools", {})
