"""The dict that a request works on. It holds texts and decodes them on access."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from threading import Lock
from typing import Any

from .hidden import HiddenDict
from .values import Data, Text, Texts, decode, is_scalar, text_of_name

_MISSING: Any = object()
_decoding = Lock()  # one for all drafts, because it is held for microseconds and drafts are copied


class Draft(HiddenDict):
    """A session's data. It starts as the stored texts and decodes values on access.

    Decoding makes a new object, so the stored text never changes. A name that the request does not
    access is neither parsed nor serialized again.
    """

    def __getitem__(self, name: Any) -> Any:
        name = name if type(name) is str else _convert_name(name)
        value = dict.__getitem__(self, name)
        if type(value) is not Text:
            return value
        # A scalar cannot be changed from within, so its text stays and is not written anew.
        return decode(value) if is_scalar(value) else self._decode(name)

    def _decode(self, name: str) -> Any:
        with _decoding:  # all threads of the request have to get the same object
            value = dict.__getitem__(self, name)
            if type(value) is Text:
                value = decode(value)
                dict.__setitem__(self, name, value)
        return value

    def __setitem__(self, name: Any, value: Any) -> None:
        try:
            dict.__setitem__(self, name if type(name) is str else text_of_name(name), value)
        except TypeError:
            del value  # error reports show local variables
            raise

    def __delitem__(self, name: Any) -> None:
        dict.__delitem__(self, name if type(name) is str else _convert_name(name))

    def __contains__(self, name: object) -> bool:
        try:
            return dict.__contains__(self, name if type(name) is str else _convert_name(name))
        except KeyError:
            return False

    def get(self, name: Any, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401

    def pop(self, name: Any, default: Any = _MISSING) -> Any:
        if name not in self:
            if default is _MISSING:
                raise KeyError(name)
            return default
        value = self[name]
        del self[name]
        return value

    def popitem(self) -> tuple[str, Any]:
        name = next(reversed(self.keys()), None)
        if name is None:
            raise KeyError("popitem(): the session is empty")
        return name, self.pop(name)

    def setdefault(self, name: Any, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *args: Any, **kwargs: Any) -> None:
        given = HiddenDict(*args, **kwargs)
        del args, kwargs
        for name in given:
            self[name] = given[name]

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # typeshed: dict_values
        self._decode_all()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # typeshed: dict_items
        self._decode_all()
        return super().items()

    def __iter__(self) -> Iterator[str]:
        # Without this override, dict(draft) would copy the texts and bypass __getitem__().
        return super().__iter__()

    def copy(self) -> Data:
        return dict(self.items())

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __eq__(self, other: object) -> bool:
        return self.copy() == other

    __hash__ = None  # type: ignore[assignment]

    def raw(self) -> Texts:
        """Return a copy that holds texts for the names that were not accessed.

        The copy is made in one step, because other threads of the request may change the dict.
        """
        return Texts(list(dict.items(self)))

    def put(self, name: str, value: Any) -> None:
        """Set a name to a text or a value that comes from the store."""
        dict.__setitem__(self, name, value)

    def _decode_all(self) -> None:
        for name in list(self):
            self._decode(name)


def _convert_name(name: object) -> str:
    """Return the name to look up. `KeyError` for a type that no name can have."""
    try:
        return text_of_name(name)
    except TypeError:
        raise KeyError(name) from None
