"""The example site: Django as it comes, and the settings that make sessions ours."""

import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent

# -- what django-strategy-sessions needs ----------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",  # only for the other side of the race
    "django.contrib.staticfiles",
    "django_strategy_sessions",
    "example_project.docs",
    "example_project.outage",
    "example_project.race",
    "example_project.shop",
]
SESSION_ENGINE = "django_strategy_sessions.engine"
SESSION_SIGN_INS = True  # for the page /devices/
MIDDLEWARE = [
    "example_project.shop.middleware.LastRequestMiddleware",  # only for the page /session/
    "django.middleware.security.SecurityMiddleware",
    "django_strategy_sessions.middleware.SessionMiddleware",
    "example_project.race.middleware.DjangosSessionMiddleware",  # only for /race/django/
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# -- the store: SQLite, or the one that EXAMPLE_STORE names by its URL ----------------------------

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("EXAMPLE_DATABASE") or BASE_DIR / "db.sqlite3",
        # Several tabs at once: writers wait for each other, readers wait for nobody.
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    },
}
STORE = "SQLite"
STRATEGY = "django_strategy_sessions.strategies.database.DatabaseStrategy"
OPTIONS = {}
DJANGOS_ENGINE = "django.contrib.sessions.backends.db"

_url = urlsplit(os.environ.get("EXAMPLE_STORE", ""))
if _url.scheme in {"postgresql", "postgres"}:
    STORE = f"PostgreSQL at {_url.hostname}:{_url.port or 5432}"
    STRATEGY = "django_strategy_sessions.strategies.postgres.PostgresStrategy"
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(_url.path.lstrip("/")),
        "USER": unquote(_url.username or ""),
        "PASSWORD": unquote(_url.password or ""),
        "HOST": _url.hostname or "",
        "PORT": str(_url.port or ""),
        "OPTIONS": dict(parse_qsl(_url.query)),  # sslmode, for one
    }
elif _url.scheme in {"redis", "rediss", "valkey", "valkeys"}:
    _kind = "Valkey" if _url.scheme.startswith("valkey") else "Redis"
    STORE = f"{_kind} at {_url.hostname}:{_url.port or 6379}"
    STRATEGY = "django_strategy_sessions.strategies.redis.RedisStrategy"
    OPTIONS = {"alias": "sessions"}
    DJANGOS_ENGINE = "django.contrib.sessions.backends.cache"
    SESSION_CACHE_ALIAS = "sessions"  # Django's engine
    CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "sessions": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": _url.geturl().replace("valkey", "redis", 1),  # one protocol
        },
    }
elif _url.geturl():
    raise ImproperlyConfigured("EXAMPLE_STORE must begin with postgresql://, redis:// or valkey://")

# STRATEGY with a switch. Without one, STRATEGY would be the backend.
SESSION_STRATEGY = {
    "BACKEND": "example_project.outage.strategy.SwitchedStrategy",
    "OPTIONS": OPTIONS,
}

# -- a small site for one machine; none of this is for production ---------------------------------

SECRET_KEY = "of-the-example-site-and-public: never use it anywhere else"  # noqa: S105
DEBUG = False  # an outage shows the site's own page, as in production
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
ASGI_APPLICATION = "example_project.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "shop"
LOGOUT_REDIRECT_URL = "shop"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],  # replace those of django_strategy_sessions
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
