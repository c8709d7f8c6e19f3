"""Sessions in this process's memory: for tests and tutorials. Other processes see none of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from threading import RLock
from typing import NamedTuple

from .. import records
from .base import Data, SessionStrategy, Stored, reconcile


class _Row(NamedTuple):
    record: str
    expires: datetime
    created: datetime


class MemoryStrategy(SessionStrategy):
    atomic = True
    keeps_created = True

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._lock = RLock()

    def create_data(self, data: Data, expires: datetime) -> str:
        return self.insert(data, expires).session_id

    def read_data(self, session_id: str) -> Data | None:
        stored = self.load(session_id)
        return None if stored is None else stored.data

    def update_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        with self._lock:
            stored = self.load(session_id)
            return stored is not None and bool(self._write(stored, data, expires))

    def delete_data(self, session_id: str) -> None:
        with self._lock:
            self._rows.pop(records.hashed(session_id), None)

    def load(self, session_id: str) -> Stored | None:
        row = self._rows.get(records.hashed(session_id))
        if row is None or row.expires <= datetime.now(UTC):
            return None
        data = records.unseal(session_id, row.record)
        return None if data is None else Stored(session_id, data, row.expires, row.created)

    def insert(self, data: Data, expires: datetime) -> Stored:
        return self._insert(data, expires)

    def merge(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        with self._lock:
            current = self.load(stored.session_id)
            return current and self._write(current, *reconcile(stored, data, expires, current))

    def rotate(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        with self._lock:
            current = self.load(stored.session_id)
            if current is None:
                return None
            data, expires = reconcile(stored, data, expires, current)
            rotated = self._insert(data, expires, current.created)
            self.delete_data(stored.session_id)
            return rotated

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        while True:
            with self._lock:
                expired = self._expired()[:batch_size]
                for key in expired:
                    del self._rows[key]
            if not expired:
                return
            yield len(expired)

    def count_expired(self) -> int:
        with self._lock:
            return len(self._expired())

    def _insert(self, data: Data, expires: datetime, created: datetime | None = None) -> Stored:
        with self._lock:
            while records.hashed(session_id := records.new_id()) in self._rows:
                pass
            return self._write(Stored(session_id, data, created=created), data, expires)

    def _write(self, stored: Stored, data: Data, expires: datetime) -> Stored:
        session_id, created = stored.session_id, stored.created or datetime.now(UTC)
        row = _Row(records.seal(session_id, data), expires, created)
        self._rows[records.hashed(session_id)] = row
        return Stored(session_id, data, expires, created)

    def _expired(self) -> list[str]:
        now = datetime.now(UTC)
        return [key for key, row in self._rows.items() if row.expires <= now]
