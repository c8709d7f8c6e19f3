"""Records: the format of a session at rest. Public, for authors of strategies.

The store never holds a usable session id, only its hash, the *key* (CVE-2019-16782). The data is
sealed: a mac, an optional header, and a JSON object with one name per line. The mac is bound to the
key and covers the whole record, so a record that was forged, cut, or copied into another session
counts as no session. The mac changes with the data, so compare-and-set compares macs: always the
stored mac, never one computed again.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256

from . import signing
from .conf import conf
from .hidden import Hidden
from .lines import Lines, join
from .values import Text, Texts, decode, serializer

__all__ = [
    "GATE",
    "MAC_LENGTH",
    "MOVED",
    "SessionTooLarge",
    "follow",
    "hashed",
    "is_current",
    "is_key",
    "is_moved",
    "moved",
    "new_id",
    "seal",
    "unseal",
]

MAC_LENGTH = 43
# A marker, left where a session moved to another key, starts with this instead of a mac. No record
# has this mac, so no compare-and-set matches it.
MOVED = "-" * MAC_LENGTH

_JSON, _OTHER = "j", "s"  # the serializer: json, or another
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
_KEY = re.compile("[0-9a-f]{32}")
_logger = logging.getLogger("django.security.SuspiciousSession")


class SessionTooLarge(ValueError):
    """The serialized session is larger than ``SESSION_MAX_SIZE`` bytes. Nothing was written."""


def new_id() -> str:
    """Return 128 random bits from the operating system, as 22 characters (ASVS 7.2.3, 11.5.1)."""
    return Hidden(secrets.token_urlsafe(16))


@lru_cache(maxsize=256)  # one request hashes the same id several times
def hashed(session_id: str) -> str:
    """Return a session's key in the store: 32 hex digits, the first 128 bits of the id's SHA-256.

    Six bits are set as in a random UUID (RFC 9562, 5.4), because MariaDB's UUID columns refuse some
    other values.
    """
    cut = sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{cut[:12]}4{cut[13:16]}{_VARIANT[cut[16]]}{cut[17:]}"


# A row under this key is no session: no id is empty. See `strategies.cached`.
GATE = hashed("")


def is_key(text: str) -> bool:
    """Whether the text has the form of a key."""
    return _KEY.fullmatch(text) is not None


def seal(key: str, texts: Texts, header: str = "") -> str:
    """Return a session's record: 43 characters of mac, `header`, a serializer letter, the texts.

    The strategy fixes the header's length. The record is ASCII if the header is. Raises
    `SessionTooLarge` if the texts exceed ``SESSION_MAX_SIZE`` bytes.
    """
    lines = Hidden(join(texts))
    if len(lines) > conf.SESSION_MAX_SIZE:
        raise SessionTooLarge(
            f"The session has {len(lines):,} bytes; SESSION_MAX_SIZE is {conf.SESSION_MAX_SIZE:,}."
        )
    body = f"{header}{_JSON if serializer() is None else _OTHER}{{{lines}}}".encode()
    return Hidden(_mac(key, body, signing.project_secrets()[0]) + body.decode())


def unseal(key: str, record: str, header_length: int = 0) -> Mapping[str, Text] | None:
    """Return the texts of a record. If `seal` did not make it for this key, log that: ``None``."""
    if not _is_sealed(key, record, signing.project_secrets()):
        _logger.warning("A session record that does not unseal was treated as no session.")
        return None
    made_by = record[MAC_LENGTH + header_length]
    texts = Lines(record[MAC_LENGTH + header_length + 2 : -1])
    other = serializer()
    if (made_by == _OTHER) != (other is not None):
        _logger.warning("A session record was written with another SESSION_SERIALIZER.")
        return None
    if other is not None:
        # Sealed JSON always parses, so it can be decoded later. Another serializer may have a key
        # of its own; if that has changed, decoding must fail here and not in a view.
        try:
            for text in texts.values():
                decode(text)
        except Exception as error:
            _logger.warning("A session record could not be read (%s).", type(error).__name__)
            return None
    return texts


def is_current(key: str, record: str) -> bool:
    """Whether the newest secret sealed the record."""
    return _is_sealed(key, record, signing.project_secrets()[:1])


def moved(key: str, new_key: str, header: str = "") -> str:
    """Return the marker that a rotation leaves under the old key. It holds the new key."""
    body = f"{header}{new_key}"
    seal = _mac(key, f"{MOVED}{body}".encode(), signing.project_secrets()[0])
    return Hidden(MOVED + seal + body)


def is_moved(record: str) -> bool:
    return record.startswith(MOVED)


def follow(key: str, record: str, header_length: int = 0) -> str | None:
    """Return the new key in a marker, or ``None`` if `moved` did not make it for this key."""
    seal, body = record[MAC_LENGTH : 2 * MAC_LENGTH], record[2 * MAC_LENGTH :]
    sealed = Hidden(seal + MOVED + body)
    return body[header_length:] if _is_sealed(key, sealed, signing.project_secrets()) else None


def _mac(key: str, body: bytes | memoryview, secret: bytes) -> str:
    # Keys have a fixed length, so no other key and body give the same message.
    return signing.mac("record", secret, key.encode(), body)


def _is_sealed(key: str, record: str, secrets: signing.Secrets) -> bool:
    body = memoryview(record.encode("utf-8", "surrogatepass"))[MAC_LENGTH:]
    mac = record[:MAC_LENGTH]
    if mac.isascii():
        for secret in secrets:
            if hmac.compare_digest(_mac(key, body, secret), mac):
                return True
    return False
