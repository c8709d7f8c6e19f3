"""Messages as flash data: what ``MESSAGE_STORAGE`` may name.

Each message is a flash under a name of its own, in the order of time, so messages that concurrent
requests add all survive, and showing some takes away only those that were shown. A flash that is
named like a level's tag is shown as a message of that level::

    request.session.flash("error", "That did not work.")
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from django.contrib.messages.storage.base import BaseStorage, Message
from django.contrib.messages.utils import get_level_tags
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.safestring import SafeData, mark_safe

_PREFIX = "__flash_message."


class FlashStorage(BaseStorage):
    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        if not hasattr(getattr(request, "session", None), "flash"):
            raise ImproperlyConfigured(
                "FlashStorage needs the session of our engine, and its middleware before that of"
                ' messages:\nSESSION_ENGINE = "django_strategy_sessions.engine"'
            )
        super().__init__(request, *args, **kwargs)
        self._shown: list[str] = []  # raw names of what was loaded

    def _get(self, *args: Any, **kwargs: Any) -> tuple[list[Message], bool]:
        session = self.request.session
        names = list(session.keys())  # which, as values under raw names, shows and takes nothing
        messages = []
        for name in sorted(name for name in names if name.startswith(_PREFIX)):
            level, text, extra_tags, safe = session[name]
            messages.append(Message(level, mark_safe(text) if safe else text, extra_tags))  # noqa: S308
            self._shown.append(name)
        for level, tag in get_level_tags().items():
            if tag and (name := f"__flash_{tag}__") in names:
                messages.append(Message(level, session[name]))
                self._shown.append(name)
        return messages, True

    def update(self, response: HttpResponseBase) -> list[Message]:
        """Take away what was shown, and keep what was added since."""
        session: Any = self.request.session
        if self.used:
            for name in self._shown:
                session.pop(name, None)
        now = time.time_ns()
        queued: list[Message] = self._queued_messages  # type: ignore[attr-defined]  # django-stubs
        self._prepare_messages(queued)  # type: ignore[attr-defined]
        for position, message in enumerate(queued):
            # Of two requests in one nanosecond neither overwrites the other's.
            name = f"message.{now:020}.{position:06}.{secrets.token_hex(4)}"
            safe = isinstance(message.message, SafeData)
            value = [message.level, str(message.message), message.extra_tags, safe]
            session.flash(name, value)
        return []
