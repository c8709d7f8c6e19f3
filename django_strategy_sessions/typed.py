"""Types for session data: a ``TypedDict`` declares the names and the types of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

from django.http import HttpRequest

Data = TypeVar("Data", bound=Mapping[str, Any])
T = TypeVar("T")


def typed_session(request: HttpRequest, data: type[Data]) -> Data:
    """Return ``request.session``, typed as `data`, a ``TypedDict``.

    Nothing is checked at run time. ``[]``, ``in``, ``del``, ``get``, ``pop``, ``setdefault``,
    ``update``, ``keys``, ``values``, ``items`` and ``clear`` work; other features of a dict, such
    as ``len``, do not. For ``flash()`` and ``apply()``, use `engine_session`.
    """
    return cast(Data, request.session)


class EngineSession(Protocol):
    """The methods that our engine adds to Django's sessions. django-stubs do not know them."""

    def flash(self, name: str, value: Any) -> None: ...

    async def aflash(self, name: str, value: Any) -> None: ...

    def apply(self, name: str, function: Callable[[Any], T], default: Any = None) -> T: ...

    async def aapply(self, name: str, function: Callable[[Any], T], default: Any = None) -> T: ...


def engine_session(request: HttpRequest) -> EngineSession:
    """Return ``request.session``, typed with our engine's ``flash``, ``apply`` and async twins.

    Nothing is checked at run time.
    """
    return cast(EngineSession, request.session)
