"""The session engine: the module for ``SESSION_ENGINE``. ``request.session`` is its store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from django.apps import apps
from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.module_loading import import_string

from .asking import aask, ask
from .draft import Draft
from .hidden import HiddenDict
from .signals import REFUSED, aannounce, announce, tell
from .signing import sign, unsign
from .state import State, expires_after
from .steps import Steps, call
from .strategies import get_strategy
from .strategies.base import EXPIRY, USER, Apply, OldKey, SessionStrategy, StrategyUnavailable

if not apps.is_installed("django_strategy_sessions"):
    # A system check cannot report this, because Django runs the checks of installed apps only.
    raise ImproperlyConfigured(
        "SESSION_ENGINE needs its app:\n"
        'INSTALLED_APPS = [\n    *INSTALLED_APPS,\n    "django_strategy_sessions",\n]'
    )

T = TypeVar("T")

_RAISE: Any = object()


class SessionStore(SessionBase):
    """Django's session interface over the strategy of ``SESSION_STRATEGY``.

    A session key that does not verify counts as no session, and never reaches the store.
    """

    def __init__(self, session_key: str | None = None) -> None:
        # SessionBase.__init__() is not called: it does work that most requests do not need.
        self.accessed: bool = False
        session_id = _session_id(session_key)
        self._given_ids: list[str] = [] if session_id is None else [session_id]
        # Code that passes a key, such as Django's middleware, sends the key at every save, so it
        # must not save into a session whose new key it cannot know.
        self._state = State(session_id, may_follow=False)
        self._foreign_key: str | None = None
        self._signed: tuple[str | None, str | None] = (None, None)
        # Our middleware reads these: the store's last outage, and whether flush() has run.
        self.outage: StrategyUnavailable | None = None
        self.flushed: bool = False

    @classmethod
    def of_cookies(cls, cookies: Iterable[tuple[str, object]]) -> SessionStore:
        """Return the session of the first cookie that verifies and whose session exists.

        `cookies` holds pairs of a cookie's name and its value.
        """
        store = cls()
        ids = [_session_id(key, name) for name, key in cookies]
        store._given_ids = [session_id for session_id in ids if session_id is not None]
        if store._given_ids:
            store._state.session_id, *store._state.others = store._given_ids
        store._state.may_follow = True
        return store

    # -- reading and changing names, and flash ----------------------------------------------------

    def __contains__(self, name: object) -> bool:
        self._open()
        return self._state.find(name) is not None

    def has_key(self, name: str) -> bool:
        return name in self

    async def ahas_key(self, name: str) -> bool:
        await self._aopen()
        return self._state.find(name) is not None

    def __getitem__(self, name: str) -> Any:
        self._open()
        return self._state.read(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._open()
        return self._state.read(name, default)

    async def aget(self, name: str, default: Any = None) -> Any:
        await self._aopen()
        return self._state.read(name, default)

    def pop(self, name: str, default: Any = _RAISE) -> Any:
        self._open()
        return self._pop(name, default)

    async def apop(self, name: str, default: Any = _RAISE) -> Any:
        await self._aopen()
        return self._pop(name, default)

    def _pop(self, name: str, default: Any) -> Any:
        if self._state.find(name) is None and default is not _RAISE:
            return default
        value = self._state.take(name)
        self.modified = True
        return value

    # Error reports show local variables, so the methods below delete the value before they
    # re-raise.

    def __setitem__(self, name: str, value: Any) -> None:
        try:
            self._get_session()[name] = value
        except Exception:
            del value
            raise
        self.modified = True

    async def aset(self, name: str, value: Any) -> None:
        try:
            (await self._aget_session())[name] = value
        except Exception:
            del value
            raise
        self.modified = True

    def setdefault(self, name: str, value: Any) -> Any:  # type: ignore[override]  # the stubs want a dict's
        try:
            absent = name not in self._get_session()
        except Exception:
            del value
            raise
        if absent:
            self[name] = value
        return self._state.data[name]

    async def asetdefault(self, name: str, value: Any) -> Any:
        try:
            absent = name not in await self._aget_session()
        except Exception:
            del value
            raise
        if absent:
            self[name] = value
        return self._state.data[name]

    def update(self, dict_: Any) -> None:  # type: ignore[override]
        data = HiddenDict(dict_)
        del dict_
        self._get_session().update(data)
        self.modified = True

    async def aupdate(self, dict_: Any) -> None:
        data = HiddenDict(dict_)
        del dict_
        (await self._aget_session()).update(data)
        self.modified = True

    def flash(self, name: str, value: Any) -> None:
        """Keep `value` until a request reads it and saves the session.

        This is React Router's ``flash``.
        """
        try:
            self._open()
        except Exception:
            del value
            raise
        self._state.flash(name, value)

    async def aflash(self, name: str, value: Any) -> None:
        try:
            await self._aopen()
        except Exception:
            del value
            raise
        self._state.flash(name, value)

    def clear(self) -> None:
        self.accessed = self.modified = True
        self._state.replace_data({})

    def is_empty(self) -> bool:
        state = self._state
        if state.is_provisional and not _in_event_loop():
            self.take_back()  # a transaction may have rolled a login or a logout back
        if state.session_id and settings.SESSION_SAVE_EVERY_REQUEST and not _in_event_loop():
            # Django's middleware saves every session that is not empty. If the record is gone, the
            # session must be empty by now, or that save would create a new record.
            self._open()
        return state.session_id is None and not state.data

    @property
    def modified(self) -> bool:
        return self._state.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self._state.modified = value

    @property
    def serializer(self) -> Any:
        return import_string(settings.SESSION_SERIALIZER)

    # -- key and data, under SessionBase's names --------------------------

    @property
    def _session_key(self) -> str | None:
        session_id = self._state.session_id
        if session_id is None:
            return self._foreign_key
        if isinstance(session_id, OldKey):
            return session_id
        if self._signed[0] != session_id:
            self._signed = session_id, sign(session_id, settings.SESSION_COOKIE_NAME)
        return self._signed[1]

    @_session_key.setter
    def _session_key(self, key: str | None) -> None:
        self._state.rename(_session_id(key))
        self._foreign_key = key if self._validate_session_key(key) else None  # type: ignore[attr-defined]

    @property
    def session_key(self) -> str | None:
        return self._session_key

    @property
    def _session_cache(self) -> Draft:
        if not self._state.loaded:
            raise AttributeError("The session is not loaded.")  # for hasattr()
        return self._state.data

    @_session_cache.setter
    def _session_cache(self, data: dict[str, Any]) -> None:
        self._state.replace_data(data)

    @_session_cache.deleter
    def _session_cache(self) -> None:
        self._state.forget()

    def _get_session(self, no_load: bool = False) -> Draft:
        self._open(no_load)
        return self._state.data

    async def _aget_session(self, no_load: bool = False) -> Draft:
        await self._aopen(no_load)
        return self._state.data

    def _open(self, no_load: bool = False) -> None:
        self.accessed = True
        if not self._state.loaded:
            self._run(self._state.open(no_load))

    async def _aopen(self, no_load: bool = False) -> None:
        self.accessed = True
        if not self._state.loaded:
            await self._arun(self._state.open(no_load))

    _session = property(_get_session)

    # -- the store ---------------------------------------------------------------------------------

    def _run(self, steps: Steps[T]) -> T:
        try:
            with self._state.turn:
                return ask(get_strategy(), steps)
        except StrategyUnavailable as error:
            self.outage = error
            raise
        finally:
            if self._state.ended:
                announce(type(get_strategy()), self._state.take_ended())

    async def _arun(self, steps: Steps[T]) -> T:
        try:
            async with self._state.turn:
                return await aask(get_strategy(), steps)
        except StrategyUnavailable as error:
            self.outage = error
            raise
        finally:
            if self._state.ended:
                await aannounce(type(get_strategy()), self._state.take_ended())

    def references(self) -> Collection[str]:
        """Return the references in `users.UserSession` that mean this session."""
        return self._run(self._state.references())

    async def areferences(self) -> Collection[str]:
        return await self._arun(self._state.references())

    def exists(self, session_key: str | None) -> bool:
        steps = State(_session_id(session_key)).exists()
        del session_key  # error reports show local variables
        return self._run(steps)

    async def aexists(self, session_key: str | None) -> bool:
        steps = State(_session_id(session_key)).exists()
        del session_key
        return await self._arun(steps)

    def load(self) -> dict[str, Any]:
        return self._run(self._load())

    async def aload(self) -> dict[str, Any]:
        return await self._arun(self._load())

    def create(self) -> None:
        self._run(self._create())

    async def acreate(self) -> None:
        await self._arun(self._create())

    def save(self, must_create: bool = False) -> None:
        self._run(self._save(must_create))

    async def asave(self, must_create: bool = False) -> None:
        await self._arun(self._save(must_create))

    def apply(self, name: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """Atomically set `name` to ``function(stored value or default)``; return the new value.

        The store is written at once. If another request changes the value first, `function` runs
        again on the new value, so it may run several times. Raises `UpdateError` if the session is
        gone.
        """
        change = Apply(function, default)
        del default  # error reports show local variables
        return self._run(self._apply(name, change))

    async def aapply(self, name: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        change = Apply(function, default)
        del default
        return await self._arun(self._apply(name, change))

    def cycle_key(self) -> None:
        self._run(self._cycle_key())

    async def acycle_key(self) -> None:
        await self._arun(self._cycle_key())

    def delete(self, session_key: str | None = None) -> None:
        session_id = self._state.session_id if session_key is None else _session_id(session_key)
        del session_key
        self._run(self._delete(session_id))

    async def adelete(self, session_key: str | None = None) -> None:
        session_id = self._state.session_id if session_key is None else _session_id(session_key)
        del session_key
        await self._arun(self._delete(session_id))

    def flush(self) -> None:
        self._run(self._flush())

    async def aflush(self) -> None:
        await self._arun(self._flush())

    @classmethod
    def clear_expired(cls) -> None:
        strategy = get_strategy()
        for _count in strategy.clear_expired(strategy.batch_size):
            pass

    @classmethod
    async def aclear_expired(cls) -> None:
        strategy = get_strategy()
        async for _count in strategy.aclear_expired(strategy.batch_size):
            pass

    def _load(self) -> Steps[dict[str, Any]]:
        stored = yield from self._state.load()
        if stored is None:
            self._session_key = None
            return {}
        return stored.data

    def _create(self) -> Steps[None]:
        self.accessed = True
        yield from self._state.open(no_load=True)
        if not (yield from self._state.insert(self._expires())):
            raise UpdateError

    def _save(self, must_create: bool) -> Steps[None]:
        if must_create:
            if (yield from self._state.load()) is not None:
                raise CreateError
            yield from self._create()
        else:
            self.accessed = True
            yield from self._state.open()
            sends_key = self.modified or settings.SESSION_SAVE_EVERY_REQUEST
            if not (yield from self._state.commit(self._expires(), sends_key)):
                raise UpdateError

    def _apply(self, name: str, change: Apply) -> Steps[Any]:
        self.accessed = True
        yield from self._state.open()
        if not (yield from self._state.apply(name, change, self._expires())):
            raise UpdateError
        return self._state.read(name)

    def _cycle_key(self) -> Steps[None]:
        self.accessed = True
        yield from self._state.open()
        rotated = yield from self._state.rotate(self._expires())
        # The session is gone. An anonymous visitor gets a new one, because the cause may be another
        # login at the same time. A logged-in user does not, because the cause may be a logout; the
        # next save then raises UpdateError.
        if not rotated and (self._state.stored is None or USER not in self._state.stored.texts):
            yield from self._state.insert(self._expires())

    def _delete(self, session_id: str | None) -> Steps[None]:
        if session_id is not None:
            yield from call(SessionStrategy.delete_data, session_id)

    def _flush(self) -> Steps[None]:
        self.accessed = True
        ended = self._state.session_id
        yield from self._state.destroy()
        for session_id in self._given_ids:
            if session_id != ended:  # a second cookie would log the visitor in again
                yield from call(SessionStrategy.delete_data, session_id)
        self._foreign_key = None
        self.flushed = True

    # -- for our middleware, which must hold no key in a variable: error reports show those --------

    @property
    def was_given(self) -> bool:
        """Whether the client sent a key that verifies."""
        return bool(self._given_ids)

    @property
    def has_moved(self) -> bool:
        """Whether the session's id differs from every id that the client sent."""
        return self._state.session_id not in self._given_ids

    @property
    def is_elsewhere(self) -> bool:
        """Whether the session lives on under a key that this request cannot know."""
        return self._state.stored is not None and self._state.stored.followed

    def take_back(self) -> None:
        """Return to the earlier state if the view's transaction was rolled back."""
        if self._state.is_provisional:
            self._run(self._state.take_back())

    async def atake_back(self) -> None:
        if self._state.is_provisional:
            await self._arun(self._state.take_back())

    def get_cookie_age(self) -> int:
        return self.get_expiry_age()

    async def aget_cookie_age(self) -> int:
        return await self.aget_expiry_age()

    def confirm(self) -> None:
        """Load a session that the view did not read, so that only an existing one is renewed."""
        if not self._state.loaded:
            self._run(self._state.open())
            self._state.is_confirmed = True

    async def aconfirm(self) -> None:
        if not self._state.loaded:
            await self._arun(self._state.open())
            self._state.is_confirmed = True

    def is_kept(self) -> bool:
        """Whether the store holds the session now."""
        return self._run(self._state.exists())

    async def ais_kept(self) -> bool:
        return await self._arun(self._state.exists())

    # -- expiry: SessionBase's, but computed in UTC, because local time repeats an hour in autumn --

    def get_expiry_age(self, **kwargs: Any) -> int:
        expiry = (
            kwargs["expiry"] if "expiry" in kwargs else self._expiry(self.get("_session_expiry"))
        )
        return self._age(expiry, **kwargs)

    async def aget_expiry_age(self, **kwargs: Any) -> int:
        expiry = (
            kwargs["expiry"]
            if "expiry" in kwargs
            else self._expiry(await self.aget("_session_expiry"))
        )
        return self._age(expiry, **kwargs)

    def _expiry(self, given: Any) -> Any:
        """What was given to `set_expiry`. But a session that only gets another key is not renewed
        by that."""
        kept_until = None if settings.SESSION_SAVE_EVERY_REQUEST else self._state.kept_until
        return kept_until or given

    def _age(self, expiry: Any, modification: datetime | None = None, **kwargs: Any) -> int:
        if isinstance(expiry, (datetime, str)):
            remaining = _utc(expiry) - _utc(modification or timezone.now())
            return remaining.days * 86400 + remaining.seconds
        return expiry or self.get_session_cookie_age()

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        expiry = kwargs["expiry"] if "expiry" in kwargs else self.get("_session_expiry")
        return self._date(expiry, **kwargs)

    async def aget_expiry_date(self, **kwargs: Any) -> datetime:
        expiry = kwargs["expiry"] if "expiry" in kwargs else await self.aget("_session_expiry")
        return self._date(expiry, **kwargs)

    def _date(self, expiry: Any, modification: datetime | None = None, **kwargs: Any) -> datetime:
        if isinstance(expiry, (datetime, str)):
            moment = _utc(expiry)
        else:
            age = timedelta(seconds=expiry or self.get_session_cookie_age())
            moment = _utc(modification or timezone.now()) + age
        return moment if settings.USE_TZ else timezone.make_naive(moment)

    def set_expiry(self, value: datetime | timedelta | int | None) -> None:
        super().set_expiry(_moment(value))

    async def aset_expiry(self, value: datetime | timedelta | int | None) -> None:
        await super().aset_expiry(_moment(value))

    def _expires(self) -> datetime:
        expiry = self._expiry(self._state.data.get(EXPIRY))
        if isinstance(expiry, (datetime, str)):
            return _utc(expiry)
        return expires_after(expiry or self.get_session_cookie_age())


def _session_id(session_key: object, cookie_name: str | None = None) -> str | None:
    session_id = unsign(session_key, cookie_name or settings.SESSION_COOKIE_NAME)
    if session_id is None and isinstance(session_key, str):
        strategy = get_strategy()
        session_id = strategy.adopt(session_key)
        if session_id is None and session_key:
            tell(type(strategy), REFUSED)
    return session_id


def _utc(moment: datetime | str) -> datetime:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.astimezone(UTC)  # a naive datetime is local time, and Django sets TZ to match


def _moment(value: datetime | timedelta | int | None) -> datetime | int | None:
    if isinstance(value, timedelta):
        return _utc(timezone.now()) + value
    return _utc(value) if isinstance(value, datetime) else value


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
