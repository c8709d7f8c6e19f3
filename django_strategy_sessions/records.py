"""Records: how a session looks at rest. Public, for authors of strategies.

An id is kept only as its hash, so whoever reads the store learns no session key (CVE-2019-16782).
The data is sealed text: the serialized form with a mac that is bound to the id, so a record that
was forged, cut, or copied into another session is no session. A mac changes with the data, so it
is also what compare-and-set compares: always the stored one, never one computed again.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from base64 import b64decode, b64encode
from functools import lru_cache
from hashlib import sha256
from typing import Any

from . import signing
from .strategies.base import serializer, setting

__all__ = ["MAC_LENGTH", "SessionTooLarge", "hashed", "is_current", "new_id", "seal", "unseal"]

MAC_LENGTH = 43
DEFAULT_MAX_SIZE = 1024 * 1024

_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
_logger = logging.getLogger("django.security.SuspiciousSession")


class SessionTooLarge(ValueError):
    """The serialized session is beyond ``SESSION_MAX_SIZE`` bytes. Nothing was written."""


def new_id() -> str:
    """128 bits of the system's randomness in 22 characters (ASVS 7.2.3, 11.5.1)."""
    return secrets.token_urlsafe(16)


@lru_cache(maxsize=256)  # one request asks for the same several times
def hashed(session_id: str) -> str:
    """What a store may know of an id: its SHA-256, cut to 128 bits, in hex.

    Six of the bits make it look like a random UUID (RFC 9562, 5.4): MariaDB's columns for UUIDs
    refuse some values that look like none, those of version 8 among them.
    """
    cut = sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{cut[:12]}4{cut[13:16]}{_VARIANT[cut[16]]}{cut[17:]}"


def seal(session_id: str, data: dict[str, Any], header: str = "") -> str:
    """The record of a session: 43 characters of mac, one for the encoding, the serialized data.

    A `header`, text of a length that the strategy knows, goes before the encoding, under the mac.
    Raises `SessionTooLarge` beyond ``SESSION_MAX_SIZE``.
    """
    payload: bytes = serializer().dumps(data)
    longest = setting("SESSION_MAX_SIZE", DEFAULT_MAX_SIZE)
    if len(payload) > longest:
        raise SessionTooLarge(
            f"The session has {len(payload):,} bytes; SESSION_MAX_SIZE is {longest:,}."
        )
    try:
        body = "t" + payload.decode()
    except UnicodeDecodeError:
        body = "b" + b64encode(payload).decode()
    else:
        if "\0" in body:  # which PostgreSQL's text cannot hold
            body = "b" + b64encode(payload).decode()
    body = header + body
    return _mac(session_id, body, signing.project_secrets()[0]) + body


def unseal(session_id: str, record: str, header_length: int = 0) -> dict[str, Any] | None:
    """The data of a record, or ``None``, logged, if it is not what `seal` made for this id."""
    mac, body = record[:MAC_LENGTH], record[MAC_LENGTH:]
    for secret in signing.project_secrets():
        if _matches(session_id, mac, body, secret):
            break
    else:
        _logger.warning("A session record that does not unseal was treated as no session.")
        return None
    kind, text = body[header_length : header_length + 1], body[header_length + 1 :]
    try:
        payload = b64decode(text) if kind == "b" else text.encode()
        data = serializer().loads(payload)
    except Exception as error:  # sealed by us, yet by another serializer
        _logger.warning("A session record could not be read (%s).", type(error).__name__)
        return None
    if not isinstance(data, dict):
        _logger.warning("A session record did not hold a dict.")
        return None
    return data


def is_current(session_id: str, record: str) -> bool:
    """Whether the newest secret sealed a record."""
    mac, body = record[:MAC_LENGTH], record[MAC_LENGTH:]
    return _matches(session_id, mac, body, signing.project_secrets()[0])


def _mac(session_id: str, body: str, secret: bytes) -> str:
    # The hash has a fixed length, so no other id and body make the same message.
    message = hashed(session_id) + body
    return signing.mac("record", message.encode("utf-8", "surrogatepass"), secret)


def _matches(session_id: str, mac: str, body: str, secret: bytes) -> bool:
    return mac.isascii() and hmac.compare_digest(_mac(session_id, body, secret), mac)
