"""Explicit storages: React Router's ``createSessionStorage``, for cookies that a view controls.

A storage shares the engine's core (`state`), so it keeps the same promises; but the view decides
when to load, to save and to send the cookie. A project may use several storages, also beside
``request.session``.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from http.cookies import Morsel
from typing import Any, Generic, TypedDict, Unpack, cast

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from . import cookies
from .asking import aask, ask
from .draft import Draft
from .signals import REFUSED, aannounce, announce, tell
from .signing import Secrets, checked_secrets, sign, unsign
from .state import State, expires_after
from .steps import Steps
from .strategies import make_strategy, require_features
from .strategies.base import SessionStrategy
from .values import flash_name, is_flash, text_of_name, unflashed

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

D = TypeVar("D", bound=Mapping[str, Any], default=dict[str, Any])
F = TypeVar("F", bound=Mapping[str, Any], default=D)

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token (RFC 9110, 5.6.2)
_ATTRIBUTE = re.compile(r"[ -:<-~]*")  # RFC 6265, 4.1.1
_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]*")
_SAME_SITE = {"lax": "Lax", "strict": "Strict", "none": "None"}
_EPOCH = datetime.fromtimestamp(0, UTC)


class CookieOptions(TypedDict, total=False):
    """The arguments of `Cookie`. ``None`` and ``""`` mean "not given"."""

    name: str | None
    secrets: Sequence[str | bytes] | None
    max_age: int | None
    expires: datetime | None
    path: str | None
    domain: str | None
    secure: bool | None
    http_only: bool | None
    same_site: str | None
    partitioned: bool | None


@dataclass(frozen=True, kw_only=True)
class Cookie:
    """A cookie that holds a session key. The defaults are React Router's, so set `secure` and
    `http_only` yourself.

    `secrets`: newest first; by default the project's. `max_age`: seconds from each commit; it wins
    over `expires`, an aware datetime. With neither, the browser drops the cookie when it closes,
    and the session ends after ``SESSION_COOKIE_AGE``. `same_site`: "lax", "strict" or "none".
    Raises `ImproperlyConfigured` for a cookie that browsers would refuse (RFC 6265bis, 5.7).
    """

    name: str = "__session"
    secrets: Sequence[str | bytes] | None = field(default=None, repr=False)
    max_age: int | None = None
    expires: datetime | None = None
    path: str = "/"
    domain: str | None = None
    secure: bool = False
    http_only: bool = False
    same_site: str = "lax"
    partitioned: bool = False

    def __post_init__(self) -> None:
        fit = isinstance(self.name, str) and _NAME.fullmatch(self.name)
        if not fit or Morsel[str]().isReservedKey(self.name):
            raise ImproperlyConfigured(f"{self.name!r} is not a name for a cookie.")
        self._secrets  # noqa: B018  (validates the secrets now)
        if isinstance(self.max_age, bool) or not isinstance(self.max_age, (int, type(None))):
            self._refuse("needs a max_age in whole seconds")
        if self.expires is not None and not (
            isinstance(self.expires, datetime) and self.expires.utcoffset() is not None
        ):
            self._refuse("needs an aware datetime for expires")
        for value in (self.path, self.domain or ""):
            if not (isinstance(value, str) and _ATTRIBUTE.fullmatch(value)):
                self._refuse(f"cannot have {value!r} for a path or domain")
        for flag in (self.secure, self.http_only, self.partitioned):
            if not isinstance(flag, bool):
                self._refuse("needs True or False for secure, http_only and partitioned")
        if str(self.same_site).lower() not in _SAME_SITE:
            self._refuse('needs "lax", "strict" or "none" for same_site')
        for _, reason in cookies.refusals(
            self.name,
            secure=self.secure,
            path=self.path,
            domain=self.domain,
            same_site=self.same_site,
            partitioned=self.partitioned,
        ):
            self._refuse(reason)

    def _refuse(self, why: str) -> None:
        raise ImproperlyConfigured(f"The cookie {self.name!r} {why}.")

    def session_ids(self, source: HttpRequest | str | None) -> list[str | None]:
        """Return the ids of this cookie's keys, in the order of the header. ``None``: the key does
        not verify."""
        keys = cookies.sent_values(source, self.name)
        return [unsign(key, self.name, self._secrets) for key in keys if key]

    def key(self, session_id: str) -> str:
        key = sign(session_id, self.name, self._secrets)
        if not _VALUE.fullmatch(key):
            raise ValueError("A cookie cannot hold the id that create_data() made.")
        return key

    @cached_property
    def _secrets(self) -> Secrets | None:
        where = f"secrets of the cookie {self.name!r}"
        return None if self.secrets is None else checked_secrets(self.secrets, where)

    def render(self, value: str) -> cookies.Cookie:
        return cookies.Cookie(
            self.name,
            value,
            max_age=None if self.max_age is None else max(0, self.max_age),
            domain=self.domain,
            path=self.path,
            expires=http_date(self.expires.timestamp()) if self.expires else None,
            httponly=self.http_only,
            secure=self.secure,
            partitioned=self.partitioned,
            samesite=_SAME_SITE[self.same_site.lower()],
        )

    def with_options(self, **options: Unpack[CookieOptions]) -> Cookie:
        given = {name: value for name, value in options.items() if value not in (None, "")}
        if "expires" in given and "max_age" not in given:
            given["max_age"] = (
                None  # max_age wins in browsers, and here it would be the cookie's own
            )
        return replace(self, **cast(Any, given))


class Session(Generic[D, F]):
    """One session that a view works on. Only ``commit_session`` writes its changes."""

    def __init__(
        self,
        initial_data: D | Mapping[str, Any] | None = None,
        id: str = "",  # noqa: A002  (React Router's name)
    ) -> None:
        self._state = State(id or None)
        self._state.replace_data(initial_data or {})

    @property
    def id(self) -> str:
        """The session id; empty until the store has a record."""
        return self._state.session_id or ""

    @property
    def data(self) -> D:
        """A new dict by raw name at each access. A flash is at ``__flash_<name>__``."""
        return cast(D, self._state.data.copy())

    def has(self, name: str) -> bool:
        """Whether there is a value or a flash of this name. Does not consume the flash."""
        return self._state.find(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value, or else the flash, which this consumes, or else `default`."""
        found = self._state.find(name)
        if found is None:
            return default
        if found == text_of_name(name):
            return self._state.read(found)
        return self._state.data.pop(found)

    def set(self, name: str, value: Any) -> None:
        self._state.data[name] = value

    def flash(self, name: str, value: Any) -> None:
        """Keep a value until this request or a later one reads it."""
        self._state.flash(name, value)

    def unset(self, name: str) -> None:
        """Remove the value, if any. A flash of the same name stays."""
        self._state.data.pop(name, None)

    @property
    def typed(self) -> D:
        """The values as the session's ``TypedDict``, for type checkers."""
        return cast(D, _Values(self._state))

    @property
    def typed_flash(self) -> F:
        """The flashes as a ``TypedDict``: ``session.typed_flash["notice"]``. Reading consumes."""
        return cast(F, _Flashes(self._state))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # neither the id nor the data may reach logs


