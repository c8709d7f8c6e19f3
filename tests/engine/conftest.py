"""Sessions that are saved and loaded again."""

from __future__ import annotations

from django_strategy_sessions.engine import SessionStore


def saved(**data):
    session = SessionStore()
    session.update(data)
    session.save()
    return SessionStore(session.session_key)


def again(session):
    return SessionStore(session.session_key)
