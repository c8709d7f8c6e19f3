"""Sessions in this process's memory, for tests and tutorials. Other processes cannot see them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Lock

from .. import records
from .sealed import Row, SealedStrategy


class MemoryStrategy(SealedStrategy):
    is_shared = False
    finds_owners = True

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._lock = Lock()

    def get(self, key: str) -> Row | None:
        return self._rows.get(key)

    def add(self, key: str, row: Row) -> bool:
        return self._rows.setdefault(key, row) is row

    def swap(self, key: str, held: Row, row: Row) -> bool:
        with self._lock:
            if not self._holds(key, held):
                return False
            self._rows[key] = row
            return True

    def move(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        with self._lock:
            if not self._holds(key, held):
                return False
            self._rows.update({key: marker, new_key: row})
            return True

    def remove(self, key: str) -> bool:
        with self._lock:
            row = self._rows.get(key)
            if row is None or records.is_moved(row.record):
                return False
            del self._rows[key]
            return True

    def find(self, owner: str) -> dict[str, Row]:
        with self._lock:
            return {
                key: row
                for key, row in self._rows.items()
                if owner in (row.owner, row.impersonator)
            }

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        while True:
            with self._lock:
                expired = self._list_expired()[:batch_size]
                for key in expired:
                    del self._rows[key]
            if not expired:
                return
            yield len(expired)

    def count_expired(self) -> int:
        with self._lock:
            return len(self._list_expired())

    def _holds(self, key: str, held: Row) -> bool:
        row = self._rows.get(key)
        return row is not None and row.mac == held.mac and row.expires > datetime.now(UTC)

    def _list_expired(self) -> list[str]:
        now = datetime.now(UTC)
        return [key for key, row in list(self._rows.items()) if row.expires <= now]
