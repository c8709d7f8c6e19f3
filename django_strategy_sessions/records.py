"""Records: how a session looks at rest. Public, for authors of strategies.

The store never holds a usable session id, only its hash, the *key* (CVE-2019-16782). The data is
sealed: a mac, an optional header, and a JSON object with one name per line. The mac is bound to the
key and covers all of it, so a record that was forged, cut, or copied into another session is no
session. It changes with the data, so it is also what compare-and-set compares: always the stored
one, never one computed again.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
from functools import lru_cache
from hashlib import sha256

from . import signing
from .conf import conf
from .hidden import Hidden
from .values import Text, Texts, decode, serializer

__all__ = [
    "MAC_LENGTH",
    "MOVED",
    "SessionTooLarge",
    "follow",
    "hashed",
    "is_current",
    "is_moved",
    "moved",
    "new_id",
    "seal",
    "unseal",
]

MAC_LENGTH = 43
# What stands in place of a mac where a session has moved to another key. No record has this mac, so
# no compare-and-set matches it.
MOVED = "-" * MAC_LENGTH

_JSON, _OTHER = "j", "s"  # who made the texts: the standard library, or another serializer
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
_logger = logging.getLogger("django.security.SuspiciousSession")


class SessionTooLarge(ValueError):
    """The serialized session is beyond ``SESSION_MAX_SIZE`` bytes. Nothing was written."""


def new_id() -> str:
    """128 bits of the system's randomness in 22 characters (ASVS 7.2.3, 11.5.1)."""
    return Hidden(secrets.token_urlsafe(16))


@lru_cache(maxsize=256)  # one request asks for the same id several times
def hashed(session_id: str) -> str:
    """The key of a session: the SHA-256 of its id, cut to 128 bits, in hex.

    Six of the bits make it look like a random UUID (RFC 9562, 5.4), because MariaDB's columns for
    UUIDs refuse some values that do not.
    """
    cut = sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{cut[:12]}4{cut[13:16]}{_VARIANT[cut[16]]}{cut[17:]}"


def seal(key: str, texts: Texts, header: str = "") -> str:
    """The record of a session: 43 characters of mac, the `header`, one for the serializer, texts.

    A header is text of a length that the strategy knows. The record is ASCII if the header is.
    Raises `SessionTooLarge` beyond ``SESSION_MAX_SIZE``.
    """
    lines = Hidden(",\n".join([f"{_quote(name)}:\t{text}" for name, text in texts.items()]))
    if len(lines) > conf.SESSION_MAX_SIZE:
        raise SessionTooLarge(
            f"The session has {len(lines):,} bytes; SESSION_MAX_SIZE is {conf.SESSION_MAX_SIZE:,}."
        )
    body = f"{header}{_JSON if serializer() is None else _OTHER}{{{lines}}}".encode()
    return Hidden(_mac(key, body, signing.project_secrets()[0]) + body.decode())


def unseal(key: str, record: str, header_length: int = 0) -> Texts | None:
    """The texts in a record, or ``None``, logged, if it is not what `seal` made for this key."""
    if not _is_sealed(key, record):
        _logger.warning("A session record that does not unseal was treated as no session.")
        return None
    made_by = record[MAC_LENGTH + header_length]
    lines = record[MAC_LENGTH + header_length + 2 : -1]
    texts = Texts()
    for line in lines.split(",\n") if lines else ():
        name, _, text = line.partition(":\t")
        texts[json.loads(name) if "\\" in name else name[1:-1]] = Text(text)
    other = serializer()
    if (made_by == _OTHER) != (other is not None):
        _logger.warning("A session record was written with another SESSION_SERIALIZER.")
        return None
    if other is not None:
        # JSON that was sealed can be parsed when somebody asks for it. What is read by a key of its
        # own, as encryption, must turn out to be unreadable here and not in a view.
        try:
            for text in texts.values():
                decode(text)
        except Exception as error:
            _logger.warning("A session record could not be read (%s).", type(error).__name__)
            return None
    return texts


def is_current(key: str, record: str) -> bool:
    """Whether the newest secret sealed a record."""
    return _matches(key, record, signing.project_secrets()[0])


def moved(key: str, new_key: str, header: str = "") -> str:
    """The marker that a rotation leaves under the old key: where the session is now."""
    body = f"{header}{new_key}"
    seal = _mac(key, f"{MOVED}{body}".encode(), signing.project_secrets()[0])
    return Hidden(MOVED + seal + body)


def is_moved(record: str) -> bool:
    return record.startswith(MOVED)


def follow(key: str, record: str, header_length: int = 0) -> str | None:
    """The new key in a marker; ``None`` if we did not make it for this key."""
    seal, body = record[MAC_LENGTH : 2 * MAC_LENGTH], record[2 * MAC_LENGTH :]
    return body[header_length:] if _is_sealed(key, Hidden(seal + MOVED + body)) else None


def _quote(name: str) -> str:
    return json.dumps(name)


def _mac(key: str, body: bytes | memoryview, secret: bytes) -> str:
    # A key has a fixed length, so no other key and body make the same message.
    return signing.mac("record", secret, key.encode(), body)


def _is_sealed(key: str, record: str) -> bool:
    return any(_matches(key, record, secret) for secret in signing.project_secrets())


def _matches(key: str, record: str, secret: bytes) -> bool:
    body = memoryview(record.encode("utf-8", "surrogatepass"))[MAC_LENGTH:]
    mac = record[:MAC_LENGTH]
    return mac.isascii() and hmac.compare_digest(_mac(key, body, secret), mac)
