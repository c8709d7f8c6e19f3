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

_process = os.getpid()
# Django's connections and its pools, with the process that opened each.
_opened_by: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_of_parents: list[object] = []  # kept, because to delete an open connection is to close it


def note_process(sender: object, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    if connection.vendor == "sqlite":
        return  # it has no socket
    _opened_by[connection] = os.getpid()
    if pool := _pools(connection).get(connection.alias):
        _opened_by.setdefault(pool, os.getpid())


connection_created.connect(note_process, dispatch_uid=__name__)


def leave_to_parent() -> None:
    """Let each of Django's connections that another process opened connect anew."""
    global _process
    if (pid := os.getpid()) == _process:
        return
    for opened, opener in list(_opened_by.items()):
        if opener != pid and isinstance(opened, BaseDatabaseWrapper):
            _opened_by[opened] = pid
            pools = _pools(opened)
            pool = pools.get(opened.alias)
            if pool and _opened_by.get(pool, pid) != pid:
                del pools[opened.alias]
                _of_parents.append(pool)
            _of_parents.append(opened.connection)
            opened.connection = None
    _process = pid


def _pools(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    return getattr(connection, "_connection_pools", {})
