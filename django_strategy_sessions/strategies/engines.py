"""The sessions of another engine, such as Django's own, under that engine's keys.

For `moving.MovingStrategy`. The engine itself does the work, so subclasses of it keep their own
behaviour. Concurrent writes lose changes, as they do in that engine.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.core import signing
from django.db import InterfaceError, OperationalError, router
from django.db.models.base import ModelBase
from django.utils import timezone

from ..signals import UNREADABLE, tell
from ..values import Data, Texts, decode_all, encode_all
from .base import EXPIRY, Answers, OldKey, SessionStrategy, Stored, as_texts, reconcile
from .transactions import watch_rollback

_logger = logging.getLogger("django.security.SuspiciousSession")

_SHAPE = re.compile(r"[0-9a-z]{32}", re.ASCII)
_SALT = "django.contrib.sessions.backends.signed_cookies"
# Errors of cache clients, by name because no driver is imported here.
_OUTAGES = {"ConnectionInterrupted", "ConnectionError", "TimeoutError", "MemcacheError"}


def make_engine_strategy(path: str) -> EngineStrategy | None:
    """Make a strategy for the engine at a dotted path; ``None`` if that is no other engine."""
    store = getattr(import_module(path), "SessionStore", None)
    if not (isinstance(store, type) and issubclass(store, SessionBase)):
        return None
    if path.startswith("django_strategy_sessions."):
        return None
    return (SignedCookiesStrategy if issubclass(store, SignedCookies) else EngineStrategy)(store)


class Found(Enum):
    """What became of an old session."""

    MOVED = "moved"
    EXPIRED = "expired"
    UNREADABLE = "unreadable"


Counts = Counter[Found]


class EngineStrategy(SessionStrategy):
    """`store`: the engine's ``SessionStore``. Every id is an `OldKey`."""

    def __init__(self, store: type[SessionBase]) -> None:
        self.store = store
        self.model: Any = _find_model(store)

    @property
    def alias(self) -> str | None:
        """The database that has the sessions, if one has."""
        return router.db_for_write(self.model) if self.model else None

    def adopt(self, key: str) -> OldKey | None:
        return OldKey(key) if _SHAPE.fullmatch(key) else None

    # -- what the engine calls ---------------------------------------------------------------------

    def load(self, session_id: str) -> Stored | None:
        with _answers:
            found = self._row(session_id) if self.model else self._loaded(session_id)
        return found if isinstance(found, Stored) else None

    def insert(self, data: Data | Texts, expires: datetime) -> Stored:
        texts = as_texts(data)
        session = self._session(None, texts)
        del session.create  # the override that _session() set
        with _answers:
            session.create()
        return Stored(OldKey(session.session_key), texts)

    def merge(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        current = self.load(stored.session_id)
        if current is None:
            return None
        texts, _ = reconcile(stored, as_texts(data), expires, current)
        session = self._session(stored.session_id, texts)
        try:
            with _answers:
                session.save()
        except UpdateError:
            return None
        return Stored(stored.session_id, texts)

    def rotate(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        current = self.load(stored.session_id)
        if current is None:
            return None
        rotated = self.insert(*reconcile(stored, as_texts(data), expires, current))
        self.delete_data(stored.session_id)
        return rotated

    def delete_data(self, session_id: str) -> None:
        with _answers:
            self._session(session_id).delete(session_id)

    def is_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        return None if self.alias is None else watch_rollback(self.alias)

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        with _answers:
            self.store.clear_expired()
        return iter(())

    def count_expired(self) -> int:
        if not self.model:
            return 0
        with _answers:
            return int(self._rows().filter(expire_date__lte=timezone.now()).count())

    # -- for moving many of them -------------------------------------------------------------------

    def batches(self, size: int) -> Iterator[dict[str, Stored | Found]]:
        """Yield all sessions, `size` at a time."""
        last = ""
        while True:
            with _answers:
                rows = list(self._rows().filter(pk__gt=last).order_by("pk")[:size])
            if not rows:
                return
            last = rows[-1].pk
            yield {row.pk: self._read_row(row) for row in rows}

    def count(self) -> int:
        with _answers:
            return int(self._rows().count())

    def load_all(self, known: Mapping[str, Stored]) -> dict[str, Stored]:
        """Load them again. One whose row has not changed is not decoded again."""
        with _answers:
            rows = list(self._rows().filter(pk__in=known))
        read = {}
        for row in rows:
            was = known[row.pk]
            read[row.pk] = was if was.token == _token(row) else self._read_row(row)
        return {key: found for key, found in read.items() if isinstance(found, Stored)}

    def delete_all(self, keys: Sequence[str]) -> None:
        with _answers:
            self._rows().filter(pk__in=keys).delete()
            if (cache := getattr(self._session(None), "_cache", None)) is not None:
                prefix = self.store.cache_key_prefix  # type: ignore[attr-defined]
                cache.delete_many([prefix + key for key in keys])

    # -- helpers -----------------------------------------------------------------------------------

    def _session(self, key: str | None, texts: Texts | None = None) -> Any:
        session: Any = self.store(None if key is None else str(key))
        # Some engines create a session when they find none, or an expired one.
        session.create = lambda: None
        if texts is not None:
            data = decode_all(texts)
            if not settings.USE_TZ and isinstance(given := data.get(EXPIRY), str):
                # The engine compares it with local time.
                moment = datetime.fromisoformat(given)
                if moment.tzinfo:
                    data[EXPIRY] = timezone.make_naive(moment).isoformat()
            session._session_cache = {}
            for name, value in data.items():
                session[name] = value  # engines of third parties notice the user here
        return session

    def _rows(self) -> Any:
        return self.model._default_manager.using(self.alias)

    def _row(self, key: str) -> Stored | Found | None:
        # Bypass any cache in front of the table, because it may lag behind.
        row = self._rows().filter(pk=key).first()
        return None if row is None else self._read_row(row)

    def _read_row(self, row: Any) -> Stored | Found:
        if _utc(row.expire_date) <= datetime.now(UTC):
            return Found.EXPIRED
        session = self._session(None)
        try:
            data = session.decode(row.session_data)
            if not data:  # Django's decode() also returns {} for text that it cannot read
                signing.loads(
                    row.session_data, salt=session.key_salt, serializer=session.serializer
                )
        except Exception:
            data = None
        found = self._stored(row.pk, data, _utc(row.expire_date))
        return found._replace(token=_token(row)) if isinstance(found, Stored) else found

    def _loaded(self, key: str) -> Stored | Found | None:
        session = self._session(key)
        if (cache := getattr(session, "_cache", None)) is not None:
            # Not the engine's load(), which treats an outage of the cache as a missing session.
            name = session.cache_key
            data = cache.get(name)
            if data is None:
                return None
            left = cache.ttl(name) if hasattr(cache, "ttl") else None
            if left is None:
                return self._stored(key, data, _end_of(session, data, timezone.now()))
            return self._stored(key, data, datetime.now(UTC) + timedelta(seconds=left))
        unreadable = []

        def decode(text: str) -> Any:
            data = type(session).decode(session, text)
            try:
                if not data:
                    signing.loads(text, salt=session.key_salt, serializer=session.serializer)
            except Exception:
                unreadable.append(True)
            return data

        session.decode = decode
        changed = getattr(session, "_last_modification", timezone.now)
        try:
            modified = changed()
        except OSError:
            return None
        data = session.load()
        if session.session_key is None:
            return None
        return self._stored(key, None if unreadable else data, _end_of(session, data, modified))

    def _stored(self, key: str, data: Any, expires: datetime) -> Stored | Found:
        try:
            if not isinstance(data, Mapping):
                raise TypeError
            texts = encode_all(data)
        except (TypeError, ValueError):
            _logger.warning("An old session record that cannot be read was treated as no session.")
            tell(type(self), UNREADABLE)
            return Found.UNREADABLE
        return Stored(OldKey(key), texts, expires)


class SignedCookiesStrategy(EngineStrategy):
    """The key is the session: each write makes a new key, and no key can be revoked."""

    def adopt(self, key: str) -> OldKey | None:
        return OldKey(key) if key.count(":") >= 2 and self.load(key) else None

    def load(self, session_id: str) -> Stored | None:
        age = settings.SESSION_COOKIE_AGE
        serializer = self._session(None).serializer
        try:
            data = signing.loads(session_id, salt=_SALT, max_age=age, serializer=serializer)
            signed_at = signing.b62_decode(session_id.rsplit(":", 2)[1])
        except Exception:  # as the engine itself does
            return None
        found = self._stored(session_id, data, datetime.fromtimestamp(signed_at + age, UTC))
        return found if isinstance(found, Stored) else None

    def insert(self, data: Data | Texts, expires: datetime) -> Stored:
        texts = as_texts(data)
        key = self._session(None, texts)._get_session_key()
        return Stored(OldKey(key), texts)

    def merge(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        return self.insert(*reconcile(stored, as_texts(data), expires, stored))

    def rotate(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        return self.merge(stored, data, expires)

    def delete_data(self, session_id: str) -> None:
        pass

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        return iter(())


def _find_model(store: type[SessionBase]) -> Any:
    # Django's "db" and "cached_db" engines have this method, and so do their subclasses.
    if find := getattr(store, "get_model_class", None):
        return find()
    # django-user-sessions has its model beside the engine.
    model = getattr(import_module(store.__module__), "Session", None)
    return model if isinstance(model, ModelBase) else None


def _token(row: Any) -> tuple[str, datetime]:
    return row.session_data, row.expire_date


def _end_of(session: Any, data: Any, modified: datetime) -> datetime:
    expiry = data.get(EXPIRY) if isinstance(data, Mapping) else None
    return _utc(session.get_expiry_date(modification=modified, expiry=expiry))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)  # treats naive datetimes as local time; Django sets TZ


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, (OperationalError, InterfaceError, OSError)):
        return True
    return any(kind.__name__ in _OUTAGES for kind in type(error).__mro__)


_answers = Answers(_is_outage, "The old engine's store could not answer.")
