"""Session values as texts, which the package compares, merges and seals.

With Django's ``JSONSerializer`` a text is the value's JSON: ASCII, without raw tabs or newlines.
Any other ``SESSION_SERIALIZER`` is given ``{name: value}``, because some accept only dicts, and the
text is its bytes in base64, as a JSON string.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.core.signing import JSONSerializer
from django.utils.module_loading import import_string

from .hidden import Hidden, HiddenDict

Data = dict[str, Any]


class Text(Hidden):
    """One serialized value."""

    __slots__ = ()


class Texts(HiddenDict):
    """A session's texts by name."""

    __slots__ = ()


_encode = json.JSONEncoder(separators=(",", ":")).encode
# Faster than decode(), which first skips white space; texts from `_encode` have none.
_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed leaves it out


@cache
def serializer() -> Any | None:
    """Return the class that ``SESSION_SERIALIZER`` names, or ``None`` for Django's JSON."""
    found = import_string(settings.SESSION_SERIALIZER)
    return None if found is JSONSerializer else found


def encode(name: str, value: Any) -> Text:
    """Serialize one value. The `TypeError` for a value that cannot be serialized has the name."""
    other = serializer()
    try:
        if other is None:
            return Text(_encode(value))
        return Text(f'"{b64encode(other().dumps({name: value})).decode()}"')
    except Exception as error:
        # json's own messages name types and never show values.
        reason = str(error) if other is None else type(value).__name__
        failed = type(error).__name__
    # Error reports show local variables, also those of a cause, so the error has none.
    del value
    raise TypeError(f"The session's {name!r} cannot be serialized ({failed}: {reason}).")


def decode(text: str) -> Any:
    """Parse a text. Each call returns a new object."""
    if (other := serializer()) is None:
        return _scan(text, 0)[0]
    (value,) = other().loads(b64decode(text)).values()
    return value


def is_scalar(text: str) -> bool:
    """Whether the text's value is one that cannot be changed from within."""
    return serializer() is None and text[0] not in "[{"


def same(one: str, another: str) -> bool:
    """Whether two texts hold the same value. An encrypting serializer never repeats a text."""
    return one == another or (serializer() is not None and _equal(decode(one), decode(another)))


def encode_all(data: Mapping[str, Any]) -> Texts:
    return Texts({name: encode(name, data[name]) for name in data})


def decode_all(texts: Mapping[str, str]) -> Data:
    return {name: decode(text) for name, text in texts.items()}


def text_of_name(name: object) -> str:
    """Return a name as JSON writes it: ``5`` becomes ``"5"``. Raises `TypeError` for others."""
    if isinstance(name, str):
        return name
    if name is None or isinstance(name, (bool, int, float)):
        return _encode(name)
    raise TypeError(f"A session's names are str, not {type(name).__name__}.")


# -- flash names: React Router's -------------------------------------------------------------------


def flash_name(name: str) -> str:
    """Return the raw name of a flash."""
    return f"__flash_{name}__"


def is_flash(raw: str) -> bool:
    return raw.startswith("__flash_") and raw.endswith("__")


def unflashed(raw: str) -> str:
    """Return the flash's name from its raw name."""
    return raw[len("__flash_") : -len("__")]


def _equal(one: Any, another: Any) -> bool:
    """Compare like ``==``, but also compare types and the order of names."""
    if type(one) is not type(another):
        return False
    if isinstance(one, dict):
        return list(one) == list(another) and all(_equal(one[name], another[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(another) and all(map(_equal, one, another))
    return bool(one == another) or (one != one and another != another)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "SESSION_SERIALIZER":
        serializer.cache_clear()


setting_changed.connect(_forget)
