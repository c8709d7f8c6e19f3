"""The benchmark's own settings: the same servers and options for every side."""

import os
from typing import Any

from tests.servers import database

POSTGRES_URL = os.environ["BENCHMARK_POSTGRES_URL"]
REDIS_URL = os.environ["BENCHMARK_REDIS_URL"]

SECRET_KEY = "the benchmark's own secret, of no use anywhere else: 0123456789"  # noqa: S105
USE_TZ = True
TIME_ZONE = "UTC"
ROOT_URLCONF = "benchmarks.asgi"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_strategy_sessions",
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # or it is all a login takes

PREPARED = {
    "server_side_binding": True,
    "prepare_threshold": 0,  # from the first time on
    "options": "-c synchronous_commit=off",
}
DATABASES = {
    # As Django's manual sets it up, but for connections that stay.
    "default": {**database(POSTGRES_URL), "CONN_MAX_AGE": None},
    "prepared": {**database(POSTGRES_URL, **PREPARED), "CONN_MAX_AGE": None},
    # For event loops, where each request is a thread of Django's: connections that stay would pile
    # up. As many in the pool as in ours.
    "closing": database(POSTGRES_URL),
    "pooled": database(POSTGRES_URL, pool={"min_size": 10, "max_size": 10, "timeout": 60}),
}
DATABASE_ROUTERS = ["benchmarks.settings.Router"]


class Router:
    """Sends all sides to one alias at a time."""

    alias = "default"

    def db_for_read(self, model: object, **hints: object) -> str:
        return Router.alias

    db_for_write = db_for_read


# A database number each, so that nothing of one side touches the other.
CACHES = {
    "theirs": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"{REDIS_URL}/13"},
    "ours": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"{REDIS_URL}/14"},
    "bare": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"{REDIS_URL}/15"},
}
CACHES["default"] = CACHES["theirs"]
SESSION_CACHE_ALIAS = "theirs"

# -- the sides, by store --------------------------------------------------------------------------

OURS = "django_strategy_sessions"
THEIRS = "django.contrib.sessions"
STRATEGIES: dict[str, Any] = {
    "PostgreSQL": f"{OURS}.strategies.postgres.PostgresStrategy",
    "Redis": {
        "BACKEND": f"{OURS}.strategies.redis.RedisStrategy",
        "OPTIONS": {"alias": "ours"},
    },
}
STRATEGIES["cached"] = {
    "BACKEND": f"{OURS}.strategies.cached.CachedStrategy",
    "OPTIONS": {"cache": STRATEGIES["Redis"], "store": STRATEGIES["PostgreSQL"]},
}
MOVING: dict[str, Any] = {
    store: {
        "BACKEND": f"{OURS}.strategies.moving.MovingStrategy",
        "OPTIONS": {"source": f"{THEIRS}.backends.db", "target": target, "step": "move"},
    }
    for store, target in STRATEGIES.items()
    if store != "cached"
}
ENGINES = {
    "PostgreSQL": {
        "ours": f"{OURS}.engine",
        "theirs": f"{THEIRS}.backends.db",
        "cached": f"{THEIRS}.backends.cached_db",
    },
    "Redis": {
        "ours": f"{OURS}.engine",
        "theirs": f"{THEIRS}.backends.cache",
    },
    "cached": {
        "ours": f"{OURS}.engine",
        "theirs": f"{THEIRS}.backends.cached_db",
    },
}
NAMES = {
    ("PostgreSQL", "ours"): "ours, PostgreSQL",
    ("PostgreSQL", "theirs"): "db",
    ("PostgreSQL", "cached"): "cached_db",
    ("Redis", "ours"): "ours, Redis",
    ("Redis", "theirs"): "cache",
}
SITES = {**NAMES, ("cached", "ours"): "ours, cached"}


def middleware(side: str) -> str:
    return f"{OURS if side == 'ours' else THEIRS}.middleware.SessionMiddleware"
