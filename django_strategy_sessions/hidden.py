"""Types whose values error reports do not show (ASVS 16.2.5).

Django's error reports and Sentry print the ``repr`` of every frame's local variables. Code whose
variable cannot have one of these types deletes it before it re-raises.
"""

from __future__ import annotations

from typing import Any


class Hidden(str):
    """A session id, a record, or a piece of one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


class HiddenBytes(bytes):
    """The same on its way to a server."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


class HiddenDict(dict[str, Any]):
    """A session's data by name."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} names>"

    __sentry_repr__ = __repr__  # Sentry would list what is in a dict
