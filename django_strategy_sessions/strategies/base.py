"""The contract between the engine and a store. Authors of strategies, start here.

Write four verbs, ``create_data``, ``read_data``, ``update_data`` and ``delete_data``, and the
engine can keep its sessions in your store::

    class DictStrategy(SessionStrategy):
        def __init__(self):
            self.records = {}

        def create_data(self, data, expires):
            session_id = secrets.token_urlsafe(16)
            self.records[session_id] = json.dumps(data), expires
            return session_id

        def read_data(self, session_id):
            text, expires = self.records.get(session_id, (None, None))
            return json.loads(text) if text and expires > datetime.now(UTC) else None

        def update_data(self, session_id, data, expires):
            if self.read_data(session_id) is None:
                return False
            self.records[session_id] = json.dumps(data), expires
            return True

        def delete_data(self, session_id):
            self.records.pop(session_id, None)

Prove it with ``testing.StrategyContract``. The engine itself calls ``load``, ``insert``, ``merge``,
``rotate``, ``end`` and ``delete_data``. Their defaults are built on the four verbs and are right
for one writer at a time. To be right for several, write the five verbs of
``strategies.sealed.SealedStrategy`` instead and prove them with ``testing.AtomicStrategyContract``.

What every strategy promises:

- Absence is an answer: ``None`` or ``False``. A store that cannot answer raises
  ``StrategyUnavailable``, chained to its cause. ``None`` never means "I could not tell", because
  the engine would log the visitor out. Only operational failures of the driver become
  ``StrategyUnavailable``; a missing table or a broken transaction surfaces as itself.
- Missing and expired are the same thing. A session ends at ``expires``, not a moment later.
- After ``delete_data`` has returned, no late update, merge or rotation brings that id back.
- ``data`` is a dict of JSON-able values. A read returns new objects, never those that were written.
- ``expires`` is always given and always an aware UTC ``datetime``. It may be in the past: a session
  created with a past one reads as ``None``.
- One instance serves every thread and event loop; it keeps no request state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from asgiref.sync import sync_to_async
from django.core.checks import CheckMessage

from ..hidden import Hidden, HiddenDict
from ..lines import as_dict
from ..steps import Steps, arun, call, run
from ..values import Data, Text, Texts, decode, decode_all, encode, encode_all, is_flash, same

__all__ = [
    "Answers",
    "Apply",
    "Data",
    "OldKey",
    "Owned",
    "SessionStrategy",
    "Stored",
    "StrategyUnavailable",
    "Texts",
    "applied",
    "as_texts",
    "brings_user",
    "owners_of",
    "reconcile",
]

USER_PREFIX = "_auth_user_"  # of django.contrib.auth's names
USER = f"{USER_PREFIX}id"
EXPIRY = "_session_expiry"  # the name that set_expiry() sets
# django-hijack's list of the users who impersonate this one, the person at the keyboard first.
IMPERSONATORS = "hijack_history"


class StrategyUnavailable(Exception):
    """The store could not answer. This never means that the session does not exist."""


class Answers:
    """``with answers:`` turns the errors that `is_outage` names into ``StrategyUnavailable``."""

    def __init__(self, is_outage: Callable[[BaseException], bool], message: str) -> None:
        self._is_outage, self._message = is_outage, message

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and self._is_outage(error):
            raise StrategyUnavailable(self._message) from error


class OldKey(Hidden):
    """The session key of another engine: an id that goes into the cookie as it is."""

    __slots__ = ()


class Stored(NamedTuple):
    """What a store held at one moment."""

    session_id: str
    texts: Mapping[str, Any]  # as loaded; the engine does not change them
    expires: datetime | None = None  # None: the strategy does not tell
    created: datetime | None = None
    token: object = None  # only the strategy reads it
    # True if another request rotated the session, so that this request cannot know its new id.
    followed: bool = False
    # Whether a save may write to that id. False where every save sends the cookie of the old one.
    may_follow: bool = True

    def __repr__(self) -> str:
        return f"<Stored until {self.expires}>"  # error reports show it

    def __sentry_repr__(self) -> str:
        return repr(self)

    @property
    def data(self) -> Data:
        """The values by name. Each access returns a new dict."""
        return decode_all(self.texts)


class Owned(NamedTuple):
    """A live session of an owner, found without its id."""

    # Names the session to `end_owned`. It is no key: nobody can use the session with it.
    reference: str
    texts: Texts
    expires: datetime
    created: datetime


class Apply(NamedTuple):
    """A function that stands for a text. `merge` and `rotate` compute the value as they write.

    `function` gets a copy of the stored value, or of `default`, and may run more than once.
    """

    function: Callable[[Any], Any]
    default: Any = None

    def __repr__(self) -> str:
        return "<Apply>"  # error reports show it

    def __sentry_repr__(self) -> str:
        return repr(self)


class SessionStrategy:
    """One store of sessions. Options in ``SESSION_STRATEGY`` are arguments of ``__init__``."""

    # True if merge, rotate and delete_data pass AtomicStrategyContract.
    atomic: ClassVar[bool] = False
    # True if `load` sets `created`, which SESSION_ABSOLUTE_AGE needs.
    keeps_created: ClassVar[bool] = False
    # False if only this process sees the sessions, so that production must not use it.
    is_shared: ClassVar[bool] = True
    # True if the store removes expired sessions itself, so clearexpiredsessions does nothing.
    expires_by_itself: ClassVar[bool] = False
    # How many sessions clearexpiredsessions deletes in one transaction, unless it is told.
    batch_size: int = 1000
    # True if `find_owned`, `end_owned` and `references` work: "sign out everywhere" needs them.
    finds_owners: bool = False

    # -- what an author writes --------------------------------------------------------------------

    def create_data(self, data: Data, expires: datetime) -> str:
        """Insert, never overwrite; return the new session id: 128 random bits (ASVS 7.2.3)."""
        raise NotImplementedError(f"{type(self).__name__} must define create_data()")

    def read_data(self, session_id: str) -> Data | None:
        """Return the data, or ``None`` for a session that is missing or expired."""
        raise NotImplementedError(f"{type(self).__name__} must define read_data()")

    def update_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        """Replace what is there. If the session is gone, write nothing and return ``False``."""
        raise NotImplementedError(f"{type(self).__name__} must define update_data()")

    def delete_data(self, session_id: str) -> None:
        """Delete the session for good. Deleting a missing session is no error."""
        raise NotImplementedError(f"{type(self).__name__} must define delete_data()")

    # -- what the engine calls --------------------------------------------------------------------
    # The engine passes `values.Texts`, one text per name. Tests may pass a plain dict of values.

    def load(self, session_id: str) -> Stored | None:
        return run(self, _load(session_id))

    def insert(self, data: Data | Texts, expires: datetime) -> Stored:
        return run(self, _insert(as_texts(data), expires))

    def merge(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        """Write the changes from `stored` to `data`. Return ``None`` if the session is gone.

        If the store still holds `stored`, write `data`. If another request has written since, write
        the result of `reconcile`, and repeat if the session has changed yet again. The repetition
        must end: by a lock, or by ``StrategyUnavailable``. If only the expiry moves, do not rewrite
        the data.
        """
        return run(self, _merge(stored, as_texts(data), expires))

    def rotate(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        """Like `merge`, but move to a new id. The old id is dead afterwards (ASVS 7.2.4)."""
        return run(self, _rotate(stored, as_texts(data), expires))

    def end(self, stored: Stored) -> None:
        """Delete a session that this request loaded, even if another request has rotated it since,
        where the strategy can tell."""
        self.delete_data(stored.session_id)

    def adopt(self, key: str) -> OldKey | None:
        """The id of a session key that we did not sign: of one whose engine this strategy knows.

        It asks no store. `load` may then answer with another id, under which the session goes on.
        """
        return None

    def is_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        """Called after a write, with its result, or after a deletion, with ``None``. Return a
        function that tells later whether a transaction rolled it back, or ``None`` if that cannot
        happen."""
        return None

    # An owner is the text of a user's primary key: the session's `_auth_user_id`, and the users who
    # impersonate that one.

    def find_owned(self, owner: str) -> list[Owned]:
        """Return the owner's live sessions. One that was written before the call is among them."""
        raise NotImplementedError(f"{type(self).__name__} does not define find_owned()")

    def end_owned(self, owner: str, references: Collection[str]) -> int:
        """Delete these sessions for good, also if another request rotates one at the same moment.
        Ignore references that are not the owner's. Return how many sessions ended."""
        raise NotImplementedError(f"{type(self).__name__} does not define end_owned()")

    def references(self, stored: Stored) -> Collection[str]:
        """Return the references that this session has had since it was loaded."""
        raise NotImplementedError(f"{type(self).__name__} does not define references()")

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        """Delete expired sessions, at most `batch_size` per transaction. Yield each count."""
        raise NotImplementedError(f"{type(self).__name__} does not define clear_expired()")

    def count_expired(self) -> int:
        """Return how many sessions `clear_expired` would delete now."""
        raise NotImplementedError(f"{type(self).__name__} does not define count_expired()")

    def check(self) -> Iterable[CheckMessage]:
        """Return messages for ``manage.py check`` about the strategy's configuration."""
        return ()

    def examine(self, databases: Collection[str] | None = None) -> Iterable[CheckMessage]:
        """Ask the store, and return messages for ``manage.py sessionsdoctor``.

        With `databases`, for ``manage.py check --database``, ask only these aliases. The messages
        contain neither ids nor data. What the store does not permit is an `Info`, not an error. A
        strategy over others calls `health.examine` for each of them.
        """
        return ()

    # -- the same for async code ------------------------------------------------------------------
    # By default, each runs the sync verb in a thread. But where the author has not overridden
    # `load`, `insert`, `merge` or `rotate`, its twin runs the default over the author's `a` verbs.

    async def acreate_data(self, data: Data, expires: datetime) -> str:
        return await sync_to_async(self.create_data)(data, expires)

    async def aread_data(self, session_id: str) -> Data | None:
        return await sync_to_async(self.read_data)(session_id)

    async def aupdate_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        return await sync_to_async(self.update_data)(session_id, data, expires)

    async def adelete_data(self, session_id: str) -> None:
        await sync_to_async(self.delete_data)(session_id)

    async def aload(self, session_id: str) -> Stored | None:
        if type(self).load is not SessionStrategy.load:
            return await sync_to_async(self.load)(session_id)
        return await arun(self, _load(session_id))

    async def ainsert(self, data: Data | Texts, expires: datetime) -> Stored:
        if type(self).insert is not SessionStrategy.insert:
            return await sync_to_async(self.insert)(data, expires)
        return await arun(self, _insert(as_texts(data), expires))

    async def amerge(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        if type(self).merge is not SessionStrategy.merge:
            return await sync_to_async(self.merge)(stored, data, expires)
        return await arun(self, _merge(stored, as_texts(data), expires))

    async def arotate(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        if type(self).rotate is not SessionStrategy.rotate:
            return await sync_to_async(self.rotate)(stored, data, expires)
        return await arun(self, _rotate(stored, as_texts(data), expires))

    async def aend(self, stored: Stored) -> None:
        await self.adelete_data(stored.session_id)

    async def ais_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        return None

    async def afind_owned(self, owner: str) -> list[Owned]:
        return await sync_to_async(self.find_owned)(owner)

    async def aend_owned(self, owner: str, references: Collection[str]) -> int:
        return await sync_to_async(self.end_owned)(owner, references)

    async def areferences(self, stored: Stored) -> Collection[str]:
        return await sync_to_async(self.references)(stored)

    async def aclear_expired(self, batch_size: int) -> AsyncIterator[int]:
        counts = self.clear_expired(batch_size)
        while (count := await sync_to_async(lambda: next(counts, None))()) is not None:
            yield count

    async def acount_expired(self) -> int:
        return await sync_to_async(self.count_expired)()


# -- the defaults of the engine's verbs: right for one writer at a time ---------------------------


def _load(session_id: str) -> Steps[Stored | None]:
    data: Any = yield from call(SessionStrategy.read_data, session_id)
    if isinstance(data, dict):
        data = HiddenDict(data)
        return Stored(session_id, encode_all(data))
    if data:
        raise TypeError(f"read_data() must return a dict or None, not {type(data).__name__}")
    return None


def _insert(texts: Texts, expires: datetime) -> Steps[Stored]:
    session_id: Any = yield from call(
        SessionStrategy.create_data, HiddenDict(decode_all(texts)), expires
    )
    if not isinstance(session_id, str) or not session_id:
        raise TypeError(f"create_data() must return an id (str), not {type(session_id).__name__}")
    return Stored(Hidden(session_id), texts, expires)


def _merge(stored: Stored, texts: Texts, expires: datetime) -> Steps[Stored | None]:
    session_id = stored.session_id
    current = yield from call(SessionStrategy.load, session_id)
    if current is None:
        return None
    texts, expires = reconcile(stored, texts, expires, current)
    data = HiddenDict(decode_all(texts))
    kept: Any = yield from call(SessionStrategy.update_data, session_id, data, expires)
    if not isinstance(kept, bool):
        raise TypeError("update_data() must return whether the session was there (bool)")
    return Stored(session_id, texts, expires, current.created) if kept else None


def _rotate(stored: Stored, texts: Texts, expires: datetime) -> Steps[Stored | None]:
    current = yield from call(SessionStrategy.load, stored.session_id)
    if current is None:
        return None
    # Delete first: a crash in between then ends the session and never leaves two.
    yield from call(SessionStrategy.delete_data, stored.session_id)
    merged = reconcile(stored, texts, expires, current)
    return (yield from call(SessionStrategy.insert, *merged))


def as_texts(data: Mapping[str, Any]) -> Texts:
    """Serialize data, unless it is texts already. An `Apply` stays as it is."""
    data = as_dict(data)
    if isinstance(data, Texts):
        return data
    applied = {name: value for name, value in data.items() if isinstance(value, Apply)}
    texts = encode_all({name: value for name, value in data.items() if name not in applied})
    return Texts({name: applied.get(name) or texts[name] for name in data})


# -- the three-way merge --------------------------------------------------------------------------


def reconcile(
    stored: Stored, texts: Texts, expires: datetime, current: Stored
) -> tuple[Texts, datetime]:
    """Apply the changes from ``stored.texts`` to `texts` to `current`. Return texts and expiry.

    A name that only one side changed keeps that side's value. If both sides changed a name, ours,
    the later, wins. Removing a name wins over changing it, except that removing a flash removes
    only the value that was seen, in either order. If only the other side changed
    `_session_expiry`, its expiry stays.
    """
    ours, base, theirs = texts, as_dict(stored.texts), as_dict(current.texts)
    if theirs is not base:
        texts = Texts(theirs)
        for name, text in ours.items():
            if (
                isinstance(text, Apply)
                or name not in base
                or ((name in theirs or is_flash(name)) and not same(text, base[name]))
            ):
                texts[name] = text
        for name in base.keys() - ours.keys():
            if name in theirs and not (is_flash(name) and not same(theirs[name], base[name])):
                del texts[name]
        was, now = base.get(EXPIRY), theirs.get(EXPIRY)
        if current.expires and now != was and ours.get(EXPIRY) == was:
            expires = current.expires
    if Apply in map(type, texts.values()):
        texts = Texts(
            {
                name: applied(name, text, theirs.get(name)) if isinstance(text, Apply) else text
                for name, text in texts.items()
            }
        )
    return texts, expires


def applied(name: str, apply: Apply, text: Text | None) -> Text:
    """Run `apply` on the stored text, or on its default. Return the new text."""
    text = encode(name, apply.default) if text is None else text
    return encode(name, apply.function(decode(text)))


def brings_user(before: Mapping[str, Any], texts: Mapping[str, Any]) -> bool:
    """Whether this change signs a user in. An `Apply` may, so it counts as one."""
    user, was = texts.get(USER), before.get(USER)
    if user is was:
        return False
    if user is None or was is None:
        return user is not None
    return isinstance(user, Apply) or not same(user, was)


def owners_of(texts: Mapping[str, Any]) -> list[str]:
    """Return the primary keys, as text, of the session's user and of those who impersonate them."""
    owners = [decode(texts[USER])] if USER in texts else []
    if owners and IMPERSONATORS in texts:
        impersonators = decode(texts[IMPERSONATORS])
        owners += impersonators if isinstance(impersonators, list) else []
    return list(map(str, owners))
