"""A breaker: after a failure, go on without a server for a while."""

from __future__ import annotations

import logging
import time

_logger = logging.getLogger("django_strategy_sessions")

_REST = 5.0  # seconds


class Breaker:
    """Keeps requests from waiting for a cache that does not answer."""

    def __init__(self) -> None:
        self._until = 0.0

    def is_open(self) -> bool:
        """Whether to go on without the cache. After each rest, one request tries."""
        now = time.monotonic()
        if not self._until or now < self._until:
            return bool(self._until)
        self._until = now + _REST
        return False

    def open(self, error: Exception) -> None:
        if not self._until:
            _logger.warning(
                "The cache of sessions does not answer, so the store does (%s).",
                type(error.__cause__ or error).__name__,
            )
        self._until = time.monotonic() + _REST

    def close(self) -> None:
        if self._until:
            _logger.warning("The cache of sessions answers again.")
        self._until = 0.0
