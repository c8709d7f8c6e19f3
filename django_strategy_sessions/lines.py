"""Texts as a record holds them: a JSON object with one name per line.

A line is ``"cart":<tab>[...]``. Texts are JSON, so neither they nor quoted names hold a raw tab or
newline, and a search for a whole name finds nothing else.
"""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterator, KeysView, Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from .values import Text, Texts


def join(texts: Mapping[str, str]) -> str:
    return ",\n".join([f"{quote(name)}:\t{text}" for name, text in texts.items()])


class Lines(Mapping[str, Text]):
    """The texts that `join` has written.

    A request that only reads needs few of them, and to find one takes a tenth of the time that all
    take. So the lines are split when somebody needs more than single names.
    """

    __slots__ = ("_joined", "_texts")

    def __init__(self, joined: str) -> None:
        self._joined = f",\n{joined},\n"  # so the first and the last line are like the others
        self._texts: Texts | None = None

    def split(self) -> Texts:
        """Return all texts. Do not change them."""
        if self._texts is None:
            texts = Texts()
            lines = self._joined[2:-2]
            for line in lines[1:].split(',\n"') if lines else ():
                name, _, text = line.partition('":\t')
                texts[json.loads(f'"{name}"') if "\\" in name else name] = Text(text)
            self._texts = texts
        return self._texts

    def get(self, name: Any, default: Any = None) -> Any:
        # Two lone surrogates are quoted like the character that they make, so only the split texts
        # can tell such names apart.
        if self._texts is not None or type(name) is not str or not name.isascii():
            return self.split().get(name, default)
        label = f",\n{quote(name)}:\t"
        start = self._joined.find(label)
        if start < 0:
            return default
        start += len(label)
        return Text(self._joined[start : self._joined.find(",\n", start)])

    def __getitem__(self, name: str) -> Text:
        text: Text | None = self.get(name)
        if text is None:
            raise KeyError(name)
        return text

    def __contains__(self, name: object) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.split())

    def __len__(self) -> int:
        return len(self.split())

    def __eq__(self, other: object) -> bool:
        return self.split() == other

    __hash__ = None  # type: ignore[assignment]

    def keys(self) -> KeysView[str]:
        return self.split().keys()

    def items(self) -> ItemsView[str, Text]:
        return self.split().items()

    def __repr__(self) -> str:
        return "<lines>"  # error reports show local variables

    __sentry_repr__ = __repr__  # Sentry would list what is in a mapping


def as_dict(texts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Split lines, for code that needs all texts: Python copies a dict faster."""
    return texts.split() if isinstance(texts, Lines) else texts
