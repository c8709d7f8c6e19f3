"""The contract between the engine and a store: the guide for authors of strategies.

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
``rotate`` and ``delete_data``. Their defaults, built on the four verbs, are right for one writer at
a time; override them to be atomic and fast, and prove that with ``testing.AtomicStrategyContract``.

What every strategy promises:

- Absence is an answer: ``None`` or ``False``. A store that cannot answer raises
  ``StrategyUnavailable``, chained to its cause. ``None`` never means "I could not tell", for the
  engine would log the visitor out. Only operational failures of the driver become
  ``StrategyUnavailable``; a missing table or a broken transaction surfaces as itself.
- Missing and expired are the same thing. A session ends at ``expires``, not a moment later.
- After ``delete_data`` has returned, nothing brings that id back: no late update, merge, rotation.
- ``data`` is a dict of JSON-able values; what comes back shares nothing with what went in.
- ``expires`` is always given and always an aware UTC ``datetime``. A past one is legal: what was
  created with it reads as ``None``.
- One instance serves every thread and event loop; it keeps no request state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

__all__ = [
    "Answers",
    "Apply",
    "Data",
    "SessionStrategy",
    "Stored",
    "StrategyUnavailable",
    "flash_name",
    "is_flash",
    "reconcile",
    "same",
]

Data = dict[str, Any]
T = TypeVar("T")

# A rule written once for sync and async code: a generator that yields calls, (verb, *arguments),
# and is sent their results. `run` and `arun` carry it out.
Steps = Generator[tuple[Any, ...], Any, T]

# After so many conflicts a strategy of ours takes a lock, or begins to pause between attempts.
CONFLICTS = 8


class StrategyUnavailable(Exception):
    """The store could not answer. Never the same as "there is no such session"."""


class Answers:
    """``with answers:`` makes ``StrategyUnavailable`` of those errors that `is_outage`."""

    def __init__(self, is_outage: Callable[[BaseException], bool], message: str) -> None:
        self._is_outage, self._message = is_outage, message

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and self._is_outage(error):
            raise StrategyUnavailable(self._message) from error


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store held at one moment. Its ``repr``, which error reports show, has no secrets."""

    session_id: str = field(repr=False)
    data: Data = field(repr=False)  # as loaded; the engine never changes it
    expires: datetime | None = None  # None: the strategy does not say
    created: datetime | None = None
    # The strategy's own: a version, a mac, the text it came from.
    token: object = field(default=None, repr=False)


class Apply(NamedTuple):
    """A value that `merge` and `rotate` compute from the stored one (or a default) as they write.

    `function` gets a copy and may run more than once.
    """

    function: Callable[[Any], Any]
    default: Any = None


