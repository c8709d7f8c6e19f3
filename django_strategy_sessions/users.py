"""The sessions of a user: "where you're signed in", "sign out everywhere else", "end this one".

Each function works with every strategy that sets ``finds_owners``, as all of ours do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, cast

from django.contrib.sessions.backends.base import SessionBase

from .asking import aask, ask
from .sign_ins import SignIn, read_sign_in
from .signals import USER, Ended, aannounce, announce
from .steps import call
from .strategies import get_strategy
from .strategies.base import Owned, SessionStrategy, owners_of

if TYPE_CHECKING:  # models, and this package is imported before they can be
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    User = AbstractBaseUser | AnonymousUser


class CannotListSessions(NotImplementedError):
    """The strategy cannot find the sessions of a user."""


@dataclass(frozen=True, slots=True)
class UserSession:
    """A live session of a user. It holds no id, no key and no data."""

    # Names the session to `end_session`, for this user only. It changes with the session's key; for
    # a minute after that, the old one works too.
    reference: str = field(repr=False)
    created: datetime  # aware, UTC: the sign-in, where the session was there before it
    expires: datetime  # aware, UTC
    is_current: bool  # whether it is the session that was given as `current`
    is_impersonated: bool  # whether another user acts as this one (django-hijack)
    sign_in: SignIn | None  # only with ``SESSION_SIGN_INS``


def sessions_of(user: User, current: SessionBase | None = None) -> list[UserSession]:
    """Return the user's live sessions, the newest first. `current` is ``request.session``, if the
    caller wants to know which one that is.

    Sessions in which this user impersonates another one are among them. Raises
    `CannotListSessions`, and `ValueError` for a user without a primary key.
    """
    if (owner := owner_of(user)) is None:
        return []
    owned = _find_owned(owner)
    return _entries(owned, _ours(current).references() if current is not None else ())


async def asessions_of(user: User, current: SessionBase | None = None) -> list[UserSession]:
    if (owner := owner_of(user)) is None:
        return []
    owned = await _afind_owned(owner)
    return _entries(owned, await _ours(current).areferences() if current is not None else ())


def end_session(user: User, reference: str, reason: str = USER) -> int:
    """End the user's session with this `UserSession.reference`, for good. Return how many ended: 1,
    or 0 if the user has no such session.

    `reason`: what receivers of `session_ended` are told. Raises as `sessions_of` does.
    """
    owner = owner_of(user)
    return 0 if owner is None else end_owned(owner, [reference], reason)


async def aend_session(user: User, reference: str, reason: str = USER) -> int:
    owner = owner_of(user)
    return 0 if owner is None else await _aend(owner, [reference], reason)


def end_sessions(user: User, keep: SessionBase | None = None, reason: str = USER) -> int:
    """End all of the user's sessions but `keep`, for good and at once: the next request of each
    device is signed out (ASVS 7.4.3, 7.5.2). Return how many ended.

    `keep` is ``request.session`` for "sign out everywhere else". `reason` and errors: see
    `end_session`.
    """
    owner = owner_of(user)
    return 0 if owner is None else end_all_owned(owner, keep, reason)


async def aend_sessions(user: User, keep: SessionBase | None = None, reason: str = USER) -> int:
    if (owner := owner_of(user)) is None:
        return 0
    references = {one.reference for one in await _afind_owned(owner)}
    kept = await _ours(keep).areferences() if keep is not None else ()
    return await _aend(owner, references.difference(kept), reason)


# The admin ends sessions by their owner, because the user may have been deleted.


def end_all_owned(owner: str, keep: SessionBase | None, reason: str) -> int:
    references = {one.reference for one in _find_owned(owner)}
    # After the list, so that a rotation in between cannot end the session to be kept.
    kept = _ours(keep).references() if keep is not None else ()
    return end_owned(owner, references.difference(kept), reason)


def end_owned(owner: str, references: Collection[str], reason: str) -> int:
    strategy = _strategy()
    count = ask(strategy, call(SessionStrategy.end_owned, owner, references))
    announce(type(strategy), [Ended(owner, reason)] * count)
    return count


async def _aend(owner: str, references: Collection[str], reason: str) -> int:
    strategy = _strategy()
    count = await aask(strategy, call(SessionStrategy.end_owned, owner, references))
    await aannounce(type(strategy), [Ended(owner, reason)] * count)
    return count


def _find_owned(owner: str) -> list[Owned]:
    return ask(_strategy(), call(SessionStrategy.find_owned, owner))


async def _afind_owned(owner: str) -> list[Owned]:
    return await aask(_strategy(), call(SessionStrategy.find_owned, owner))


def _strategy() -> SessionStrategy:
    strategy = get_strategy()
    if not strategy.finds_owners:
        raise CannotListSessions(
            f"{type(strategy).__name__} cannot find the sessions of a user. DatabaseStrategy,"
            " PostgresStrategy, RedisStrategy and MemoryStrategy can, and so can every strategy"
            " that sets `finds_owners = True`."
        )
    return strategy


def owner_of(user: User) -> str | None:
    """Return the user's primary key as the session holds it. ``None``: nobody is signed in."""
    if user.is_anonymous:
        return None
    key = cast(Any, user)._meta.pk
    if getattr(user, key.attname) is None:
        raise ValueError(
            "This user has no primary key. End a user's sessions before you delete it."
        )
    owner: str = key.value_to_string(user)
    return owner


class _OurSession(Protocol):
    def references(self) -> Collection[str]: ...
    async def areferences(self) -> Collection[str]: ...


def _ours(session: SessionBase) -> _OurSession:
    if not hasattr(session, "references"):
        raise TypeError(f"This needs a session of our engine, not of {type(session).__module__}.")
    return cast(_OurSession, session)


def _entries(owned: Iterable[Owned], current: Collection[str]) -> list[UserSession]:
    entries = [
        UserSession(
            one.reference,
            one.created,
            one.expires,
            one.reference in current,
            len(owners_of(one.texts)) > 1,
            read_sign_in(one.texts),
        )
        for one in owned
    ]
    return sorted(entries, key=lambda one: one.created, reverse=True)
