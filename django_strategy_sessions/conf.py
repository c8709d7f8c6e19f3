"""The settings that this package adds to Django's, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

DEFAULTS: dict[str, Any] = {
    # A dotted path, or {"BACKEND": path, "OPTIONS": {...}}.
    "SESSION_STRATEGY": "django_strategy_sessions.strategies.database.DatabaseStrategy",
    # Newest first. None: SECRET_KEY, then SECRET_KEY_FALLBACKS.
    "SESSION_COOKIE_SECRETS": None,
    # Names that the cookie had before: read, answered under SESSION_COOKIE_NAME, and removed.
    "SESSION_COOKIE_NAME_FALLBACKS": (),
    # CHIPS: a cookie of its own for each site that embeds this one.
    "SESSION_COOKIE_PARTITIONED": False,
    # Seconds after which a session ends, however much it is used (ASVS 7.3.2). None: never.
    "SESSION_ABSOLUTE_AGE": None,
    # Bytes of a session's serialized data.
    "SESSION_MAX_SIZE": 1024 * 1024,
}


class Settings:
    """Settings, cached: one request reads some of them many times, and a setting that the project
    leaves out is slow to look up."""

    SESSION_STRATEGY: str | Mapping[str, Any]
    SESSION_COOKIE_SECRETS: Sequence[str | bytes] | None
    SESSION_COOKIE_NAME_FALLBACKS: Sequence[str]
    SESSION_COOKIE_PARTITIONED: bool
    SESSION_ABSOLUTE_AGE: float | None
    SESSION_MAX_SIZE: int

    def __getattr__(self, name: str) -> Any:
        if name not in DEFAULTS:
            raise AttributeError(name)
        value = getattr(settings, name, DEFAULTS[name])
        setattr(self, name, value)
        return value


conf: Settings = Settings()


def _forget(*, setting: str, **kwargs: Any) -> None:
    vars(conf).pop(setting, None)


setting_changed.connect(_forget)
