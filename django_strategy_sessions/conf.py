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
    # Former names of the cookie. The middleware reads such a cookie, sends the key under
    # SESSION_COOKIE_NAME, and deletes the old cookie.
    "SESSION_COOKIE_NAME_FALLBACKS": (),
    # CHIPS: browsers keep a separate cookie for each site that embeds this one.
    "SESSION_COOKIE_PARTITIONED": False,
    # A session ends this many seconds after its start, even if in use (ASVS 7.3.2). None: never.
    "SESSION_ABSOLUTE_AGE": None,
    # Bytes of a session's serialized data.
    "SESSION_MAX_SIZE": 1024 * 1024,
    # Whether a session notes when, from where and with what its user signed in. Personal data.
    "SESSION_SIGN_INS": False,
    # The dotted path of a function that takes the request and returns the client's address, for
    # sites behind a proxy. None: REMOTE_ADDR.
    "SESSION_SIGN_IN_ADDRESS": None,
    # A sign-in ends the user's oldest sessions beyond this many. None: no limit.
    "SESSION_LIMIT_PER_USER": None,
}


class Settings:
    """Settings, cached: one request reads some of them many times, and ``settings.X`` is slow for a
    setting that the project does not define."""

    SESSION_STRATEGY: str | Mapping[str, Any]
    SESSION_COOKIE_SECRETS: Sequence[str | bytes] | None
    SESSION_COOKIE_NAME_FALLBACKS: Sequence[str]
    SESSION_COOKIE_PARTITIONED: bool
    SESSION_ABSOLUTE_AGE: float | None
    SESSION_MAX_SIZE: int
    SESSION_SIGN_INS: bool
    SESSION_SIGN_IN_ADDRESS: str | None
    SESSION_LIMIT_PER_USER: int | None

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
