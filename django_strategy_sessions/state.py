"""One session in one request: what was loaded, what changed, and how it is saved.

The engine and explicit storages share this core. Methods that call the store are generators of
`Steps`, so sync and async code follow the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, NamedTuple

from .conf import conf
from .draft import Draft
from .lines import as_dict
from .signals import LIMIT, LOGOUT, Ended, session_ended
from .steps import Steps, call
from .strategies.base import (
    USER_PREFIX,
    Apply,
    SessionStrategy,
    Stored,
    Texts,
    applied,
    brings_user,
    owners_of,
)
from .turns import Turn
from .values import Text, decode, encode, flash_name, is_scalar, same, text_of_name

_LONGEST_STEP = 300.0  # seconds
_RAISE: Any = object()
_NO_TEXTS = Texts()
_drafting = Lock()  # one for all sessions, because it is held for microseconds


class _UndoPoint(NamedTuple):
    """The state before a write that a transaction may still roll back."""

    is_undone: Callable[[], bool]
    session_id: str | None
    stored: Stored | None
    ends: bool  # the write was a logout


class State:
    """One session in one request. `session_id` is ``None`` if the store has no record of it.

    `others`: ids to try if `session_id` is gone; the client may send several cookies of one name.
    `may_follow`: whether a save may write to the new id after another request rotated the session.
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
        # The texts as loaded. Once somebody asks for `data`: the draft of them.
        self._held: Draft | Mapping[str, Any] = _NO_TEXTS
        self.loaded: bool = False  # also true once replace_data() has run
        self.spent: dict[str, Any] = {}  # flashes that were read: the save removes them
        self.is_confirmed: bool = False  # loaded only after the view returned
        self.is_renamed: bool = False  # the strategy has given the session another id
        self.ended: list[Ended] = []  # sessions whose end is to be announced
        self.turn: Turn = Turn()  # the request's threads and tasks share it
        self._asked = False
        self._seen: Mapping[str, Any] | None = None  # the texts at `modified = False`
        self._undo_points: list[_UndoPoint] = []  # the latest last

    @property
    def data(self) -> Draft:
        """The data to work on, which other code may keep and change.

        It is made from the loaded texts when first asked for. A request that reads scalars never
        asks, so it neither splits its record nor compares its data at the end.
        """
        held = self._held
        if not isinstance(held, Draft):
            with _drafting:  # all threads of the request have to get the same object
                held = self._held
                if not isinstance(held, Draft):
                    held = self._held = Draft(as_dict(held))
        return held

    def _hold(self, held: Draft | Mapping[str, Any]) -> None:
        with _drafting:  # so that no draft of what was held before replaces it
            self._held = held

    def rename(self, session_id: str | None) -> None:
        """Switch to another session id, or to none. The data stays; nothing is loaded."""
        self.session_id, self.others, self.stored = session_id, (), None

    def replace_data(self, data: Mapping[str, Any]) -> None:
        """Replace all data with `data`, without loading."""
        draft = Draft()
        draft.update(data)
        self._hold(draft)
        self.spent, self.loaded = {}, True

    def forget(self) -> None:
        """Unload the data, so that the next access loads it from the store."""
        self._hold(_NO_TEXTS)
        self.stored, self.spent, self.loaded, self._seen = None, {}, False, None

    def take_ended(self) -> list[Ended]:
        """Return the ends to announce, once."""
        ended, self.ended = self.ended, []
        return ended

    # -- flash: kept as `__flash_<name>__`; an ordinary value of the same name wins ---------------

    def flash(self, name: Any, value: Any) -> None:
        self.data[flash_name(text_of_name(name))] = value
        self._asked = True

    def find(self, name: Any) -> str | None:
        """Return the raw name that holds `name`'s value or flash, or ``None``."""
        try:
            raw = text_of_name(name)
        except TypeError:
            return None
        return raw if raw in self._held else self._find_flash(raw)

    def _find_flash(self, raw: str) -> str | None:
        flash = flash_name(raw)
        return flash if flash in self._held or flash in self.spent else None

    def read(self, name: Any, default: Any = _RAISE) -> Any:
        """Return the value, else the flash, which the next save then removes, else `default`."""
        held = self._held
        if isinstance(held, Draft) or type(name) is not str:
            raw = self.find(name)
        elif (text := held.get(name)) is None:
            raw = self._find_flash(name)
        else:
            # A scalar cannot be changed from within, so no draft needs to keep it.
            is_final = type(text) is Text and is_scalar(text)
            return decode(text) if is_final else self.data[name]
        if raw is None:
            if default is _RAISE:
                raise KeyError(name)
            return default
        if raw == text_of_name(name):
            return self.data[raw]
        if raw in self.data:
            self.spent[raw] = self.data.pop(raw)
        return self.spent[raw]

    def take(self, name: Any) -> Any:
        """Return the value or the flash, and remove it now."""
        value = self.read(name)
        raw = self.find(name) or name
        (self.data if raw in self.data else self.spent).pop(raw, None)
        return value

    # -- changes -----------------------------------------------------------------------------------

    @property
    def differs(self) -> bool:
        """Whether a save would write more than a new expiry."""
        return self._differs_from(self._base)

    def _differs_from(self, known: Mapping[str, Any]) -> bool:
        # As long as the texts themselves are held, nothing can have changed.
        return self._held is not known and bool(self._encode_data(known) != known)

    @property
    def modified(self) -> bool:
        """Whether a save was asked for, or any text differs from what was loaded.

        Never loads and never raises. Also true where the strategy gave the session another id,
        because the client needs its key.
        """
        return self.is_renamed or self._is_changed()

    @modified.setter
    def modified(self, value: bool) -> None:
        self._asked, self._seen = value, None
        if not value and self.loaded:
            held = self._held
            self._seen = _texts_of(held.raw()) if isinstance(held, Draft) else held

    def _is_changed(self) -> bool:
        if self._asked:
            return True
        known = self._base if self._seen is None else self._seen
        try:
            return self._differs_from(known)
        except Exception:
            return True  # the save will raise, and name what cannot be serialized

    @property
    def kept_until(self) -> datetime | None:
        """When the session ends, where nothing but its id has changed."""
        if not self.is_renamed or self.stored is None or self._is_changed():
            return None
        return self.stored.expires

    def _encode_data(self, known: Mapping[str, Any]) -> Texts:
        """Return the data as immutable texts, as a save writes it.

        A value equal to the one in `known` keeps its text from there, because some serializers
        give another text at each call.
        """
        texts = self.data.raw()
        for name in [name for name, value in texts.items() if type(value) is not Text]:
            # Error reports show local variables, so the value is not assigned to one.
            text, base = encode(name, texts[name]), known.get(name)
            texts[name] = base if base is not None and same(text, base) else text
        return texts

    @property
    def _base(self) -> Mapping[str, Any]:
        return self.stored.texts if self.stored else _NO_TEXTS

    # -- the store ---------------------------------------------------------------------------------

    def load(self) -> Steps[Stored | None]:
        """Load the first session that exists among the ids that the client sent."""
        while self.session_id is not None:
            stored = yield from call(SessionStrategy.load, self.session_id)
            if stored is not None:
                end = _compute_absolute_end(stored.created)
                if end is None or end > datetime.now(UTC):
                    self.others = ()
                    if stored.session_id != self.session_id:
                        yield from self._rename(stored)
                    return stored
            if not self.others:
                break
            self.session_id, *self.others = self.others
        return None

    def exists(self) -> Steps[bool]:
        """Ask the store whether the session exists now."""
        return (yield from self.load()) is not None

    def _rename(self, stored: Stored) -> Steps[None]:
        """Go on under the id that the strategy has given the session, unless a transaction takes
        that back."""
        before = stored._replace(session_id=self.session_id or "", token=None)
        yield from self._remember(self.session_id, before, stored)
        self.session_id, self.stored, self.is_renamed = stored.session_id, stored, True

    def open(self, no_load: bool = False) -> Steps[None]:
        """Load once. If the session does not exist, forget its id."""
        if self.loaded:
            return
        if no_load:
            self.replace_data({})
        else:
            self.stored = yield from self.load()
            if self.stored is None:
                self.session_id = None
            self._hold(self._base)
            self.loaded = True

    def insert(self, expires: datetime) -> Steps[bool]:
        """Create a record of the data under a new id. False: see `_continue_from`."""
        texts = self._encode_data({})
        stored = yield from call(SessionStrategy.insert, texts, _cap(expires, datetime.now(UTC)))
        return (yield from self._continue_from(texts, stored))

    def commit(self, expires: datetime, sends_key: bool) -> Steps[bool]:
        """Write what changed since the load, or create a record if none was loaded.

        If neither the data nor the expiry changed, write nothing. If the response will send the
        key (`sends_key`), ask the store first whether the session still exists. False: the loaded
        session is gone, and nothing was written.
        """
        yield from self.take_back()
        if (stored := (yield from self._find_stored())) is None:
            return (yield from self.insert(expires))
        base = as_dict(stored.texts)
        texts = self._encode_data(base)
        signs_in = brings_user(base, texts)
        expires = _cap(expires, datetime.now(UTC) if signs_in else stored.created)
        differs = texts != base or expires != stored.expires
        asks = sends_key and not self.is_confirmed
        if not differs and (not asks or (yield from self.load()) is not None):
            return True
        written = yield from call(SessionStrategy.merge, stored, texts, expires)
        if written is None:
            return False
        return (yield from self._continue_from(texts, written))

    def rotate(self, expires: datetime) -> Steps[bool]:
        """Move the session to a new id, or create it if it has none. False: it is gone."""
        yield from self.take_back()
        if (stored := (yield from self._find_stored())) is None:
            return (yield from self.insert(expires))
        texts = self._encode_data(stored.texts)
        expires = _cap(expires, stored.created)
        written = yield from call(SessionStrategy.rotate, stored, texts, expires)
        if written is None:
            return False
        return (yield from self._continue_from(texts, written))

    def apply(self, name: str, change: Apply, expires: datetime) -> Steps[bool]:
        """Atomically change one stored name and nothing else. False: the session is gone."""
        name = text_of_name(name)
        yield from self.open()
        yield from self.take_back()
        if (stored := (yield from self._find_stored())) is None:
            text = applied(name, change, None)
            expires = _cap(expires, datetime.now(UTC))
            written = yield from call(SessionStrategy.insert, Texts({name: text}), expires)
        else:
            texts = Texts({**as_dict(stored.texts), name: change})
            expires = _cap(expires, stored.created)
            merged = yield from call(SessionStrategy.merge, stored, texts, expires)
            if merged is None:
                return False
            written = merged
        if not (yield from self._continue_from(as_dict(self._base), written)):
            return False
        # The result replaces the request's own unsaved value. It is decoded, so that `modified`
        # notices changes made inside it.
        self.data.put(name, decode(written.texts[name]))
        return True

    def destroy(self) -> Steps[None]:
        """Delete the session now, for good, and start an empty one."""
        yield from self.take_back()
        if session_ended.has_listeners():
            yield from self._find_stored()  # whose it is
        owners = owners_of(self._base)
        yield from self._end(self.session_id, self.stored)
        self.ended += [Ended(owner, LOGOUT) for owner in owners[:1]]
        self.session_id = self.stored = None
        self.replace_data({})
        self._asked = True

    def take_back(self) -> Steps[None]:
        """Return to the state before writes that a transaction rolled back.

        A logout is final: if it was rolled back, it runs again.
        """
        undone: list[_UndoPoint] = []
        while self._undo_points and self._undo_points[-1].is_undone():
            undone.append(self._undo_points.pop())
        ended = False
        for before in undone:
            ended = ended or before.ends
            if ended:
                # Ids that the session had earlier in the transaction must end too.
                yield from self._end(before.session_id, before.stored)
            else:
                self._restore(before)

    def _restore(self, before: _UndoPoint) -> None:
        undone, moved = self._base, self.session_id != before.session_id
        self.session_id, self.stored = before.session_id, before.stored
        if moved:
            # The rollback undid the sign-in, and possibly the user's row. A signed-in user must not
            # be saved under the key from before the sign-in either (ASVS 7.2.4).
            self._undo_sign_in()
        self._asked, self._seen = False, None
        raw = self.data.raw()
        for name in raw:
            # A text that the request did not decode follows the store.
            if type(raw[name]) is Text and raw[name] == undone.get(name):
                if (text := self._base.get(name)) is None:
                    del self.data[name]
                else:
                    self.data.put(name, text)

    def _undo_sign_in(self) -> None:
        if brings_user(self._base, self._encode_data(self._base)):
            for name in [name for name in self.data if name.startswith(USER_PREFIX)]:
                del self.data[name]
            for name, text in self._base.items():
                if name.startswith(USER_PREFIX):
                    self.data.put(name, text)

    @property
    def is_provisional(self) -> bool:
        """Whether a transaction may have rolled back, or may still roll back, a write."""
        return bool(self._undo_points)

    def _end(self, session_id: str | None, stored: Stored | None) -> Steps[None]:
        if session_id is None:
            return
        if stored is not None:
            yield from call(SessionStrategy.end, stored)
        else:
            yield from call(SessionStrategy.delete_data, session_id)
        yield from self._remember(session_id, stored, None)

    def _remember(
        self, session_id: str | None, stored: Stored | None, written: Stored | None
    ) -> Steps[None]:
        is_undone = yield from call(SessionStrategy.is_undone, written)
        if is_undone is not None:
            ends = written is None
            self._undo_points.append(_UndoPoint(is_undone, session_id, stored, ends))

    def _find_stored(self) -> Steps[Stored | None]:
        """Return the stored session, as a save may write it; load it if replace_data() ran without
        loading."""
        if self.stored is None:
            self.stored = yield from self.load()
        if self.stored is not None and not self.may_follow:
            self.stored = self.stored._replace(may_follow=False)
        return self.stored

    def references(self) -> Steps[Collection[str]]:
        """Return the references that the stored session has had since it was loaded."""
        stored = yield from self._find_stored()
        return () if stored is None else (yield from call(SessionStrategy.references, stored))

    def _continue_from(self, texts: Mapping[str, Any], stored: Stored) -> Steps[bool]:
        """Continue from `stored`, the result of writing `texts`.

        False: it signed a user in, and ``SESSION_LIMIT_PER_USER`` newer sessions have ended it.
        """
        yield from self._remember(self.session_id, self.stored, stored)
        signs_in = brings_user(self._base, stored.texts)
        self.stored, self.session_id = stored, stored.session_id
        self._asked = True  # so that the response sends the cookie
        if stored.texts is not texts:
            self._take_over(texts, stored)
        return not signs_in or (yield from self._keep_limit(stored))

    def _take_over(self, texts: Mapping[str, Any], stored: Stored) -> None:
        """Take over what other requests wrote, except names that this request has changed since
        `texts` was made. Every other name keeps the object that the caller may hold."""
        raw = self.data.raw()
        for name in {**texts, **stored.texts}:
            theirs, known = stored.texts.get(name), texts.get(name)
            if theirs is not known and theirs != known and _is_unchanged(raw, name, known):
                if theirs is None:
                    self.data.pop(name, None)
                else:
                    self.data.put(name, theirs)

    def _keep_limit(self, stored: Stored) -> Steps[bool]:
        """End the user's oldest sessions beyond ``SESSION_LIMIT_PER_USER`` (ASVS 7.1.2). Return
        whether this one is still there.

        Each sign-in comes here after its write, so of several at once the last sees all of them.
        They agree on which are the newest, and that may end this one. Sessions in which somebody
        impersonates the user do not count.
        """
        owners, limit = owners_of(stored.texts), conf.SESSION_LIMIT_PER_USER
        if limit is None or len(owners) > 1:
            return True
        owned = yield from call(SessionStrategy.find_owned, owners[0])
        theirs = [one for one in owned if owners_of(one.texts) == owners]
        theirs.sort(key=lambda one: (one.created, one.reference), reverse=True)
        beyond = [one.reference for one in theirs[limit:]]
        if not beyond:
            return True
        own = yield from call(SessionStrategy.references, stored)
        count = yield from call(SessionStrategy.end_owned, owners[0], beyond)
        self.ended += [Ended(owners[0], LIMIT)] * count
        return not set(own) & set(beyond)


