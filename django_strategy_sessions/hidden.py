"""Strings that error reports do not show."""

from __future__ import annotations


class Hidden(str):
    """Session ids, records and session data: Django's error reports and Sentry print the local
    variables of every frame by their ``repr`` (ASVS 16.2.5)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"
