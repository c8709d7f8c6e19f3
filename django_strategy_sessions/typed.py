"""Types for session data: a ``TypedDict`` says which names there are, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

from django.http import HttpRequest

Data = TypeVar("Data", bound=Mapping[str, Any])
T = TypeVar("T")


def typed_session(request: HttpRequest, data: type[Data]) -> Data:
    """``request.session``, which type checkers then take for a `data`, a ``TypedDict``.

    Nothing is checked at run time. ``[]``, ``in``, ``del``, ``get``, ``pop``, ``setdefault``,
    ``update``, ``keys``, ``values``, ``items`` and ``clear`` work; a session has no other of a
    dict's, such as ``len``. For ``flash()`` and ``apply()`` there is `engine_session`.
    """
    return cast(Data, request.session)


class EngineSession(Protocol):
    """What our engine adds to Django's sessions, which is all that their stubs know."""

    def flash(self, name: str, value: Any) -> None: ...

    async def aflash(self, name: str, value: Any) -> None: ...

    def apply(self, name: str, function: Callable[[Any], T], default: Any = None) -> T: ...

    async def aapply(self, name: str, function: Callable[[Any], T], default: Any = None) -> T: ...


def engine_session(request: HttpRequest) -> EngineSession:
    """``request.session``, of which type checkers then know the methods that are our engine's own:
    ``flash``, ``apply`` and their async twins. Nothing is checked at run time."""
    return cast(EngineSession, request.session)
