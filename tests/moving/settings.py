"""The suite's settings, of processes that move sessions within one database."""

from ..settings import *  # noqa: F403

SESSION_STRATEGY = {
    "BACKEND": "django_strategy_sessions.strategies.moving.MovingStrategy",
    "OPTIONS": {
        "source": "django.contrib.sessions.backends.db",
        "target": "django_strategy_sessions.strategies.database.DatabaseStrategy",
        "step": "move",
    },
}
