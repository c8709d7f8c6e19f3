"""Messages as flash data: a storage for ``MESSAGE_STORAGE``.

Each message is a flash under its own time-ordered name. So messages that concurrent requests add
all survive, and showing messages removes only those that were shown. A flash with the name of a
level's tag is shown as a message of that level::

    request.session.flash("error", "That did not work.")

Async code must load the session before it shows messages, for example with
``await request.auser()``, or use ``await aget_messages(request)``.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib.messages import get_messages
from django.contrib.messages.storage.base import BaseStorage, Message
from django.contrib.messages.utils import get_level_tags
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.asyncio import async_unsafe
from django.utils.safestring import SafeData, mark_safe

_NAME = "_message."  # of a flash; the underscore keeps it apart from others
_RAW = f"__flash_{_NAME}"
_MOST = 64 * 1024  # bytes of messages not yet shown

_logger = logging.getLogger("django_strategy_sessions")


async def aget_messages(request: HttpRequest) -> Any:
    """``get_messages()`` for async code. It loads the session, so templates can show messages."""
    await request.session.akeys()
    return get_messages(request)


@async_unsafe(
    "Messages are kept in the session, which this request has not loaded. In async code, load it"
    " before a template shows messages: `await request.auser()`, or"
    " `await django_strategy_sessions.messages.aget_messages(request)`."
)
def _load(session: Any) -> None:
    session.keys()


class FlashStorage(BaseStorage):
    _queued_messages: list[Message]  # BaseStorage's: messages added and not yet shown

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        if not hasattr(getattr(request, "session", None), "flash"):
            raise ImproperlyConfigured(
                "FlashStorage needs the engine of django_strategy_sessions, and SessionMiddleware"
                ' before MessageMiddleware:\nSESSION_ENGINE = "django_strategy_sessions.engine"'
            )
        super().__init__(request, *args, **kwargs)
        self._stored: dict[str, Any] = {}  # the loaded values by raw name

    def _get(self, *args: Any, **kwargs: Any) -> tuple[list[Message], bool]:
        session: Any = self.request.session
        if session.session_key and not hasattr(session, "_session_cache"):
            _load(session)
        names = list(session.keys())  # raw names, because reading those consumes nothing
        messages = []
        for name in sorted(name for name in names if name.startswith(_RAW)):
            level, text, extra_tags, safe = self._stored[name] = session[name]
            messages.append(Message(level, mark_safe(text) if safe else text, extra_tags))  # noqa: S308
        for tag, level in {tag: level for level, tag in get_level_tags().items() if tag}.items():
            if level >= self.level and (name := f"__flash_{tag}__") in names:
                self._stored[name] = session[name]
                messages.append(Message(level, session[name]))
        return messages, True

    def update(self, response: HttpResponseBase) -> list[Message]:
        """Remove the messages that were shown, and store those that were added since."""
        session: Any = self.request.session
        added = self._queued_messages
        if self.used:
            for name, value in self._stored.items():
                if session.get(name) == value:  # another request may have set a newer one
                    session.pop(name)
        else:
            # Iterating moves queued messages to the loaded ones; after `used = False` those must
            # be stored as well.
            added = [*getattr(self, "_loaded_data", [])[len(self._stored) :], *added]
        self._prepare_messages(added)  # type: ignore[attr-defined]
        now = time.time_ns()
        for position, message in enumerate(added):
            # The random part keeps two requests in the same nanosecond apart.
            name = f"{_NAME}{now:020}.{position:06}.{secrets.token_hex(4)}"
            safe = isinstance(message.message, SafeData)
            session.flash(name, [message.level, str(message.message), message.extra_tags, safe])
        if added:
            _drop_oldest(session)
        self._queued_messages = []
        return []


def _drop_oldest(session: Any) -> None:
    """Drop the oldest messages beyond a size, because a site may never show any, and the session
    must stay below ``SESSION_MAX_SIZE``."""
    names = sorted(name for name in session.keys() if name.startswith(_RAW))  # noqa: SIM118
    remaining = min(_MOST, getattr(settings, "SESSION_MAX_SIZE", 4 * _MOST) // 4)
    for position, name in enumerate(reversed(names)):
        remaining -= len(json.dumps([name, session[name]]))
        if remaining < 0 and position:
            for oldest in names[: len(names) - position]:
                session.pop(oldest)
            _log_dropped()
            return


@cache
def _log_dropped() -> None:
    """Log once per process, because from then on each new message drops another."""
    _logger.warning(
        "Dropped a visitor's oldest messages, because no page that they visited showed messages."
    )
