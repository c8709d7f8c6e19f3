"""When, from where and with what a session signed in, if ``SESSION_SIGN_INS`` is on.

The note is personal data. It is part of the session: sealed, and gone when the session is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ImproperlyConfigured
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.utils.translation import gettext

from .conf import conf
from .values import decode

NAME = "_sign_in"  # in the session
_LONGEST_AGENT = 512  # characters kept
_LONGEST_DEVICE = 60  # characters shown


@dataclass(frozen=True, slots=True)
class SignIn:
    """What a session noted when its user signed in."""

    at: datetime  # aware, UTC
    user_agent: str  # the header, at most 512 characters
    address: str | None  # see ``SESSION_SIGN_IN_ADDRESS``

    @property
    def device(self) -> str:
        """The browser and the system, such as "Firefox on Windows", with the extra ``[devices]``.
        Without it, or if it knows neither, the beginning of the user agent."""
        return _describe(self.user_agent)


@receiver(user_logged_in, dispatch_uid="django_strategy_sessions.sign_ins")
def note_sign_in(request: HttpRequest | None = None, **kwargs: Any) -> None:
    if conf.SESSION_SIGN_INS and request is not None:
        request.session[NAME] = {
            "at": datetime.now(UTC).isoformat(),
            "agent": request.META.get("HTTP_USER_AGENT", "")[:_LONGEST_AGENT],
            "address": find_address(request),
        }


def read_sign_in(texts: Mapping[str, Any]) -> SignIn | None:
    """Return what a session with these texts noted."""
    if NAME not in texts:
        return None
    noted = decode(texts[NAME])
    return SignIn(datetime.fromisoformat(noted["at"]), noted["agent"], noted["address"])


def find_address(request: HttpRequest) -> str | None:
    """Return what the callable of ``SESSION_SIGN_IN_ADDRESS`` returns, else ``REMOTE_ADDR``.

    Raises `ImproperlyConfigured`, chained to its cause.
    """
    path = conf.SESSION_SIGN_IN_ADDRESS
    if path is None:
        return request.META.get("REMOTE_ADDR") or None
    try:
        function = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"SESSION_SIGN_IN_ADDRESS: {path!r} cannot be imported."
        ) from error
    address: str | None = function(request)
    return address


@cache
def _parser() -> Any | None:
    try:
        import ua_parser
    except ImportError:
        return None
    return ua_parser.parse


def _describe(user_agent: str) -> str:
    parse = _parser()
    found = parse(user_agent) if parse else None
    browser, system = (found.user_agent, found.os) if found else (None, None)
    if browser and system:
        families = {"browser": browser.family, "system": system.family}
        return gettext("%(browser)s on %(system)s") % families
    if known := browser or system:
        family: str = known.family
        return family
    if len(user_agent) <= _LONGEST_DEVICE:
        return user_agent
    return f"{user_agent[: _LONGEST_DEVICE - 1].rstrip()}…"
