"""Signals: a signed-in session ended, and what happens between the sessions and their store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from asgiref.sync import iscoroutinefunction
from django.dispatch import Signal

LOGOUT = "logout"  # the session's own request ended it
USER = "user"  # the user ended it from another session
STAFF = "staff"  # somebody with the right to do so ended it
LIMIT = "limit"  # a newer sign-in took its place: SESSION_LIMIT_PER_USER

# Sent after a session with a user was ended, not when it expires. `sender`: the strategy's class.
# `owner`: the user's primary key as text. `reason`: one of the above, or what `end_sessions` was
# given. A receiver that raises is logged and does not undo the end.
session_ended: Signal = Signal()


class Ended(NamedTuple):
    owner: str
    reason: str


def announce(sender: type, ended: Iterable[Ended]) -> None:
    for owner, reason in ended:
        session_ended.send_robust(sender, owner=owner, reason=reason)


async def aannounce(sender: type, ended: Iterable[Ended]) -> None:
    for owner, reason in ended:
        await session_ended.asend_robust(sender, owner=owner, reason=reason)


# -- for metrics -----------------------------------------------------------------------------------

CREATED = "created"
LOADED = "loaded"
MISSED = "missed"  # a load, a save or a rotation found that the session is gone
SAVED = "saved"
ROTATED = "rotated"
ENDED = "ended"  # by a logout or another request, not by its expiry
UNAVAILABLE = "unavailable"  # the store could not answer
# These have no duration.
MERGED = "merged"  # a save kept what another request had written; "saved" or "rotated" follows
REFUSED = "refused"  # a session key that does not verify: forged, or signed with a retired secret
UNREADABLE = "unreadable"  # a record that does not unseal; "missed" follows
CACHE_HIT = "cache_hit"  # the cache of a CachedStrategy had the row
CACHE_MISS = "cache_miss"  # it had no copy that counts, so the store was asked
CACHE_BYPASSED = "cache_bypassed"  # it is down, or is left alone after an outage


class _SyncSignal(Signal):
    def connect(
        self,
        receiver: Callable[..., Any],
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Any = None,
    ) -> None:
        if iscoroutinefunction(receiver):
            raise TypeError("A receiver of session_event must be a plain function, not async def.")
        super().connect(receiver, sender, weak, dispatch_uid)


# Sent at each of the above; it carries no id, key or data. `sender`: the strategy's class. `event`:
# one of the above. `duration`: how many seconds the strategy's call took, or ``None``. Async code
# calls receivers in its event loop, so they must not wait. A receiver that raises is logged and
# breaks nothing.
session_event: Signal = _SyncSignal(use_caching=True)


def tell(sender: type, event: str, duration: float | None = None) -> None:
    """Send `session_event`. If nobody listens, this costs next to nothing."""
    if session_event.receivers:
        session_event.send_robust(sender, event=event, duration=duration)
