"""A session as one request holds it: what was loaded, what changed, and how it is saved.

The core that the engine and explicit storages share. What talks to the store is written as steps
(`strategies.base.Steps`), so that sync and async code carry out the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from datetime import UTC, datetime, timedelta
from typing import Any

from .strategies.base import (
    Apply,
    Data,
    Steps,
    Stored,
    all_copied,
    copied,
    flash_name,
    same,
    serialized,
    setting,
)

_MISSING = object()
_IMMUTABLE = frozenset({str, int, float, bool, type(None)})
_LONGEST_STEP = 300.0  # seconds


class Draft(dict[str, Any]):
    """The data a request works on: what is stored, each mutable value copied when first handed out.

    So the stored data (`base`) stays as it was loaded, and a value that still is the stored object
    is known to be unchanged without a look at it.
    """

    def __init__(self, base: Mapping[str, Any]) -> None:
        super().__init__(base)
        self.base = base

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if type(value) not in _IMMUTABLE and value is self.base.get(name):
            value = copied(value)
            super().__setitem__(name, value)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401

    def pop(self, name: str, *default: Any) -> Any:
        if name in self:
            self[name]  # makes it the caller's own
        return super().pop(name, *default)

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def popitem(self) -> tuple[str, Any]:
        name = next(reversed(self.keys()), None)
        if name is None:
            raise KeyError("popitem(): the session is empty")
        return name, self.pop(name)

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # typeshed: dict_values
        self._hand_out()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # typeshed: dict_items
        self._hand_out()
        return super().items()

    def __iter__(self) -> Iterator[str]:
        # Defined only because dict(draft) then asks for each value, and does not copy them itself.
        return super().__iter__()

    def copy(self) -> Data:
        return dict(self.items())

    def raw(self) -> ItemsView[str, Any]:
        """Names and values without handing them out."""
        return super().items()

    def _hand_out(self) -> None:
        for name in list(self):
            self[name]


class State:
    """One session in one request. `session_id` is ``None`` where there is none in the store."""

    def __init__(self, session_id: str | None = None) -> None:
        self.session_id = session_id
        self.stored: Stored | None = None
        self.data: Draft = Draft({})
        self.loaded: bool = False  # or put in place
        self.spent: Data = {}  # flashes that were read: gone with the save, readable until the end
        self._asked = False
        self._seen: dict[str, bytes] | None = None  # what `modified = False` found changed already
        self._seen_names: set[str] = set()

    def rename(self, session_id: str | None) -> None:
        """Be about another session, or none, of which nothing is known yet; the data stays."""
        self.session_id, self.stored = session_id, None
        self.data.base = {}

    def replace_data(self, data: Mapping[str, Any]) -> None:
        """Put `data` in place of all that is there, without looking what that is."""
        draft = Draft({})
        draft.update(data)
        draft.base = self._base
        self.data, self.spent, self.loaded = draft, {}, True

    def forget(self) -> None:
        """Unload: the next look at the data asks the store."""
        self.stored, self.data, self.spent, self.loaded = None, Draft({}), {}, False
        self._seen = None

    # -- flash: kept as `__flash_<name>__`; an ordinary value of the same name wins ---------------

    def flash(self, name: str, value: Any) -> None:
        self.data[flash_name(name)] = value
        self._asked = True

    def find(self, name: str) -> str | None:
        """The raw name that answers for `name`, if one does."""
        if name in self.data:
            return name
        flash = flash_name(name)
        return flash if flash in self.data or flash in self.spent else None

    def read(self, name: str) -> Any:
        """The value that `find` found. Reading a flash takes it."""
        if name in self.data:
            return self.data[name]
        raw = self.find(name)
        if raw is None:
            raise KeyError(name)
        if raw in self.data:
            self.spent[raw] = self.data.pop(raw)
        return self.spent[raw]

    def take(self, name: str) -> Any:
        """Read, and leave nothing of it."""
        value = self.read(name)
        (self.data if name in self.data else self.spent).pop(self.find(name) or name)
        return value

    # -- changes -----------------------------------------------------------------------------------

    @property
    def modified(self) -> bool:
        """Whether a save was asked for, or any name differs from what was loaded.

        Never loads and never raises.
        """
        if self._asked:
            return True
        base, seen = self._base, self._seen or {}
        if self.data.keys() != (base.keys() if self._seen is None else self._seen_names):
            return True
        try:
            for name, value in self.data.raw():
                if name in seen:
                    if serialized(value) != seen[name]:
                        return True
                elif value is not base[name] and not same(value, base[name]):
                    return True
        except Exception:
            return True  # the save will say what it is that cannot be serialized
        return False

    @modified.setter
    def modified(self, value: bool) -> None:
        self._asked, self._seen = value, None
        if not value and self.loaded:
            base = self._base
            changed = {n: v for n, v in self.data.raw() if v is not base.get(n, _MISSING)}
            self._seen = {name: _fingerprint(value) for name, value in changed.items()}
            self._seen_names = set(self.data)

    def snapshot(self) -> Data:
        """What a save writes: nothing in it can be changed by whoever holds the session.

        Values that do not differ are the stored objects; if none differs, so is the whole.
        """
        base = self._base
        changed = {n: v for n, v in self.data.raw() if v is not base.get(n, _MISSING)}
        for kind in set(map(type, changed)):
            if not issubclass(kind, str):
                raise TypeError(f"A session's names are str, not {kind.__name__}.")
        common = changed.keys() & base.keys()
        equal = {n: base[n] for n in common if same(changed[n], base[n], n)}
        if len(equal) == len(changed) and self.data.keys() == base.keys():
            return base
        result = dict(self.data.raw())
        result.update(all_copied({n: v for n, v in changed.items() if n not in equal}))
        result.update(equal)
        return result

    @property
    def _base(self) -> Data:
        return self.stored.data if self.stored else {}

    # -- the store ---------------------------------------------------------------------------------

    def load(self) -> Steps[Stored | None]:
        if self.session_id is None:
            return None
        stored: Stored | None = yield "load", self.session_id
        if stored is not None:
            end = _absolute_end(stored.created)
            if end is not None and end <= datetime.now(UTC):
                return None
        return stored

    def open(self) -> Steps[None]:
        """Load, if that was not done. A session that is not there has no id from then on."""
        if not self.loaded:
            self.stored = yield from self.load()
            if self.stored is None:
                self.session_id = None
            self.data, self.loaded = Draft(self._base), True

    def insert(self, expires: datetime) -> Steps[None]:
        """Make a new record of the data, under a new id."""
        snapshot = self.snapshot()
        stored = yield "insert", snapshot, _capped(expires, datetime.now(UTC))
        self._settle(snapshot, stored)

    def commit(self, expires: datetime) -> Steps[bool]:
        """Write what differs from what was loaded; with nothing to differ from, make a record.

        Writes nothing where nothing differs and the expiry has not moved. False: the session that
        was loaded is gone, and nothing was written.
        """
        if (stored := (yield from self._found())) is None:
            yield from self.insert(expires)
            return True
        snapshot, expires = self.snapshot(), _capped(expires, stored.created)
        if snapshot is stored.data and expires == stored.expires:
            return True
        written = yield "merge", stored, snapshot, expires
        if written is not None:
            self._settle(snapshot, written)
        return written is not None

    def rotate(self, expires: datetime) -> Steps[bool]:
        """Go on under a new id; with no record, make one. False: the session is gone."""
        if (stored := (yield from self._found())) is None:
            yield from self.insert(expires)
            return True
        snapshot = self.snapshot()
        written = yield "rotate", stored, snapshot, _capped(expires, stored.created)
        if written is not None:
            self._settle(snapshot, written)
        return written is not None

    def apply(
        self, name: str, function: Callable[[Any], Any], default: Any, expires: datetime
    ) -> Steps[bool]:
        """Change one stored name atomically, and nothing else. False: the session is gone."""
        yield from self.open()
        if (stored := (yield from self._found())) is None:
            data = {name: copied(function(copied(default, name)), name)}
            written = yield "insert", data, _capped(expires, datetime.now(UTC))
        else:
            data = {**stored.data, name: Apply(function, default)}
            written = yield "merge", stored, data, _capped(expires, stored.created)
        if written is None:
            return False
        self._settle(self._base, written)
        # What the request itself had put there is overtaken.
        dict.__setitem__(self.data, name, written.data[name])
        return True

    def destroy(self) -> Steps[None]:
        """End the session, now and for good; start over with nothing."""
        if self.session_id is not None:
            yield "delete_data", self.session_id
        self.session_id = self.stored = None
        self.replace_data({})
        self._asked = True

    def _found(self) -> Steps[Stored | None]:
        """What is stored, also where data was put in place without a look at it."""
        if self.stored is None:
            self.stored = yield from self.load()
            self.data.base = self._base
        return self.stored

    def _settle(self, before: Data, stored: Stored) -> None:
        """Go on from `stored`: where it is not what we knew (`before`), and the request has not
        changed that name since, take it over. What the caller holds of all others stays."""
        draft, base = self.data, self._base
        if stored.data is not before:
            for name in [*draft, *(stored.data.keys() - draft.keys())]:
                mine = dict.get(draft, name, _MISSING)
                theirs = stored.data.get(name, _MISSING)
                known = before.get(name, _MISSING)
                if mine is base.get(name, _MISSING) or (
                    not _equal(theirs, known) and _equal(mine, known)
                ):
                    if theirs is _MISSING:
                        dict.pop(draft, name, None)
                    else:
                        dict.__setitem__(draft, name, theirs)
        draft.base = stored.data
        self.stored, self.session_id = stored, stored.session_id
        self._asked = True  # the client's cookie has to follow


def _equal(one: object, other: object) -> bool:
    return one is other or (one is not _MISSING and other is not _MISSING and same(one, other))


def _fingerprint(value: object) -> bytes:
    try:
        return serialized(value)
    except TypeError:
        return b""


# -- expiry ---------------------------------------------------------------------------------------


def expires_after(age: float) -> datetime:
    """UTC now and `age` seconds, rounded up to a step of 1 % of them, at most five minutes.

    So most saves of a sliding session leave its expiry, an indexed column, as it is; and no session
    ends early.
    """
    now = datetime.now(UTC)
    step = min(age / 100, _LONGEST_STEP)
    if step <= 0:
        return now + timedelta(seconds=age)
    return datetime.fromtimestamp(math.ceil((now.timestamp() + age) / step) * step, UTC)


def _absolute_end(created: datetime | None) -> datetime | None:
    """``SESSION_ABSOLUTE_AGE`` (seconds) after `created`, whatever was done since (ASVS 7.3.2)."""
    age = setting("SESSION_ABSOLUTE_AGE")
    return None if age is None or created is None else created + timedelta(seconds=age)


def _capped(expires: datetime, created: datetime | None) -> datetime:
    end = _absolute_end(created)
    return expires if end is None else min(expires, end)