def _texts_of(raw: Texts) -> dict[str, Any]:
    """Return the text of each name, or ``None`` if its value cannot be serialized."""
    texts: dict[str, Any] = {}
    for name in raw:
        try:
            texts[name] = _text(raw, name)
        except TypeError:
            texts[name] = None
    return texts


def _text(raw: Texts, name: str) -> Any:
    return raw[name] if type(raw[name]) is Text else encode(name, raw[name])


def _is_unchanged(raw: Texts, name: str, known: str | None) -> bool:
    """Whether the request still holds the text `known`, or still lacks the name."""
    if name not in raw or known is None:
        return name not in raw and known is None
    try:
        return same(_text(raw, name), known)
    except TypeError:  # not serializable, so it was never stored
        return False


# -- expiry ---------------------------------------------------------------------------------------


def expires_after(age: float) -> datetime:
    """Return the UTC time `age` seconds from now, rounded up to the next step.

    A step is 1 % of `age`, at most five minutes. Most saves of a sliding session then leave its
    expiry, an indexed column, unchanged, and no session ends early.
    """
    now = datetime.now(UTC)
    step = min(age / 100, _LONGEST_STEP)
    if step <= 0:
        return now + timedelta(seconds=age)
    return datetime.fromtimestamp(math.ceil((now.timestamp() + age) / step) * step, UTC)


def _compute_absolute_end(created: datetime | None) -> datetime | None:
    """Return `created` plus ``SESSION_ABSOLUTE_AGE`` seconds (ASVS 7.3.2), or ``None``."""
    age = conf.SESSION_ABSOLUTE_AGE
    return None if age is None or created is None else created + timedelta(seconds=age)


def _cap(expires: datetime, created: datetime | None) -> datetime:
    end = _compute_absolute_end(created)
    return expires if end is None else min(expires, end)
