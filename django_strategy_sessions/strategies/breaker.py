"""A breaker: after a failure, go on without a server for a while."""

from __future__ import annotations

import logging
import time

_logger = logging.getLogger("django_strategy_sessions")

_REST = 5.0  # seconds
_SILENCE = 60.0  # seconds between two warnings, because a busy event loop also looks like an outage


class Breaker:
    """Keeps requests from waiting for a cache that does not answer.

    ``with breaker:`` swallows the `failures` of the cache, and counts anything else as an answer.
    """

    def __init__(self, *failures: type[Exception]) -> None:
        self._failures = failures
        self._until = 0.0
        self._warns_after = 0.0

    def is_open(self) -> bool:
        """Whether to go on without the cache. After each rest, one request tries."""
        now = time.monotonic()
        if not self._until or now < self._until:
            return bool(self._until)
        self._until = now + _REST
        return False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, self._failures):
            self.open(error)
            return True
        if error is None:
            self.close()
        return False

    def open(self, error: BaseException) -> None:
        now = time.monotonic()
        if not self._until and now >= self._warns_after:
            self._warns_after = now + _SILENCE
            _logger.warning(
                "The cache of sessions does not answer, so the store does (%s).",
                type(error.__cause__ or error).__name__,
            )
        self._until = now + _REST

    def close(self) -> None:
        if self._until:
            _logger.info("The cache of sessions answers again.")
        self._until = 0.0
