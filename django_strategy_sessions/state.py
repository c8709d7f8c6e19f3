"""A session as one request holds it: what was loaded, what changed, and how it is saved.

The core that the engine and explicit storages share. What talks to the store is written as `Steps`,
so that sync and async code carry out the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from .conf import conf
from .draft import Draft
from .steps import Steps, call
from .strategies.base import (
    USER_PREFIX,
    Apply,
    SessionStrategy,
    Stored,
    Texts,
    applied,
    brings_user,
)
from .turns import Turn
from .values import Text, decode, encode, flash_name, same, text_of_name

_LONGEST_STEP = 300.0  # seconds


class _Before(NamedTuple):
    """Where a session stood before a write that a transaction may yet take back."""

    is_undone: Callable[[], bool]
    session_id: str | None
    stored: Stored | None
    ends: bool  # the write was a logout


class State:
    """One session in one request. `session_id` is ``None`` where there is none in the store.

    `others`: ids to try if that one is gone, because the client sent several cookies of one name.
    `may_follow`: whether a save finds its way where another request has rotated the session.
    """

    def __init__(
        self,
        session_id: str | None = None,
        others: Sequence[str] = (),
        may_follow: bool = True,
    ) -> None:
        self.session_id = session_id
        self.may_follow = may_follow
        self.others: Sequence[str] = others
        self.stored: Stored | None = None
        self.data: Draft = Draft()
        self.loaded: bool = False  # or put in place
        self.spent: dict[str, Any] = {}  # flashes that were read: gone with the save
        self.is_confirmed: bool = False  # the store was asked when the response was there
        self.turn: Turn = Turn()  # of the threads and tasks of the request
        self._asked = False
        self._seen: dict[str, Any] | None = None  # what `modified = False` found changed already
        self._befores: list[_Before] = []  # the latest last

    def rename(self, session_id: str | None) -> None:
        """Be about another session, or none, of which nothing is known yet; the data stays."""
        self.session_id, self.others, self.stored = session_id, (), None

    def replace_data(self, data: Mapping[str, Any]) -> None:
        """Put `data` in place of all that is there, without looking what that is."""
        draft = Draft()
        draft.update(data)
        self.data, self.spent, self.loaded = draft, {}, True

    def forget(self) -> None:
        """Unload: the next look at the data asks the store."""
        self.stored, self.data, self.spent, self.loaded = None, Draft(), {}, False
        self._seen = None

    # -- flash: kept as `__flash_<name>__`; an ordinary value of the same name wins ---------------

    def flash(self, name: Any, value: Any) -> None:
        self.data[flash_name(text_of_name(name))] = value
        self._asked = True

    def find(self, name: Any) -> str | None:
        """The raw name that answers for `name`, if one does."""
        try:
            raw = text_of_name(name)
        except TypeError:
            return None
        if raw in self.data:
            return raw
        flash = flash_name(raw)
        return flash if flash in self.data or flash in self.spent else None

    def read(self, name: Any) -> Any:
        """The value that `find` found. Reading a flash takes it."""
        if name in self.data:
            return self.data[name]
        raw = self.find(name)
        if raw is None:
            raise KeyError(name)
        if raw in self.data:
            self.spent[raw] = self.data.pop(raw)
        return self.spent[raw]

    def take(self, name: Any) -> Any:
        """Read, and leave nothing of it."""
        value = self.read(name)
        raw = self.find(name) or name
        (self.data if raw in self.data else self.spent).pop(raw, None)
        return value

    # -- changes -----------------------------------------------------------------------------------

    @property
    def differs(self) -> bool:
        """Whether a save would write anything but a later expiry."""
        return bool(self._texts(self._base) != self._base)

    @property
    def modified(self) -> bool:
        """Whether a save was asked for, or any text differs from what was loaded.

        Never loads and never raises.
        """
        if self._asked:
            return True
        known = self._base if self._seen is None else self._seen
        try:
            return bool(self._texts(known) != known)
        except Exception:
            return True  # the save will say what it is that cannot be serialized

    @modified.setter
    def modified(self, value: bool) -> None:
        self._asked, self._seen = value, None
        if not value and self.loaded:
            self._seen = {}
            raw = self.data.raw()
            for name in raw:
                try:
                    self._seen[name] = _text(raw, name)
                except TypeError:
                    self._seen[name] = None

    def _texts(self, known: Mapping[str, Any]) -> Texts:
        """What a save writes: texts, which nobody who holds the session can change. Those of names
        that hold the same as in `known` are taken from there."""
        texts = self.data.raw()
        for name in texts:
            # The value is in no variable, because error reports would show it.
            if type(texts[name]) is not Text:
                text, base = encode(name, texts[name]), known.get(name)
                texts[name] = base if base is not None and same(text, base) else text
        return texts

    @property
    def _base(self) -> Mapping[str, Any]:
        return self.stored.texts if self.stored else {}

    # -- the store ---------------------------------------------------------------------------------

    def load(self) -> Steps[Stored | None]:
        """The first session that lives of those that the client may mean."""
        while self.session_id is not None:
            stored = yield from call(SessionStrategy.load, self.session_id)
            if stored is not None:
                end = _absolute_end(stored.created)
                if end is None or end > datetime.now(UTC):
                    self.others = ()
                    return stored if self.may_follow else stored.alone()
            if not self.others:
                break
            self.session_id, *self.others = self.others
        return None

    def exists(self) -> Steps[bool]:
        """Whether the store holds it now."""
        return (yield from self.load()) is not None

    def open(self, no_load: bool = False) -> Steps[None]:
        """Load, if that was not done. A session that is not there has no id from then on."""
        if self.loaded:
            return
        if no_load:
            self.replace_data({})
        else:
            self.stored = yield from self.load()
            if self.stored is None:
                self.session_id = None
            draft = Draft()
            draft.take_over(self._base)
            self.data, self.loaded = draft, True

    def insert(self, expires: datetime) -> Steps[None]:
        """Make a new record of the data, under a new id."""
        texts = self._texts({})
        stored = yield from call(SessionStrategy.insert, texts, _capped(expires, datetime.now(UTC)))
        yield from self._go_on(texts, stored)

    def commit(self, expires: datetime, sends_key: bool) -> Steps[bool]:
        """Write what differs from what was loaded; with nothing to differ from, make a record.

        Writes nothing where nothing differs and the expiry has not moved. But if that is to send
        the client its key, it asks whether the session still lives. False: the session that was
        loaded is gone, and nothing was written.
        """
        yield from self.take_back()
        if (stored := (yield from self._found())) is None:
            yield from self.insert(expires)
            return True
        texts = self._texts(stored.texts)
        signs_in = brings_user(stored.texts, texts)
        expires = _capped(expires, datetime.now(UTC) if signs_in else stored.created)
        differs = texts != stored.texts or expires != stored.expires
        asks = sends_key and not self.is_confirmed
        if not differs and (not asks or (yield from self.load()) is not None):
            return True
        written = yield from call(SessionStrategy.merge, stored, texts, expires)
        if written is None:
            return False
        yield from self._go_on(texts, written)
        return True

    def rotate(self, expires: datetime) -> Steps[bool]:
        """Go on under a new id; with no record, make one. False: the session is gone."""
        yield from self.take_back()
        if (stored := (yield from self._found())) is None:
            yield from self.insert(expires)
            return True
        texts = self._texts(stored.texts)
        expires = _capped(expires, stored.created)
        written = yield from call(SessionStrategy.rotate, stored, texts, expires)
        if written is None:
            return False
        yield from self._go_on(texts, written)
        return True

    def apply(self, name: str, change: Apply, expires: datetime) -> Steps[bool]:
        """Change one stored name atomically, and nothing else. False: the session is gone."""
        name = text_of_name(name)
        yield from self.open()
        yield from self.take_back()
        if (stored := (yield from self._found())) is None:
            text = applied(name, change, None)
            expires = _capped(expires, datetime.now(UTC))
            written = yield from call(SessionStrategy.insert, Texts({name: text}), expires)
        else:
            texts = Texts({**stored.texts, name: change})
            expires = _capped(expires, stored.created)
            merged = yield from call(SessionStrategy.merge, stored, texts, expires)
            if merged is None:
                return False
            written = merged
        yield from self._go_on(self._base, written)
        # It replaces what the request itself had put there. A value, because it is this request's.
        self.data.put(name, decode(written.texts[name]))
        return True

    def destroy(self) -> Steps[None]:
        """End the session, now and for good; start over with nothing."""
        yield from self.take_back()
        yield from self._end(self.session_id, self.stored)
        self.session_id = self.stored = None
        self.replace_data({})
        self._asked = True

    def take_back(self) -> Steps[None]:
        """Go on from what was before, where a transaction has rolled back what was written. A
        logout is final: it is carried out again."""
        undone: list[_Before] = []
        while self._befores and self._befores[-1].is_undone():
            undone.append(self._befores.pop())
        ended = False
        for before in undone:
            ended = ended or before.ends
            if ended:
                # Also under the keys that the session had earlier in the transaction.
                yield from self._end(before.session_id, before.stored)
            else:
                self._restore(before)

    def _restore(self, before: _Before) -> None:
        undone, moved = self._base, self.session_id != before.session_id
        self.session_id, self.stored = before.session_id, before.stored
        if moved:
            # Somebody who signed in within the transaction has not; the user may be gone as well.
            # And no sign-in may end up under a key that is known from before (ASVS 7.2.4).
            self._undo_sign_in()
        self._asked, self._seen = False, None
        raw = self.data.raw()
        for name in raw:
            # What nobody looked at is as the store has it.
            if type(raw[name]) is Text and raw[name] == undone.get(name):
                if (text := self._base.get(name)) is None:
                    del self.data[name]
                else:
                    self.data.put(name, text)

    def _undo_sign_in(self) -> None:
        if brings_user(self._base, self._texts(self._base)):
            for name in [name for name in self.data if name.startswith(USER_PREFIX)]:
                del self.data[name]
            for name, text in self._base.items():
                if name.startswith(USER_PREFIX):
                    self.data.put(name, text)

    @property
    def is_provisional(self) -> bool:
        """Whether a transaction may have taken back what was written."""
        return bool(self._befores)

    def _end(self, session_id: str | None, stored: Stored | None) -> Steps[None]:
        if session_id is None:
            return
        if stored is not None:
            yield from call(SessionStrategy.end, stored)
        else:
            yield from call(SessionStrategy.delete_data, session_id)
        yield from self._remember(session_id, stored, ends=True)

    def _remember(
        self, session_id: str | None, stored: Stored | None, ends: bool = False
    ) -> Steps[None]:
        is_undone = yield from call(SessionStrategy.is_undone)
        if is_undone is not None:
            self._befores.append(_Before(is_undone, session_id, stored, ends))

    def _found(self) -> Steps[Stored | None]:
        """What is stored, also where data was put in place without a look at it."""
        if self.stored is None:
            self.stored = yield from self.load()
        return self.stored

    def _go_on(self, texts: Mapping[str, Any], stored: Stored) -> Steps[None]:
        """Go on from `stored`, which was written in place of `texts`. Where it holds something
        else, because other requests wrote too, and the request has not changed that name since,
        take it over. What the caller holds of all other names stays."""
        yield from self._remember(self.session_id, self.stored)
        if not self.may_follow:
            stored = stored.alone()
        self.stored, self.session_id = stored, stored.session_id
        self._asked = True  # the client's cookie has to follow
        if stored.texts is texts:
            return
        raw = self.data.raw()
        for name in {**texts, **stored.texts}:
            theirs, known = stored.texts.get(name), texts.get(name)
            if theirs is not known and theirs != known and _is_still(raw, name, known):
                if theirs is None:
                    self.data.pop(name, None)
                else:
                    self.data.put(name, theirs)


def _text(raw: Texts, name: str) -> Any:
    return raw[name] if type(raw[name]) is Text else encode(name, raw[name])


def _is_still(raw: Texts, name: str, known: str | None) -> bool:
    """Whether the request holds of a name what was known."""
    if name not in raw or known is None:
        return name not in raw and known is None
    try:
        return same(_text(raw, name), known)
    except TypeError:  # it cannot be serialized, so nobody has stored it
        return False


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
    age = conf.SESSION_ABSOLUTE_AGE
    return None if age is None or created is None else created + timedelta(seconds=age)


def _capped(expires: datetime, created: datetime | None) -> datetime:
    end = _absolute_end(created)
    return expires if end is None else min(expires, end)
