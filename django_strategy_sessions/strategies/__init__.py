"""Make the strategy that ``SESSION_STRATEGY`` names, on first use."""

from __future__ import annotations

from functools import cache
from inspect import signature
from threading import RLock
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ..conf import conf
from .base import SessionStrategy

_ASKED = {
    *("SESSION_STRATEGY", "SESSION_ABSOLUTE_AGE", "SESSION_LIMIT_PER_USER"),
    *("DATABASES", "CACHES"),
}
_making = RLock()


class WrongOption(ImproperlyConfigured):
    """`hint`: what to put into the settings instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint: str = hint


@cache
def get_strategy() -> SessionStrategy:
    """Return the one instance that serves every thread and event loop of this process.

    Raises `ImproperlyConfigured`, chained to its cause.
    """
    with _making:  # or threads whose first requests come at once would make one each
        return _make_once()


@cache
def _make_once() -> SessionStrategy:
    strategy = make_strategy(conf.SESSION_STRATEGY)
    require_features(strategy)
    return strategy


def make_strategy(setting: Any, where: str = "SESSION_STRATEGY") -> SessionStrategy:
    """Make a strategy from a dotted path or ``{"BACKEND": path, "OPTIONS": {...}}``.

    `where` names the setting in errors. Raises `ImproperlyConfigured`, chained to its cause.
    """
    given = {"BACKEND": setting} if isinstance(setting, str) else setting
    if not isinstance(given, dict) or not isinstance(given.get("BACKEND"), str):
        raise ImproperlyConfigured(
            f'{where} needs a dotted path or {{"BACKEND": "dotted.path", "OPTIONS": {{}}}}.'
        )
    if unknown := given.keys() - {"BACKEND", "OPTIONS"}:
        raise ImproperlyConfigured(
            f"{where} got unknown keys: {', '.join(sorted(map(str, unknown)))}."
        )
    path, options = given["BACKEND"], given.get("OPTIONS", {})
    if not isinstance(options, dict):
        raise ImproperlyConfigured(f"{where}: OPTIONS must be a dict.")
    try:
        backend = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{where}: {path!r} cannot be imported.") from error
    if not (isinstance(backend, type) and issubclass(backend, SessionStrategy)):
        raise ImproperlyConfigured(f"{where}: {path!r} is not a subclass of SessionStrategy.")
    try:
        signature(backend).bind(**options)
    except TypeError as error:
        raise ImproperlyConfigured(f"{where}: {path!r} does not take these OPTIONS.") from error
    try:
        strategy: SessionStrategy = backend(**options)
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise ImproperlyConfigured(f"{where}: {path!r} refuses its OPTIONS.") from error
    return strategy


def require_features(strategy: SessionStrategy) -> None:
    """Refuse a strategy that cannot do what the settings ask for."""
    if conf.SESSION_ABSOLUTE_AGE and not strategy.keeps_created:
        raise ImproperlyConfigured(
            "SESSION_ABSOLUTE_AGE needs a strategy that keeps `created`:"
            f" {type(strategy).__name__} does not."
        )
    if conf.SESSION_LIMIT_PER_USER and not strategy.finds_owners:
        raise ImproperlyConfigured(
            "SESSION_LIMIT_PER_USER needs a strategy that finds the sessions of a user:"
            f" {type(strategy).__name__} does not."
        )


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in _ASKED:
        _make_once.cache_clear()
        get_strategy.cache_clear()


setting_changed.connect(_forget)
