"""A Django session engine whose storage is a pluggable strategy."""

from .storage import Cookie, Session, SessionStorage, create_session_storage
from .strategies.base import SessionStrategy, StrategyUnavailable
from .typed import EngineSession, engine_session, typed_session
from .users import (
    CannotListSessions,
    UserSession,
    aend_session,
    aend_sessions,
    asessions_of,
    end_session,
    end_sessions,
    sessions_of,
)

__all__ = [
    "CannotListSessions",
    "Cookie",
    "EngineSession",
    "Session",
    "SessionStorage",
    "SessionStrategy",
    "StrategyUnavailable",
    "UserSession",
    "aend_session",
    "aend_sessions",
    "asessions_of",
    "create_session_storage",
    "end_session",
    "end_sessions",
    "engine_session",
    "sessions_of",
    "typed_session",
]
__version__ = "0.1.0"
