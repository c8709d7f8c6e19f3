"""The settings of the suite. SQLite is in a file, for threads and processes to share it."""

import os
import sys
import tempfile
from pathlib import Path

from . import servers
from .django_source import fetched

sys.path.append(str(fetched()))

_temporary = tempfile.TemporaryDirectory(prefix="strategy-sessions-")  # while this process lives
_folder = Path(_temporary.name)

SECRET_KEY = "the suite's own secret, of no use anywhere else: 0123456789abcdef"
USE_TZ = True
ROOT_URLCONF = "tests.urls"
ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",  # not needed by ours: Django's own session tests import its models
    "django_strategy_sessions",
    "messages_tests",
    "sessions_tests",
    "tests.quick_flush",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
SESSION_ENGINE = "django_strategy_sessions.engine"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        # Tests of commands hand their database to the processes that they start.
        "NAME": os.environ.get("TEST_DATABASE") or _folder / "db.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 60},
        "TEST": {"NAME": _folder / "test.sqlite3"},
    },
    # The one that tests take away.
    "down": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _folder / "down.sqlite3",
        "TEST": {"NAME": _folder / "test-down.sqlite3"},
    },
    "postgres": servers.database(servers.postgres_url()),
}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "sessions": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": servers.redis_url()},
}
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
