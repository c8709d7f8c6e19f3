"""Types for session data: a ``TypedDict`` says which names there are, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from django.http import HttpRequest

Data = TypeVar("Data", bound=Mapping[str, Any])


def typed_session(request: HttpRequest, data: type[Data]) -> Data:
    """``request.session``, which type checkers then take for a `data`, a ``TypedDict``.

    Nothing is checked at run time. ``[]``, ``in``, ``del``, ``get``, ``pop``, ``setdefault``,
    ``update``, ``keys``, ``values``, ``items`` and ``clear`` work; a session has no other of a
    dict's, such as ``len``. What is a session's own, as ``flash()``, is on the request's.
    """
    return cast(Data, request.session)
