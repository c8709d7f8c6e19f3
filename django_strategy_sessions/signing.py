"""Session keys: a session id and the mac that proves that this project issued it.

A key is ``<id>.<mac>``, the mac being the first 17 characters (102 bits) of a urlsafe HMAC-SHA-256
that is bound to the cookie's name, so a key from one cookie does not verify in another
(CVE-2026-6873). The first secret signs; every secret verifies (ASVS 9.1.1, 11.2.4).
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .conf import conf
from .hidden import Hidden

KEY_MAC_LENGTH = 17
SHORTEST_SECRET = 32  # bytes: the length of a SHA-256
MAKE_SECRET = "python -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105  (for hints)

Secrets = tuple[bytes, ...]


def sign(session_id: str, cookie_name: str, secrets: Secrets | None = None) -> str:
    """Return the session key of an id, signed with the newest secret."""
    newest = (secrets or project_secrets())[0]
    return f"{session_id}.{_key_mac(session_id, cookie_name, newest)}"


def unsign(key: object, cookie_name: str, secrets: Secrets | None = None) -> str | None:
    """Return the id in a session key, or ``None`` if the key does not verify."""
    if not isinstance(key, str):  # for example the Morsel that some tests pass
        return None
    try:
        return _verify(key, cookie_name, secrets or project_secrets())
    except _Forged:
        return None


class _Forged(Exception):
    pass


@lru_cache(maxsize=256)
def _verify(key: str, cookie_name: str, secrets: Secrets) -> str:
    """Return the id in a session key. Raises `_Forged` if the key does not verify.

    Keys that verified are remembered, because browsers send the same key again and again. A forged
    key is not, because a cache keeps no exceptions, so forged keys cannot push others out. Time
    tells nothing about a key that is remembered: the cache compares hashes before texts, and the
    hash of a guess tells nothing about how much of the guess is right.
    """
    session_id, dot, given = map(Hidden, key.rpartition("."))
    if session_id and dot and len(given) == KEY_MAC_LENGTH and given.isascii():
        for secret in secrets:
            if hmac.compare_digest(_key_mac(session_id, cookie_name, secret), given):
                return session_id
    raise _Forged


def mac(purpose: str, secret: bytes, *message: bytes | memoryview) -> str:
    """Return a urlsafe HMAC-SHA-256 of 43 characters, under a key derived for `purpose`."""
    keyed = _keyed(purpose, secret).copy()
    for part in message:
        keyed.update(part)
    return urlsafe_b64encode(keyed.digest())[:43].decode()


def _key_mac(session_id: str, cookie_name: str, secret: bytes) -> str:
    # A client can send lone surrogates, which UTF-8 cannot encode. They must not raise an error.
    message = session_id.encode("utf-8", "surrogatepass")
    return mac(f"key:{cookie_name}", secret, message)[:KEY_MAC_LENGTH]


@lru_cache(maxsize=256)
def _keyed(purpose: str, secret: bytes) -> hmac.HMAC:
    derived = hmac.digest(secret, f"django_strategy_sessions.{purpose}".encode(), sha256)
    return hmac.new(derived, digestmod=sha256)


@cache
def project_secrets() -> Secrets:
    """Return ``SESSION_COOKIE_SECRETS``, or else ``SECRET_KEY`` and its fallbacks, newest first."""
    if (given := conf.SESSION_COOKIE_SECRETS) is not None:
        return checked_secrets(given, "SESSION_COOKIE_SECRETS")
    return tuple(_bytes(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


def checked_secrets(given: Sequence[str | bytes], where: str) -> Secrets:
    """Validate secrets and return them as bytes. Raises `ImproperlyConfigured`.

    With a bare string, its first letter would sign; with an unset variable, an empty secret would.
    Both have happened to users of React Router in production.
    """
    if not isinstance(given, (list, tuple)):
        raise ImproperlyConfigured(
            f"{where} must be a list of secrets, newest first, not {type(given).__name__}."
        )
    if not given:
        raise ImproperlyConfigured(f"{where} is empty: it needs at least one secret.")
    for secret in given:
        if not isinstance(secret, (str, bytes)):
            raise ImproperlyConfigured(
                f"{where} holds a {type(secret).__name__}: every secret is a string."
            )
        if len(_bytes(secret)) < SHORTEST_SECRET:
            raise ImproperlyConfigured(
                f"{where} holds a secret that is shorter than {SHORTEST_SECRET} bytes."
            )
    return tuple(_bytes(secret) for secret in given)


def _bytes(secret: str | bytes) -> bytes:
    return secret.encode() if isinstance(secret, str) else secret


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in {"SESSION_COOKIE_SECRETS", "SECRET_KEY", "SECRET_KEY_FALLBACKS"}:
        project_secrets.cache_clear()


setting_changed.connect(_forget)
