"""The signal that a signed-in session ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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