class SessionStrategy:
    """One store of sessions. Options in ``SESSION_STRATEGY`` are arguments of ``__init__``."""

    # True where merge, rotate and delete_data keep AtomicStrategyContract's promises.
    atomic: ClassVar[bool] = False
    # True where `load` tells `created`; SESSION_ABSOLUTE_AGE needs it.
    keeps_created: ClassVar[bool] = False
    # True where expired sessions vanish unaided, and clearexpiredsessions has nothing to do.
    expires_by_itself: ClassVar[bool] = False

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
        """Delete, for good; deleting what is gone is fine."""
        raise NotImplementedError(f"{type(self).__name__} must define delete_data()")

    # -- what the engine calls --------------------------------------------------------------------

    def load(self, session_id: str) -> Stored | None:
        return run(self, _load(session_id))

    def insert(self, data: Data, expires: datetime) -> Stored:
        return run(self, _insert(data, expires))

    def merge(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        """Write `data`, which was made out of ``stored.data``; return ``None`` if it is gone.

        Where the store still holds ``stored`` (its token says so), write `data`. Where it holds
        something else by now, write what `reconcile` makes of both, and repeat if even that has
        changed meanwhile. It has to end: by a lock, or by ``StrategyUnavailable``.
        If only the expiry moves, do not rewrite the data.
        """
        return run(self, _merge(stored, data, expires))

    def rotate(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        """`merge`, under a new id; afterwards the old one is dead (ASVS 7.2.4)."""
        return run(self, _rotate(stored, data, expires))

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        """Delete expired sessions, `batch_size` in a transaction; yield the count of each."""
        raise NotImplementedError(f"{type(self).__name__} does not define clear_expired()")

    def count_expired(self) -> int:
        """How many sessions `clear_expired` would delete now."""
        raise NotImplementedError(f"{type(self).__name__} does not define count_expired()")

    def check(self) -> Iterable[CheckMessage]:
        """What ``manage.py check`` should say of how the strategy is set up."""
        return ()

    # -- the same for async code ------------------------------------------------------------------
    # By default the sync verb in a thread. `aload` and its like run the author's `load` in a thread
    # where there is one, and else the default over the author's `a` twins.

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

    async def ainsert(self, data: Data, expires: datetime) -> Stored:
        if type(self).insert is not SessionStrategy.insert:
            return await sync_to_async(self.insert)(data, expires)
        return await arun(self, _insert(data, expires))

    async def amerge(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        if type(self).merge is not SessionStrategy.merge:
            return await sync_to_async(self.merge)(stored, data, expires)
        return await arun(self, _merge(stored, data, expires))

    async def arotate(self, stored: Stored, data: Data, expires: datetime) -> Stored | None:
        if type(self).rotate is not SessionStrategy.rotate:
            return await sync_to_async(self.rotate)(stored, data, expires)
        return await arun(self, _rotate(stored, data, expires))

    async def aclear_expired(self, batch_size: int) -> AsyncIterator[int]:
        counts = self.clear_expired(batch_size)
        while (count := await sync_to_async(lambda: next(counts, None))()) is not None:
            yield count

    async def acount_expired(self) -> int:
        return await sync_to_async(self.count_expired)()


# -- the defaults of the engine's verbs: right for one writer at a time ---------------------------


def _load(session_id: str) -> Steps[Stored | None]:
    data = yield "read_data", session_id
    if isinstance(data, dict):
        return Stored(session_id, data)
    if data:
        raise TypeError(f"read_data() must return a dict or None, not {type(data).__name__}")
    return None


def _insert(data: Data, expires: datetime) -> Steps[Stored]:
    session_id = yield "create_data", data, expires
    if not isinstance(session_id, str) or not session_id:
        raise TypeError(f"create_data() must return an id (str), not {type(session_id).__name__}")
    return Stored(session_id, data, expires)


def _merge(stored: Stored, data: Data, expires: datetime) -> Steps[Stored | None]:
    current = yield "load", stored.session_id
    if current is None:
        return None
    data, expires = reconcile(stored, data, expires, current)
    kept = yield "update_data", stored.session_id, data, expires
    if not isinstance(kept, bool):
        raise TypeError("update_data() must return whether the session was there (bool)")
    return Stored(stored.session_id, data, expires, current.created) if kept else None


def _rotate(stored: Stored, data: Data, expires: datetime) -> Steps[Stored | None]:
    current = yield "load", stored.session_id
    if current is None:
        return None
    # Delete first: a crash between the two ends the session and never doubles it.
    yield "delete_data", stored.session_id
    rotated: Stored = yield "insert", *reconcile(stored, data, expires, current)
    return rotated


# -- the three-way merge --------------------------------------------------------------------------


def reconcile(
    stored: Stored, data: Data, expires: datetime, current: Stored
) -> tuple[Data, datetime]:
    """What to write over `current`: the way from ``stored.data`` to `data`, taken from there.

    Names that only one side changed keep that side's value; of a name that both changed, ours, the
    later, wins; removing a name wins over changing it, except that removing a flash takes only
    the value that was seen, whoever comes first. A `_session_expiry` that only the other side
    changed keeps its expiry.
    """
    ours, base, theirs = data, stored.data, current.data
    if current is not stored:
        data = dict(theirs)
        for name, value in ours.items():
            if (
                isinstance(value, Apply)
                or name not in base
                or ((name in theirs or is_flash(name)) and not same(value, base[name]))
            ):
                data[name] = value
        for name in base.keys() - ours.keys():
            if name in theirs and not (is_flash(name) and not same(theirs[name], base[name])):
                del data[name]
        was, now = base.get("_session_expiry"), theirs.get("_session_expiry")
        if current.expires and not same(now, was) and same(ours.get("_session_expiry"), was):
            expires = current.expires
    if Apply in map(type, data.values()):
        data = {
            name: copied(value.function(copied(theirs.get(name, value.default))), name)
            if isinstance(value, Apply)
            else value
            for name, value in data.items()
        }
    return data, expires


def flash_name(name: str) -> str:
    """The name under which a flash is kept (React Router's)."""
    return f"__flash_{name}__"


def is_flash(raw: str) -> bool:
    return raw.startswith("__flash_") and raw.endswith("__")


def unflashed(raw: str) -> str:
    """The name of a flash that is kept under `raw`."""
    return raw[len("__flash_") : -len("__")]


# -- settings, of which a request asks for some many times: Django's way takes longer -------------


@cache
def setting(name: str, default: Any = None) -> Any:
    return getattr(settings, name, default)


def _forget(**kwargs: Any) -> None:
    setting.cache_clear()


setting_changed.connect(_forget)


# -- values, as SESSION_SERIALIZER sees them ------------------------------------------------------

# Exact types whose equality is that of their serialized forms, and which nobody can change. Whole
# numbers too, but for those so long that nothing serializes them.
_PLAIN = frozenset({str, bool, type(None)})
_WHOLE = range(-(2**63), 2**63)


@cache
def _imported(path: str) -> Any:
    return import_string(path)


def serializer() -> Any:
    """A new one of ``SESSION_SERIALIZER``'s."""
    return _imported(setting("SESSION_SERIALIZER"))()


def is_plain(value: object) -> bool:
    kind = type(value)
    return kind in _PLAIN or (kind is int and value in _WHOLE)


def same(one: object, other: object, name: str = "") -> bool:
    """Whether two values have one serialized form: 1 and True do not, a list and a tuple do."""
    if one is other:
        return True
    if is_plain(one) and is_plain(other):
        return type(one) is type(other) and one == other
    return serialized(one, name) == serialized(other, name)


def serialized(value: object, name: str = "") -> bytes:
    """The serialized form of one value; a TypeError that says which `name` has none."""
    try:
        dumped: bytes = serializer().dumps(value)
    except Exception as error:
        raise TypeError(
            f"The session's {name!r} cannot be serialized ({type(value).__name__})."
        ) from error
    return dumped


def copied(value: Any, name: str = "") -> Any:
    """The value as it will come back from a store, sharing nothing with the original."""
    if is_plain(value):
        return value
    return serializer().loads(serialized(value, name))


def all_copied(values: Data) -> Data:
    """Each value `copied`, by its name."""
    result = dict(values)
    others = {
        name: value
        for name, value in values.items()
        if type(value) not in _PLAIN and not is_plain(value)  # most are strings
    }
    if others:
        try:
            result |= serializer().loads(serializer().dumps(others))
        except Exception:  # of one of them, which `copied` names
            result |= {name: copied(value, name) for name, value in others.items()}
    return result


# -- carrying out steps ---------------------------------------------------------------------------


def run(target: object, steps: Steps[T]) -> T:
    try:
        verb, *arguments = next(steps)
        while True:
            try:
                result = getattr(target, verb)(*arguments)
            except Exception as error:
                verb, *arguments = steps.throw(error)
            else:
                verb, *arguments = steps.send(result)
    except StopIteration as stop:
        answer: T = stop.value
        return answer


async def arun(target: object, steps: Steps[T]) -> T:
    try:
        verb, *arguments = next(steps)
        while True:
            try:
                result = await getattr(target, f"a{verb}")(*arguments)
            except Exception as error:
                verb, *arguments = steps.throw(error)
            else:
                verb, *arguments = steps.send(result)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
