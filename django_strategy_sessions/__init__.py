"""A Django session engine whose storage is a pluggable strategy."""

from .storage import Cookie, Session, SessionStorage, create_session_storage
from .strategies.base import SessionStrategy, StrategyUnavailable
from .typed import EngineSession, engine_session, typed_session

__all__ = [
    "Cookie",
    "EngineSession",
    "Session",
    "SessionStorage",
    "SessionStrategy",
    "StrategyUnavailable",
    "create_session_storage",
    "engine_session",
    "typed_session",
]
__version__ = "0.1.0"