class _Values(MutableMapping[str, Any]):
    """The session's values, without its flashes."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def data(self) -> Draft:
        return self._state.data

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.data[name] = value

    def __delitem__(self, name: str) -> None:
        del self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self.data.raw() if not is_flash(name)])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Flashes(_Values):
    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return self.data.pop(flash_name(name))

    def __contains__(self, name: object) -> bool:
        return flash_name(str(name)) in self.data

    def __setitem__(self, name: str, value: Any) -> None:
        self.data[flash_name(name)] = value

    def __delitem__(self, name: str) -> None:
        self.data.pop(
            flash_name(name), None
        )  # pop() and popitem() read first, and reading removes it

    def __iter__(self) -> Iterator[str]:
        return iter([unflashed(raw) for raw in self.data.raw() if is_flash(raw)])


class SessionStorage(Generic[D, F]):
    """Loads, commits and destroys the sessions of one cookie. Serves every thread and event loop.

    A view passes its request and its response. Other code passes the ``Cookie`` header's text and
    sends the returned ``Set-Cookie`` text. Keyword options override the cookie's for one call. The
    methods raise what the strategy raises, and then set no cookie. If a page depends on a session
    but sets no cookie, its view must add ``Vary: Cookie``.
    """

    def __init__(self, strategy: SessionStrategy, cookie: Cookie) -> None:
        self.strategy: SessionStrategy = strategy
        self.cookie: Cookie = cookie

    def get_session(
        self, source: HttpRequest | str | None = None, **options: Unpack[CookieOptions]
    ) -> Session[D, F]:
        """Return the session of a request or ``Cookie`` header, or a new, empty one."""
        session = self._find(source, options)
        del source  # error reports show local variables
        ask(self.strategy, session._state.open())
        return session

    async def aget_session(
        self, source: HttpRequest | str | None = None, **options: Unpack[CookieOptions]
    ) -> Session[D, F]:
        session = self._find(source, options)
        del source
        await aask(self.strategy, session._state.open())
        return session

    def commit_session(
        self,
        session: Session[D, F],
        response: HttpResponseBase | None = None,
        *,
        rotate: bool = False,
        **options: Unpack[CookieOptions],
    ) -> str:
        """Save what changed. Set the cookie on `response`, and return the ``Set-Cookie`` value.

        `rotate` gives the session a new id, as a login should (ASVS 7.2.4).

        An empty new session is not stored. The returned value then clears the cookie, but
        `response` stays unchanged, because another request may have set a cookie.

        The value is ``""``, and `response` unchanged, if another request has rotated the session
        (the changes are saved, under a key that this request cannot know), or if the session is
        gone and nothing changed.

        Raises `SessionInterrupted`, which Django answers with 400, if the session was destroyed
        before its changes could be saved.
        """
        with session._state.turn:
            cookie = ask(self.strategy, self._commit(session, response, rotate, options))
        announce(type(self.strategy), session._state.take_ended())
        return cookie

    async def acommit_session(
        self,
        session: Session[D, F],
        response: HttpResponseBase | None = None,
        *,
        rotate: bool = False,
        **options: Unpack[CookieOptions],
    ) -> str:
        async with session._state.turn:
            cookie = await aask(self.strategy, self._commit(session, response, rotate, options))
        await aannounce(type(self.strategy), session._state.take_ended())
        return cookie

    def destroy_session(
        self,
        session: Session[D, F],
        response: HttpResponseBase | None = None,
        **options: Unpack[CookieOptions],
    ) -> str:
        """End the session for good. Return the ``Set-Cookie`` value that clears the cookie."""
        with session._state.turn:
            cleared = ask(self.strategy, self._destroy(session, response, options))
        announce(type(self.strategy), session._state.take_ended())
        return cleared

    async def adestroy_session(
        self,
        session: Session[D, F],
        response: HttpResponseBase | None = None,
        **options: Unpack[CookieOptions],
    ) -> str:
        async with session._state.turn:
            cleared = await aask(self.strategy, self._destroy(session, response, options))
        await aannounce(type(self.strategy), session._state.take_ended())
        return cleared

    def _find(self, source: HttpRequest | str | None, options: CookieOptions) -> Session[D, F]:
        session: Session[D, F] = Session()
        ids = []
        for session_id in self.cookie.with_options(**options).session_ids(source):
            if session_id is None:
                tell(type(self.strategy), REFUSED)
            else:
                ids.append(session_id)
        if ids:
            session._state = State(ids[0], ids[1:])
        session._state.loaded = False
        return session

    def _commit(
        self,
        session: Session[D, F],
        response: HttpResponseBase | None,
        rotate: bool,
        options: CookieOptions,
    ) -> Steps[str]:
        # Check the options first: if they are refused, no record may remain without a cookie.
        cookie, state = self.cookie.with_options(**options), session._state
        if state.session_id is None and not state.data:
            return _clear_cookie(cookie, None)
        if cookie.max_age is None and cookie.expires is not None:
            expires = cookie.expires.astimezone(UTC)
        else:
            age = settings.SESSION_COOKIE_AGE if cookie.max_age is None else cookie.max_age
            expires = expires_after(age)
        differs = rotate or state.differs
        if not (yield from state.rotate(expires) if rotate else state.commit(expires, True)):
            if not differs:
                return ""
            raise SessionInterrupted("The session was destroyed before it was committed.")
        if state.stored is not None and state.stored.followed:
            return ""
        return _set_cookie(cookie, cookie.key(session.id), response)

    def _destroy(
        self, session: Session[D, F], response: HttpResponseBase | None, options: CookieOptions
    ) -> Steps[str]:
        cookie = self.cookie.with_options(**options)
        yield from session._state.destroy()
        return _clear_cookie(cookie, response)


def create_session_storage(
    strategy: SessionStrategy | str | Mapping[str, Any] | None = None,
    *,
    cookie: Cookie | CookieOptions | None = None,
    create_data: Callable[..., Any] | None = None,
    read_data: Callable[..., Any] | None = None,
    update_data: Callable[..., Any] | None = None,
    delete_data: Callable[..., Any] | None = None,
) -> SessionStorage[D, F]:
    """Return a storage over a strategy, or over four functions.

    `strategy`: an instance, or a value as for ``SESSION_STRATEGY``. The functions are the verbs of
    the contract (`strategies.base`); each may be ``async def``. Raises `ImproperlyConfigured`.
    """
    functions = {
        "create_data": create_data,
        "read_data": read_data,
        "update_data": update_data,
        "delete_data": delete_data,
    }
    given = {name: function for name, function in functions.items() if function is not None}
    if bool(given) == (strategy is not None) or 0 < len(given) < len(functions):
        raise ImproperlyConfigured(
            f"create_session_storage() needs a strategy, or all of {', '.join(functions)}."
        )
    if strategy is None:
        strategy = _Functions(given)
    elif not isinstance(strategy, SessionStrategy):
        strategy = make_strategy(strategy, "create_session_storage()")
    require_features(strategy)
    if not isinstance(cookie, Cookie):
        cookie = Cookie().with_options(**(cookie or {}))
    if cookie.expires is not None:
        warnings.warn(
            f"The cookie {cookie.name!r} has a fixed `expires`, which no commit moves:"
            " give it to commit_session() instead, or set `max_age`.",
            stacklevel=2,
        )
    return SessionStorage(strategy, cookie)


class _Functions(SessionStrategy):
    """A strategy made of functions. Each takes the arguments of its verb, without ``self``."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        for verb, function in functions.items():
            if iscoroutinefunction(function):
                setattr(self, f"a{verb}", function)
                function = async_to_sync(function)
            setattr(self, verb, function)


def _set_cookie(cookie: Cookie, value: str, response: HttpResponseBase | None) -> str:
    rendered = cookie.render(value)
    if response is not None:
        patch_vary_headers(response, ("Cookie",))
        response.cookies[cookie.name] = rendered
    return rendered.as_text()


def _clear_cookie(cookie: Cookie, response: HttpResponseBase | None) -> str:
    return _set_cookie(replace(cookie, max_age=None, expires=_EPOCH), "", response)
